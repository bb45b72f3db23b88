"""NFM and AGOP of one layer in a common basis that is as small as possible."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..checks import wrong
from ..numerics.factorizations import orthonormal, spectrum
from ..numerics.kernel import kernel, measurable
from ..problem.losses import Loss
from .agop import Samples, jacobian_sum
from .jacobian_sums import jacobian_sum_kind
from .layer import Layer, find_layer, is_sequential, is_tied, layer_weight, unfolded, weighted_layers


class FeaturePair(eqx.Module):
    """NFM = Q VᵀV Qᵀ, and AGOP = Q FᵀF Qᵀ by its factor F or assembled, with orthonormal columns Q (or Q = I).

    Both live in the span of the rows of W_l (and of its change), so that many coordinates hold them exactly.
    `resolution` is the size of rounding errors in F.
    """

    V: Float[Array, "p r"]
    F: Float[Array, "q r"] | None
    G: Float[Array, "r r"] | None
    Q: Float[Array, "d r"] | None
    resolution: Float[Array, ""]

    @property
    def nfm(self) -> Float[Array, "r r"]:
        return self.V.T @ self.V

    @property
    def inputs(self) -> int:
        """The size d of the matrices in full."""
        return self.V.shape[1] if self.Q is None else self.Q.shape[0]

    def entries(self, M: Float[Array, "r r"]) -> tuple[Float[Array, ""], Float[Array, " d"]]:
        """The sum of all entries of Q M Qᵀ, and its diagonal."""
        if self.Q is None:
            return jnp.sum(M), jnp.diagonal(M)
        ones = self.Q.sum(axis=0)
        return ones @ M @ ones, jnp.sum((self.Q @ M) * self.Q, axis=1)

    def spectrum(self) -> tuple[Float[Array, " k"], Float[Array, "k r"]]:
        """(s, Vᵀ): singular values and right singular vectors of F. The eigenvalues of AGOP are s²."""
        assert self.F is not None
        return spectrum(self.F)

    def is_undefined(self, size: Float[Array, ""]) -> Bool[Array, ""]:
        """Whether AGOP or NFM is zero to working precision, so that its entries are rounding errors.

        AGOP: its factor, of this `size`, is not larger than the rounding errors of the products of weights in it. NFM:
        ‖V‖² ≤ machine epsilon, as after weight decay has brought all weights to zero.
        """
        return (size <= self.resolution) | (jnp.sum(self.V**2) <= jnp.finfo(self.V.dtype).eps)


def feature_pair(
    net: Any,
    data: Samples,
    layer: Layer,
    *,
    factor: bool = True,
    reduce: bool = True,
    centered: bool = False,
    loss: Loss | None = None,
    initial: Float[Array, "_ _"] | None = None,
    agop_of_change: bool = False,
) -> FeaturePair:
    """The pair for layer `layer`; arguments as in `agop` and `alignment`.

    **Arguments:** `factor`: with the factor F of AGOP, or with AGOP assembled; `reduce`: to a small basis.
    """
    net, kind = measurable(net), jacobian_sum_kind(factor=factor, centered=centered)
    cheapest = not agop_of_change
    total, W = jacobian_sum(net, data, kind, layer=layer, loss=loss, where_cheapest=cheapest)
    weight, resolution = layer_weight(net, layer), _resolution(net, find_layer(net, layer))
    if agop_of_change and find_layer(net, layer) is None:
        raise wrong("layer", "a layer with weights (name it by a function)", f"the input of a {type(net).__name__}")
    if W is None and total.shape[1] != weight.shape[1]:
        must_be = f"named by a function, because the first layer of this {type(net).__name__} is not at its input"
        raise wrong("layer", must_be, layer)
    return _pair(total, W, weight, initial, resolution, factor, reduce, agop_of_change)


@kernel
def _pair(
    total: Float[Array, "q k"],
    W: Float[Array, "k d"] | None,
    weight: Float[Array, "p d"],
    initial: Float[Array, "_ _"] | None,
    resolution: Float[Array, ""],
    factor: bool,
    reduce: bool,
    agop_of_change: bool,
) -> FeaturePair:
    if initial is not None and initial.shape != weight.shape:
        raise wrong("initial", f"a network with a layer of shape {weight.shape}", f"one of shape {initial.shape}")
    V = weight if initial is None else weight - initial
    U = V if agop_of_change and W is not None else W
    rows = V if U is V or initial is None else jnp.concatenate([weight, initial])
    Q = None
    if reduce and U is not None and len(rows) < weight.shape[1]:
        Q = orthonormal(rows.T)
        V, U = V @ Q, U @ Q
    F = total if U is None else (total @ U if factor else U.T @ total @ U)
    return FeaturePair(V, F if factor else None, None if factor else F, Q, resolution)


def _resolution(net: Any, position: int | None) -> Float[Array, ""]:
    """Machine epsilon times the size Π‖W_j‖ of the weights from this layer on, and never too small to be squared."""
    weights = [unfolded(each.weight) for each in weighted_layers(net)[position or 0 :] if not is_tied(each)]
    info = jnp.finfo(jnp.result_type(*weights))
    size = jnp.prod(jnp.stack([jnp.linalg.norm(each) for each in weights])) if is_sequential(net) else 0.0
    return jnp.maximum(jnp.asarray(info.eps * size, info.dtype), jnp.sqrt(info.tiny))
