"""How well the Neural Feature Ansatz NFM ∝ AGOP^power holds."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..checks import require_choice, require_integer, require_number
from ..data import Dataset
from .feature_pair import FeaturePair, feature_pair

METRICS = ("cosine", "pearson", "relative_error", "fixed_scale_error")


class Alignment(eqx.Module):
    """The observable `(net, data) -> scalar` that `alignment` makes."""

    power: float | Float[Array, ""]
    metric: str = eqx.field(static=True)
    layer: int = eqx.field(static=True)

    @jax.default_matmul_precision("highest")
    def __call__(self, net: Any, data: Dataset | Float[Array, "n d"]) -> Float[Array, ""]:
        pair = feature_pair(net, data, self.layer)
        s, Vt = pair.spectrum()
        top = s[0] if self.metric == "fixed_scale_error" else 1.0
        # Scaled by the top singular value, so that no power can overflow or underflow it.
        root = top ** (2 * self.power) * (Vt.T * (s / s[0]) ** (2 * self.power)) @ Vt
        return jnp.where(pair.is_undefined(s), jnp.nan, _compare(pair, root, self.metric))


def alignment(power: float | Float[Array, ""], *, metric: str = "cosine", layer: int = 1) -> Alignment:
    """How well NFM = W_lᵀW_l agrees with AGOP^power, as an observable `(net, data) -> scalar`.

    With N = NFM, A = AGOP^power and the Frobenius inner product ⟨·,·⟩:
    - "cosine": ⟨N,A⟩ / (‖N‖‖A‖), in [0, 1]. Insensitive: .9994 is an error of 3.5 %, and untrained networks already
      score between .15 and .9; report the value at t = 0 beside it.
    - "pearson": the correlation between the entries of N and A, in [−1, 1]; NaN if those of either are all equal.
    - "relative_error": min_c ‖N − cA‖ / ‖N‖ = √(1 − cosine²), in [0, 1], computed without that cancellation.
    - "fixed_scale_error": ‖N − A‖ / ‖N‖ ≥ 0, the constant being 1 as for exactly balanced linear networks.

    A is taken from the singular values of a factor of AGOP, to the power 2·power, never from an assembled AGOP.
    Where AGOP or NFM is zero to working precision the ansatz is 0/0 and the result is NaN: where the factor of AGOP is
    lost in the rounding of the weights it is made of, or ‖W_l‖² is at most machine epsilon.

    **Arguments:** `power`: α > 0 (1/L for L balanced linear layers); `metric`; `layer`: l = 1 … L.
    **Returns:** an observable; call it on an `MLP`, or for layer 1 on any module whose `layers` hold
    `equinox.nn.Linear`s, with a `Dataset` or an array of samples.
    **Raises:** ValueError for power ≤ 0, an unknown metric, or layer < 1.
    **Source:** Radhakrishnan et al. 2024; Tansley, Massart & Cartis 2026.
    """
    require_number("power", power, above=0)
    require_choice("metric", metric, METRICS)
    require_integer("layer", layer, at_least=1)
    return Alignment(power, metric, layer)


def _compare(pair: FeaturePair, A: Float[Array, "r r"], metric: str) -> Float[Array, ""]:
    N = pair.nfm
    if metric == "pearson":
        mean = lambda M: pair.ones @ M @ pair.ones / pair.inputs**2
        covariance = lambda M, K: jnp.sum(M * K) - pair.inputs**2 * mean(M) * mean(K)
        var_N, var_A = covariance(N, N), covariance(A, A)
        # A matrix of equal entries has no correlation: what is left of its variance are rounding errors.
        eps = jnp.finfo(N.dtype).eps
        flat = (var_N <= 100 * eps * jnp.sum(N**2)) | (var_A <= 100 * eps * jnp.sum(A**2))
        return jnp.where(flat, jnp.nan, covariance(N, A) / jnp.sqrt(var_N * var_A))
    if metric == "fixed_scale_error":
        return jnp.linalg.norm(N - A) / jnp.linalg.norm(N)
    if metric == "relative_error":
        return jnp.linalg.norm(N - (jnp.sum(N * A) / jnp.sum(A * A)) * A) / jnp.linalg.norm(N)
    return jnp.sum(N * A) / (jnp.linalg.norm(N) * jnp.linalg.norm(A))
