"""The exponent that fits the Neural Feature Ansatz best."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .agop import Samples
from .layer import Layer, layer_weight
from .spectra import AlongAgop, spectrum_along_agop


class ExponentFit(NamedTuple):
    """A straight line through (log eigenvalue of AGOP, log eigenvalue of NFM).

    `exponent`: its slope α̂; `log_constant`: its intercept; `residual`: root mean square distance in natural log;
    `directions`: the number of eigenvectors in the fit; `standard_error`: of the slope, if the distances were
    independent (infinite for fewer than three directions); `spread`: standard deviation of the log eigenvalues of AGOP
    in the fit.
    """

    exponent: Float[Array, ""]
    log_constant: Float[Array, ""]
    residual: Float[Array, ""]
    directions: Int[Array, ""]
    standard_error: Float[Array, ""]
    spread: Float[Array, ""]


def fit_exponent(net: Any, data: Samples, *, layer: Layer = 1) -> ExponentFit:
    """Fit α in NFM ∝ AGOP^α: the slope of log vᵀ NFM v against log vᵀ AGOP v over the eigenvectors v of AGOP.

    Directions are left out if their singular value of the Jacobian factor (r × k) is less than 100·max(r, k) rounding
    errors of the largest one. The slope is NaN ("undefined") if fewer than two directions with different eigenvalues
    remain, as for a linear network with one output, whose AGOP has rank one. Differentiable once, if the eigenvalues
    are distinct.

    **Arguments:** as in `agop`. The function is an observable.
    **Returns:** an `ExponentFit` of scalars.
    **Source:** Tansley, Massart & Cartis 2026 (the exponent); the common-basis fit is ours.
    """
    values = spectrum_along_agop(net, data, layer)
    return _fit(values, jnp.sum(layer_weight(net, layer) ** 2))


@eqx.filter_jit
def _fit(values: AlongAgop, size: Float[Array, ""]) -> ExponentFit:
    use = values.resolved & (values.nfm_along_agop > 0) & (size > jnp.finfo(size.dtype).eps)
    return fit_power_law(values.agop, values.nfm_along_agop, use)


def fit_power_law(x: Float[Array, " k"], y: Float[Array, " k"], use: Bool[Array, " k"]) -> ExponentFit:
    """The line through (log x, log y) of the entries to `use`, which are positive."""
    log_x, log_y = (jnp.where(use, jnp.log(jnp.where(use, v, 1)), 0) for v in (x, y))
    directions = jnp.sum(use)
    count = directions.astype(x.dtype)
    mean_x, mean_y = jnp.sum(log_x) / count, jnp.sum(log_y) / count
    centered_x, centered_y = (jnp.where(use, v - m, 0) for v, m in ((log_x, mean_x), (log_y, mean_y)))
    sum_xx = jnp.sum(centered_x**2)
    # Equal eigenvalues leave a spread of rounding errors only, which no slope may rest on.
    slope = jnp.where(sum_xx > 1e4 * jnp.finfo(x.dtype).eps, jnp.sum(centered_x * centered_y) / sum_xx, jnp.nan)
    squares = jnp.sum((centered_y - slope * centered_x) ** 2)
    degrees = jnp.where(count > 2, count - 2, 0)
    return ExponentFit(
        exponent=slope,
        log_constant=mean_y - slope * mean_x,
        residual=jnp.sqrt(squares / count),
        directions=directions,
        standard_error=jnp.where(degrees > 0, jnp.sqrt(squares / jnp.maximum(degrees, 1) / sum_xx), jnp.inf + slope),
        spread=jnp.sqrt(sum_xx / count),
    )
