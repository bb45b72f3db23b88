"""The exponent with which the Neural Feature Ansatz fits best."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..data import Dataset
from .feature_pair import feature_pair


class ExponentFit(NamedTuple):
    """A straight line through (log eigenvalue of AGOP, log eigenvalue of NFM).

    `exponent`: its slope α̂; `log_constant`: its intercept; `residual`: root mean square distance in natural log;
    `directions`: the number of eigenvectors it rests on.
    """

    exponent: Float[Array, ""]
    log_constant: Float[Array, ""]
    residual: Float[Array, ""]
    directions: Int[Array, ""]


@jax.default_matmul_precision("highest")  # a GPU would otherwise multiply float32 in TF32, with three digits
def fit_exponent(net: Any, x: Dataset | Float[Array, "n d"], *, layer: int = 1) -> ExponentFit:
    """Fit α in NFM ∝ AGOP^α: the slope of log vᵀ NFM v against log vᵀ AGOP v over the eigenvectors v of AGOP.

    Directions whose singular value of the Jacobian factor is within a hundred rounding errors of zero are left out.
    The slope is NaN ("undefined") when fewer than two directions with different eigenvalues remain: for example for a
    linear network with one output, whose AGOP has rank one.

    **Arguments:** as in `agop`; an observable as it is.
    **Returns:** an `ExponentFit` of scalars.
    **Source:** Tansley, Massart & Cartis 2026 (the exponent); the common-basis fit is ours.
    """
    pair = feature_pair(net, x, layer)
    s, Vt = pair.spectrum()
    eps = jnp.finfo(s.dtype).eps
    along = jnp.sum((Vt @ pair.W.T) ** 2, axis=1)
    use = (s > 100 * eps * max(pair.F.shape) * s[0]) & (along > 0) & ~pair.is_undefined(s)
    log_a, log_n = (jnp.where(use, jnp.log(jnp.where(use, v, 1)), 0) for v in (s**2, along))
    count = jnp.sum(use)
    mean_a, mean_n = jnp.sum(log_a) / count, jnp.sum(log_n) / count
    centred_a, centred_n = (jnp.where(use, v - m, 0) for v, m in ((log_a, mean_a), (log_n, mean_n)))
    spread = jnp.sum(centred_a**2)
    # Equal eigenvalues leave a spread of rounding errors only, which no slope may rest on.
    slope = jnp.where(spread > 1e4 * eps, jnp.sum(centred_a * centred_n) / spread, jnp.nan)
    residual = jnp.sqrt(jnp.sum((centred_n - slope * centred_a) ** 2) / count)
    return ExponentFit(slope, mean_n - slope * mean_a, residual, count)
