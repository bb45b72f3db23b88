"""NFM and AGOP of one layer in a common basis that is no larger than it must be."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..data import Dataset
from .agop import preactivation_factor
from .nfm import layer_weight


class FeaturePair(eqx.Module):
    """Factors of NFM = Q WᵀW Qᵀ and AGOP = Q FᵀF Qᵀ, with orthonormal columns Q that are not kept.

    Both matrices live in the row space of W_l, so r = min(h, d) coordinates hold them exactly. `ones` is Qᵀ(1, …, 1),
    which is all that correlations over entries need besides.
    """

    W: Float[Array, "p r"]
    F: Float[Array, "q r"]
    ones: Float[Array, " r"]
    inputs: int = eqx.field(static=True)

    @property
    def nfm(self) -> Float[Array, "r r"]:
        return self.W.T @ self.W

    def spectrum(self) -> tuple[Float[Array, " k"], Float[Array, "k r"]]:
        """(s, Vᵀ): singular values and right singular vectors of F. The eigenvalues of AGOP are s²."""
        _, s, Vt = jnp.linalg.svd(self.F, full_matrices=False)
        return s, Vt

    def is_undefined(self, s: Float[Array, " k"]) -> Bool[Array, ""]:
        """Whether AGOP or NFM is zero to working precision: the top singular value of F or W is below epsilon.

        A relation between two such matrices is 0/0, for what is left of them is rounding and integration error.
        """
        return (s[0] <= jnp.finfo(s.dtype).eps) | (jnp.linalg.norm(self.W) <= jnp.finfo(s.dtype).eps)


def feature_pair(net: Any, data: Dataset | Float[Array, "n d"], layer: int) -> FeaturePair:
    """The pair for layer `layer`; arguments as in `agop`."""
    R, factored = preactivation_factor(net, data, layer=layer)
    W = layer_weight(net, layer)
    width, inputs = W.shape
    if factored is None or width >= inputs:
        return FeaturePair(W, R if factored is None else R @ W, jnp.ones(inputs, W.dtype), inputs)
    Q, T = jnp.linalg.qr(W.T)
    return FeaturePair(T.T, R @ T.T, Q.sum(axis=0), inputs)
