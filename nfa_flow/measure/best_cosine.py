"""How well the Neural Feature Ansatz holds at the best exponent for a network."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .agop import Samples
from .feature_pair import FeaturePair, feature_pair
from .layer import Layer


class BestCosine(NamedTuple):
    """The largest cosine over all exponents, the relative error there, and that exponent."""

    cosine: Float[Array, ""]
    relative_error: Float[Array, ""]
    exponent: Float[Array, ""]


def best_cosine(net: Any, data: Samples, *, layer: Layer = 1) -> BestCosine:
    """The largest cosine between NFM and AGOP^α over all α > 0, and the relative error there: no exponent does better.

    If the remaining error is large, the ansatz fails for the network at every exponent. The largest of 257 cosines, at
    exponents equally spaced in arctan α from the limit α → 0 to α → ∞, is refined on four grids, to 1e-7 in arctan α
    and, because the cosine is flat at its maximum, to 1e-10 in the cosine. A peak between two points of the first grid
    would be missed. Directions that `fit_exponent` leaves out because of rounding are zero at every exponent.

    **Arguments:** as in `agop`. The function is an observable.
    **Returns:** a `BestCosine`. The exponent is 0 if the limit α → 0 is best, and NaN if all exponents are equally
    good, as for an AGOP of rank one. All three are NaN if NFM or AGOP is zero to working precision.
    **Source:** the ansatz: Radhakrishnan et al. 2024; that it can fail at every α: Tansley, Massart & Cartis 2026.
    """
    return _best(feature_pair(net, data, layer))


@eqx.filter_jit
def _best(pair: FeaturePair) -> BestCosine:
    s, Vt = pair.spectrum()
    assert pair.F is not None
    resolved = (s > 100 * jnp.finfo(s.dtype).eps * max(pair.F.shape) * s[0]) & (s[0] > 0)
    logs = jnp.where(resolved, jnp.log(jnp.where(resolved, s / s[0], 1)), 0)
    N, along = pair.nfm, jnp.sum((Vt @ pair.V.T) ** 2, axis=1)
    powers = lambda angle: jnp.where(resolved, jnp.exp(2 * jnp.tan(angle) * logs), 0)

    def cosine(angle: Float[Array, ""]) -> Float[Array, ""]:
        return along @ powers(angle) / (jnp.linalg.norm(N) * jnp.linalg.norm(powers(angle)))

    # Short of π/2, which float32 rounds up to where the tangent is negative. At 10⁶ a power is its limit.
    angle = _highest(cosine, 0.0, np.pi / 2 - 1e-6)
    A = (Vt.T * powers(angle)[None]) @ Vt
    error = jnp.linalg.norm(N - jnp.sum(N * A) / jnp.sum(A * A) * A) / jnp.linalg.norm(N)
    distinct = jnp.any(logs < -1e-8)
    undefined = pair.is_undefined(s[0])
    defined = lambda value: jnp.where(undefined, jnp.nan, value)
    return BestCosine(defined(cosine(angle)), defined(error), defined(jnp.where(distinct, jnp.tan(angle), jnp.nan)))


def _highest(function: Callable[[Array], Array], low: float, high: float) -> Float[Array, ""]:
    """Where a function is largest on an interval: on a grid, and then on finer ones between the neighbors."""
    step = (high - low) / 256
    points = jnp.linspace(low, high, 257)
    best = points[0]
    for _ in range(5):
        best = points[jnp.argmax(jax.vmap(function)(points))]
        points, step = jnp.clip(best + jnp.linspace(-step, step, 33), low, high), step / 16
    return best
