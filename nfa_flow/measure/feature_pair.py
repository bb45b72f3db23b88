"""NFM and AGOP of one layer in a common basis that is no larger than it must be."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..data import Dataset
from ..nets import MLP
from .agop import preactivation_factor
from .nfm import layer_weight


class FeaturePair(eqx.Module):
    """Factors of NFM = Q WᵀW Qᵀ and AGOP = Q FᵀF Qᵀ, with orthonormal columns Q that are not kept.

    Both matrices live in the row space of W_l, so r = min(h, d) coordinates hold them exactly. `ones` is Qᵀ(1, …, 1),
    which is all that correlations over entries need besides. `resolution` is what rounding may leave of F where it
    vanishes.
    """

    W: Float[Array, "p r"]
    F: Float[Array, "q r"]
    ones: Float[Array, " r"]
    resolution: Float[Array, ""]
    inputs: int = eqx.field(static=True)

    @property
    def nfm(self) -> Float[Array, "r r"]:
        return self.W.T @ self.W

    def spectrum(self) -> tuple[Float[Array, " k"], Float[Array, "k r"]]:
        """(s, Vᵀ): singular values and right singular vectors of F. The eigenvalues of AGOP are s²."""
        _, s, Vt = jnp.linalg.svd(self.F, full_matrices=False)
        return s, Vt

    def is_undefined(self, s: Float[Array, " k"]) -> Bool[Array, ""]:
        """Whether AGOP or NFM is zero to working precision, so that what is left of them are errors of computation.

        AGOP: F is lost in the rounding of the products of weights that it comes from. NFM: ‖W‖² ≤ machine epsilon, as
        of a network that weight decay has brought to zero.
        """
        return (s[0] <= self.resolution) | (jnp.sum(self.W**2) <= jnp.finfo(s.dtype).eps)


@jax.default_matmul_precision("highest")  # a GPU would otherwise multiply float32 in TF32, with three digits
def feature_pair(net: Any, data: Dataset | Float[Array, "n d"], layer: int) -> FeaturePair:
    """The pair for layer `layer`; arguments as in `agop`."""
    R, factored = preactivation_factor(net, data, layer=layer)
    W = layer_weight(net, layer)
    width, inputs = W.shape
    resolution = _resolution(net, layer, W)
    if factored is None or width >= inputs:
        return FeaturePair(W, R if factored is None else R @ W, jnp.ones(inputs, W.dtype), resolution, inputs)
    Q, T = jnp.linalg.qr(W.T)
    return FeaturePair(T.T, R @ T.T, Q.sum(axis=0), resolution, inputs)


def _resolution(net: Any, layer: int, W: Float[Array, "k h"]) -> Float[Array, ""]:
    """Machine epsilon times the size Π‖W_j‖ of the weights from this layer on; at least what can be squared."""
    info = jnp.finfo(W.dtype)
    size = jnp.zeros((), W.dtype)
    if isinstance(net, MLP):
        size = jnp.prod(jnp.stack([jnp.linalg.norm(each) for each in net.weights[layer - 1 :]]))
    return jnp.maximum(info.eps * size, jnp.sqrt(info.tiny))
