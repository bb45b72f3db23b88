"""Angles between the leading eigenspaces of NFM and AGOP, and to the true index space.

Between subspaces with orthonormal bases A and B the cosines of the principal angles are the singular values of AᵀB, the
sines those of (I − AAᵀ)B. The cosine does not resolve small angles, nor the sine angles near π/2; the arctangent of
both is accurate everywhere.

The scores of untrained networks are means ± standard deviations over 64 draws of a relu network 20-64-64-1 (Gaussian
weights over √fan_in) on 500 Gaussian samples.

Source: Björck & Golub 1973; Knyazev & Argentati 2002.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..checks import require_choice, require_integer, wrong
from ..data import Dataset
from ..numerics.factorizations import spectrum
from ..numerics.kernel import kernel
from .agop import Samples
from .feature_pair import FeaturePair, feature_pair
from .layer import Layer, by_code, layer_weight


def principal_angles(net: Any, data: Samples, *, rank: int, layer: Layer = 1) -> Float[Array, " rank"]:
    """Principal angles between the spaces of the `rank` leading eigenvectors of NFM and of AGOP, increasing.

    In radians, between 0 and π/2; all zero if the ansatz NFM ∝ AGOP^α holds, for any α. NaN if one of the spaces is
    undefined up to rounding: it has fewer than `rank` eigenvalues above zero, or the next eigenvalue is equal to the
    last one. Untrained networks at rank 2: 0.8 ± 0.2 and 1.3 ± 0.2.

    **Arguments:** `net`, `data`, `layer`: as in `agop`; `rank`: the dimension of the spaces, at most the layer's
    fan-in, static. For an observable use `equinox.Partial(principal_angles, rank=2)`.
    **Returns:** one angle per dimension, with forward derivatives only (`jax.jvp`).
    **Raises:** as `agop`; ValueError naming `rank`.
    **Source:** Björck & Golub 1973; Knyazev & Argentati 2002.
    """
    require_integer("rank", rank, at_least=1)
    return _angles(_pair(net, data, rank, layer), rank)


class SubspaceOverlap(eqx.Module):
    """The observable `(net, data) -> scalar` that `subspace_overlap` makes."""

    rank: int = eqx.field(static=True)
    layer: Layer = eqx.field(static=True, converter=by_code)

    def __check_init__(self):
        require_integer("rank", self.rank, at_least=1)

    def __call__(self, net: Any, data: Samples) -> Float[Array, ""]:
        return _overlap(_pair(net, data, self.rank, self.layer), self.rank)


def subspace_overlap(rank: int, *, layer: Layer = 1) -> SubspaceOverlap:
    """The mean cos² of the principal angles between the leading eigenspaces of NFM and AGOP, in [0, 1].

    Independent random subspaces of R^d have rank/d on average. AGOP = WᵀKW is not independent of NFM = WᵀW: untrained
    networks score 0.29 ± 0.13 at rank 2, while independent spaces would score 2/20. NaN if `principal_angles` are NaN.

    **Arguments:** `rank`, `layer`: as in `principal_angles`.
    **Returns:** an observable `(net, data) -> scalar`.
    **Raises:** ValueError naming `rank`.
    **Source:** Björck & Golub 1973 (the angles).
    """
    return SubspaceOverlap(rank, layer)


def index_angles(net: Any, data: Dataset, *, of: str = "agop", layer: Layer = 1) -> Float[Array, " rank"]:
    """Principal angles between the true index space of the data and as many leading eigenvectors, increasing.

    In radians, between 0 and π/2; zero if the network depends only on those directions of the inputs on which the
    targets depend. NaN if the eigenspace is undefined up to rounding, as in `principal_angles`. Untrained networks, for
    two of 20 inputs: 1.2 ± 0.1 and 1.4 ± 0.1 for either matrix.

    **Arguments:** `net`, `layer`: as in `agop`, for a layer applied to the inputs; `data`: with an `index`, whose
    columns span that space; `of`: "agop" or "nfm".
    **Returns:** one angle per column of `data.index`.
    **Raises:** as `agop`; ValueError naming `data`, `of` or `layer`.
    **Source:** Björck & Golub 1973; Knyazev & Argentati 2002.
    """
    require_choice("of", of, ("agop", "nfm"))
    if not isinstance(data, Dataset) or data.index is None or data.index.shape[1] == 0:
        raise wrong("data", "a `Dataset` with an `index`", f"a {type(data).__name__} without one")
    if of == "agop":
        pair = feature_pair(net, data, layer, reduce=False)
    else:
        W = layer_weight(net, layer)
        pair = FeaturePair(W, W, None, None, jnp.zeros((), W.dtype))  # with NFM in the place of AGOP
    assert pair.F is not None
    if pair.F.shape[1] != data.inputs:
        raise wrong("layer", f"one that is applied to the {data.inputs} inputs", f"one of fan-in {pair.F.shape[1]}")
    return _angles_to(data.index, pair)


def _pair(net: Any, data: Samples, rank: int, layer: Layer) -> FeaturePair:
    pair = feature_pair(net, data, layer)
    if rank > pair.inputs:
        raise wrong("rank", f"at most the layer's fan-in, {pair.inputs}", rank)
    return pair


@kernel
def _angles(pair: FeaturePair, rank: int) -> Float[Array, " rank"]:
    if rank > pair.V.shape[1]:  # more than the weights have rows
        return jnp.full(rank, jnp.nan, pair.V.dtype)
    (A, one), (B, other) = _leading_of_nfm(pair, rank), _leading_of_agop(pair, rank)
    return jnp.where(one & other, _angles_between(A, B), jnp.nan)


@kernel
def _overlap(pair: FeaturePair, rank: int) -> Float[Array, ""]:
    (A, one), (B, other) = _leading_of_nfm(pair, rank), _leading_of_agop(pair, rank)
    return jnp.where(one & other, jnp.sum((A.T @ B) ** 2) / rank, jnp.nan)


@kernel
def _angles_to(index: Float[Array, "d rank"], pair: FeaturePair) -> Float[Array, " rank"]:
    basis, defined = _leading_of_agop(pair, index.shape[1])
    return jnp.where(defined, _angles_between(basis, index), jnp.nan)


def _leading_of_nfm(pair: FeaturePair, rank: int) -> tuple[Float[Array, "r rank"], Bool[Array, ""]]:
    """A basis of the leading eigenspace, and whether it is defined."""
    s, Vt = spectrum(pair.V)
    return _leading(s, Vt, max(pair.V.shape), rank)


def _leading_of_agop(pair: FeaturePair, rank: int) -> tuple[Float[Array, "r rank"], Bool[Array, ""]]:
    assert pair.F is not None
    s, Vt = pair.spectrum()
    basis, defined = _leading(s, Vt, max(pair.F.shape), rank)
    return basis, defined & ~pair.is_undefined(s[0])


def _leading(
    s: Float[Array, " k"], Vt: Float[Array, "k r"], size: int, rank: int
) -> tuple[Float[Array, "r rank"], Bool[Array, ""]]:
    rounding = 100 * jnp.finfo(s.dtype).eps * size * s[0]
    s = jnp.pad(s, (0, rank + 1))  # the one after the last is zero
    Vt = jnp.pad(Vt, ((0, rank), (0, 0)))
    return Vt[:rank].T, s[rank - 1] - s[rank] > rounding


def _angles_between(A: Float[Array, "d rank"], B: Float[Array, "d rank"]) -> Float[Array, " rank"]:
    across = A.T @ B
    cosines, sines = spectrum(across)[0], spectrum(B - A @ across)[0]
    return jnp.arctan2(sines[::-1], cosines)
