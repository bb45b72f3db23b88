"""The canonical representation hypothesis: representations, gradients and weights of a layer are aligned.

On either side of a layer three positive semi-definite matrices are compared in pairs. None of them is formed: with
factors, A = FᵀF and B = HᵀH, their inner product is ‖F Hᵀ‖², the eigenvalues of B are the squared singular values of H,
and vᵀAv = ‖Fv‖². This keeps the small eigenvalues, on which the exponents of power laws depend.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..checks import wrong
from ..data import Dataset
from ..numerics.factorizations import spectrum, triangle_with
from ..numerics.kernel import kernel
from ..problem.losses import Loss, loss_or_default
from ..run.observation import from_run
from .agop import MEMORY
from .exponent import ExponentFit, fit_power_law
from .layer import Layer
from .layer_statistics import LayerRows, LayerStream, layer_stream


class Relation(NamedTuple):
    """How well A ∝ B holds (`cosine`, `pearson`), and A ∝ B^α for the exponent α that fits best (`fit`).

    `cosine`: ⟨A,B⟩ / (‖A‖‖B‖) in [0, 1]; `pearson`: the correlation between all entries of A and B, in [−1, 1]; `fit`:
    the line through (log vᵀBv, log vᵀAv) over the eigenvectors v of B, with exponent 1 if A ∝ B.
    """

    cosine: Float[Array, ""]
    pearson: Float[Array, ""]
    fit: ExponentFit


class CRH(NamedTuple):
    """The relations between representations R, gradients G and weights Z at the input and the output of a layer.

    `rga`: A = R against B = G; `gwa`: A = G against B = Z; `rwa`: A = R against B = Z.
    """

    input_rga: Relation
    input_gwa: Relation
    input_rwa: Relation
    output_rga: Relation
    output_gwa: Relation
    output_rwa: Relation


@from_run("loss")
def crh(net: Any, data: Dataset, *, layer: Layer = 1, loss: Loss | None = None, memory: int = MEMORY) -> CRH:
    """The six relations of the canonical representation hypothesis for a layer z = W h + b, as an observable.

    | | representations R | gradients G | weights Z |
    |---|---|---|---|
    | input, h | E[h hᵀ] | E[∇_h ℓ ∇_h ℓᵀ], ∇_h ℓ = Wᵀ ∇_z ℓ | WᵀW |
    | output, z | E[z zᵀ] | E[∇_z ℓ ∇_z ℓᵀ] | WWᵀ |

    Nothing is centered. E is the mean over samples, weighted if the data have weights; for a convolution, whose h are
    patches, also over positions. The hypothesis (CRH) is R ∝ G ("rga"), G ∝ Z ("gwa") and R ∝ Z ("rwa") on both sides.
    If it fails, power laws may hold instead (polynomial alignment, PAH), whose exponents are fitted with the second
    matrix as the base: R ∝ G^α, G ∝ Z^α, R ∝ Z^α.

    A relation is NaN ("undefined") if one of its matrices vanishes to working precision: W as in `alignment`, gradients
    if the network fits its targets up to rounding. Fits leave out directions in which either matrix is within a hundred
    rounding errors of zero, and are NaN if there are no two different eigenvalues. Derivatives exist in forward mode
    only.

    The layer's own map z = W h connects the two sides: whitened inputs and W alone give output_rwa, evenly distributed
    ∇_z ℓ give input_gwa. So untrained networks have high scores on these two, with exponents of about 1; the exponents
    of the others are about 0. Cosines of a 50-50-50-10 tanh network on 100 standard normal samples and targets, median
    of 20, in layer 1 and 2: input rga .32, .25; gwa .56, .52; rwa .58, .46; output rga .28, .24; gwa .30, .29; rwa .89,
    .77.

    **Arguments:** `net`, `layer`, `memory`: as in `agop`; `data`: with the targets that the loss needs; `loss`: "mse",
    "cross_entropy" or a function `(prediction, target) -> scalar`. By default that of the run whose observable this is,
    and "mse" in a direct call.
    **Returns:** a `CRH` of six `Relation`s of scalars.
    **Raises:** ValueError naming `net`, `data`, `layer`, `loss` or `memory`.
    **Source:** Ziyin, Chuang, Galanti & Poggio 2024 (arXiv 2410.03006); the fit in B's eigenbasis is ours.
    """
    stream = layer_stream(net, data, layer=layer, loss=loss_or_default(loss), memory=memory)
    if stream.tap.position is None:
        raise wrong("layer", "a layer with weights (name it by a function)", f"the input of a {type(net).__name__}")
    return _crh(stream)


@kernel
def _crh(stream: LayerStream) -> CRH:
    W = stream.tap.weight
    assert W is not None
    h, z, g, error = _factors(stream)
    size = jnp.linalg.norm(W)
    of_h, of_z = _moment(h), _moment(z, size * jnp.linalg.norm(h))
    of_gradient_h = _moment(g @ W, size * jnp.maximum(error, jnp.linalg.norm(g)))
    vanishes = size**2 <= jnp.finfo(W.dtype).eps
    WtW, WWt = (_moment(F)._replace(is_undefined=vanishes) for F in (W, W.T))
    return CRH(*_relations(of_h, of_gradient_h, WtW), *_relations(of_z, _moment(g, error), WWt))


def _factors(stream: LayerStream) -> tuple[Array, Array, Array, Array]:
    """Triangular factors of E[hhᵀ], E[zzᵀ] and E[ggᵀ] with g = ∇_z ℓ, and the root mean square of errors of g."""
    fan_in, k, dtype = stream.sizes
    # So many rows at a time that the factorization is not spent on the factor of those before, again and again.
    stream = replace(stream, memory=max(stream.memory, 4 * max(fan_in, k) ** 2 * dtype.itemsize))

    def fold(state: Any, rows: LayerRows) -> Any:
        root = jnp.sqrt(rows.weight / rows.h.shape[1])
        h, z, g, error = (root[:, None, None] * each for each in rows[:4])
        add = lambda R, v: triangle_with(R, v.reshape(-1, R.shape[1]), stream.data.sharding)
        return jax.tree.map(add, state[0], (h, z, g)), state[1] + jnp.sum(error**2)

    # A factor of few samples need not have more rows than these have; one that is folded again needs all of its own.
    empty = lambda width: jnp.zeros((0 if stream.is_one_chunk else width, width), dtype)
    start = (empty(fan_in), empty(k), empty(k)), jnp.zeros((), dtype)
    factors, squares = stream.fold(start, fold)
    return *factors, jnp.sqrt(squares)


class _Moment(NamedTuple):
    """A positive semi-definite matrix FᵀF; singular values of F up to `lost` are errors of rounding."""

    F: Float[Array, "r m"]
    lost: Float[Array, ""]
    is_undefined: Bool[Array, ""]


def _moment(F: Float[Array, "r m"], scale: float | Float[Array, ""] = 0.0) -> _Moment:
    """`scale`: the size of the terms that F is made of, where these may cancel."""
    info, size = jnp.finfo(F.dtype), jnp.linalg.norm(F)
    lost = jnp.maximum(100 * info.eps * jnp.maximum(size, scale), jnp.sqrt(info.tiny)).astype(F.dtype)
    return _Moment(F, lost, size <= lost)


def _relations(R: _Moment, G: _Moment, Z: _Moment) -> tuple[Relation, Relation, Relation]:
    of_G, of_Z = spectrum(G.F), spectrum(Z.F)
    return _relation(R, G, of_G), _relation(G, Z, of_Z), _relation(R, Z, of_Z)


def _relation(A: _Moment, B: _Moment, spectrum: tuple[Float[Array, " k"], Float[Array, "k m"]]) -> Relation:
    is_undefined = A.is_undefined | B.is_undefined
    s, Vt = spectrum
    along = jnp.linalg.norm(A.F @ Vt.T, axis=0)
    fit = fit_power_law(s**2, along**2, (s > B.lost) & (along > A.lost) & ~is_undefined)
    cosine, pearson = _cosine_and_pearson(A.F, B.F)
    return Relation(jnp.where(is_undefined, jnp.nan, cosine), jnp.where(is_undefined, jnp.nan, pearson), fit)


def _cosine_and_pearson(F: Float[Array, "r m"], H: Float[Array, "s m"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Of the matrices A = FᵀF and B = HᵀH, whose scales do not matter: without them nothing underflows."""
    F, H = (each / jnp.linalg.norm(each) for each in (F, H))
    AA, BB, AB = (jnp.sum((left @ right.T) ** 2) for left, right in ((F, F), (H, H), (F, H)))
    sum_A, sum_B = (jnp.sum(jnp.sum(each, axis=1) ** 2) for each in (F, H))
    entries = F.shape[1] ** 2
    var_A, var_B, covariance = AA - sum_A**2 / entries, BB - sum_B**2 / entries, AB - sum_A * sum_B / entries
    # A matrix of equal entries has no correlation: what is left of its variance are rounding errors.
    eps = jnp.finfo(F.dtype).eps
    is_flat = (var_A <= 100 * eps * AA) | (var_B <= 100 * eps * BB)
    pearson = jnp.where(is_flat, jnp.nan, covariance / jnp.sqrt(jnp.where(is_flat, 1, var_A * var_B)))
    return AB / jnp.sqrt(AA * BB), pearson
