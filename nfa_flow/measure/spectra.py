"""Eigenvalues of NFM and AGOP, and over how many directions they are spread.

AGOP's eigenvalues are the squared singular values of a factor F, AGOP = FᵀF, which keeps the relative accuracy of the
small ones; NFM's are those of W_l. Their derivatives need no factor: λ' = vᵀ AGOP' v.

The scores of untrained networks are means ± standard deviations over 64 draws of a relu network 20-64-64-1 (Gaussian
weights over √fan_in) on 500 Gaussian samples.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from ..checks import wrong
from ..numerics.kernel import kernel, measurable
from .agop import Samples, is_whole
from .feature_pair import FeaturePair, feature_pair
from .layer import Layer, is_tied, layer_weight, require_net, unfolded, weighted_layers


class Spectrum(NamedTuple):
    """Eigenvalues ≥ 0: as many as the smaller of the layer's fan-in and fan-out; all others are zero.

    `agop`, `nfm`: each matrix's own, decreasing; `nfm_along_agop`: vᵀ NFM v over the eigenvectors v of AGOP, in the
    order of `agop`; NaN if AGOP's eigenvalue is zero up to rounding, so that its eigenvector is arbitrary.
    """

    agop: Float[Array, " r"]
    nfm: Float[Array, " r"]
    nfm_along_agop: Float[Array, " r"]


class Ranks(NamedTuple):
    """Over how many directions NFM and AGOP are spread; between 1 and their rank."""

    nfm: Float[Array, ""]
    agop: Float[Array, ""]


def spectrum(net: Any, data: Samples, *, layer: Layer = 1) -> Spectrum:
    """The eigenvalues of NFM = W_lᵀW_l and AGOP, and those of NFM in the eigenbasis of AGOP.

    If the ansatz NFM ∝ AGOP^α holds, `nfm_along_agop` equals `nfm`, and its logarithm against that of `agop` is a
    straight line of slope α. The eigenvectors of equal eigenvalues of AGOP are not unique; then only the sum of
    `nfm_along_agop` over them has a meaning. Differentiable once, if the eigenvalues of AGOP are distinct.

    **Arguments:** `net`, `data`, `layer`: as in `agop`. The function is an observable.
    **Returns:** a `Spectrum`. It has d entries at the input of a module whose order of layers is not known.
    **Raises:** as `agop`.
    **Source:** Radhakrishnan et al. 2024 (the matrices); Golub & Van Loan, Matrix Computations, ch. 8.6.
    """
    return _spectrum(net, data, layer)[0]


def effective_rank(net: Any, data: Samples, *, layer: Layer = 1) -> Ranks:
    """exp(−Σ p_i log p_i) with p_i = λ_i/Σλ, for the eigenvalues of NFM and of AGOP; between 1 and the rank.

    NaN if the matrix is zero to working precision. Untrained networks: NFM 17.0 ± 0.2, AGOP 9.9 ± 1.5, of 20.

    **Arguments:** `net`, `data`, `layer`: as in `agop`. The function is an observable.
    **Returns:** a `Ranks`.
    **Source:** Roy & Vetterli 2007.
    """
    return _ranks(*_spectrum(net, data, layer), _exponential_of_entropy)


def stable_rank(net: Any, data: Samples, *, layer: Layer = 1) -> Ranks:
    """‖W‖²_F/‖W‖²_2 of the weights W_l ("nfm") and of a factor F of AGOP = FᵀF ("agop"); between 1 and the rank.

    This is the trace divided by the largest eigenvalue, for NFM and for AGOP. NaN if the matrix is zero to working
    precision. Untrained networks: NFM 9.1 ± 0.6, AGOP 2.7 ± 0.6, of 20.

    **Arguments:** `net`, `data`, `layer`: as in `agop`. The function is an observable.
    **Returns:** a `Ranks`.
    **Source:** Rudelson & Vershynin 2007.
    """
    return _ranks(*_spectrum(net, data, layer), _trace_over_largest)


def spectral_norm(net: Any, data: Any = None) -> tuple[Float[Array, ""], ...]:
    """‖W_l‖_2, the largest singular value, of every layer with weights, in order.

    For a convolution it is that of the unfolded kernel, channels out × (channels in · kernel), which maps one patch; it
    is not the norm of the convolution as a map between images. Untrained networks: 2.7, 1.9 and 1.0, each ± 0.1.

    **Arguments:** `net`: a network of `equinox.nn.Linear`s and `Conv`s; `data`: not used; with it the function is an
    observable.
    **Returns:** one scalar per layer.
    **Raises:** ValueError naming `net` if it has no such layer, or layers stacked into one.
    **Source:** Yang, Simon & Bernstein 2023: features are learned if it stays of order √(fan_out/fan_in).
    """
    layers = weighted_layers(measurable(net))
    if not layers:
        raise wrong("net", "a network with an `equinox.nn.Linear` or `Conv`", type(net).__name__)
    for each in layers:
        if is_tied(each):
            raise wrong("net", "a network of layers with weights of their own", "one with tied layers")
        if isinstance(each, eqx.nn.Linear) and each.weight.ndim != 2:
            raise wrong("net", "a network with one matrix per layer", f"one with weights of shape {each.weight.shape}")
    return tuple(_norm(unfolded(each.weight)) for each in layers)


class AlongAgop(NamedTuple):
    """`agop` and `nfm_along_agop` of a `Spectrum`, and the singular value up to which AGOP's factor is rounding.

    `resolved`: whether an eigenvalue of AGOP is more than rounding; `nfm_along_agop` is zero otherwise.
    """

    agop: Float[Array, " r"]
    nfm_along_agop: Float[Array, " r"]
    resolved: Bool[Array, " r"]
    resolution: Float[Array, ""]


def spectrum_along_agop(net: Any, data: Samples, layer: Layer) -> AlongAgop:
    """The part of the spectrum in AGOP's eigenbasis."""
    require_net(net)
    if is_whole(data):
        return AlongAgop(*_of_agop(net, data, layer))
    # Batches are read once, so they are not among the values that derivatives are taken of.
    return AlongAgop(*_value(feature_pair(net, data, layer)))


def _spectrum(net: Any, data: Samples, layer: Layer) -> tuple[Spectrum, Float[Array, ""]]:
    agop, along, resolved, resolution = spectrum_along_agop(net, data, layer)
    nfm = _gram_eigenvalues(layer_weight(net, layer), len(agop))
    return Spectrum(agop, nfm, jnp.where(resolved, along, jnp.nan)), resolution


@eqx.filter_custom_jvp
def _of_agop(net: Any, data: Any, layer: Layer) -> tuple[Array, Array, Array, Array]:
    return _value(feature_pair(net, data, layer))


@_of_agop.def_jvp
def _of_agop_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    """The value from a factor, its derivative from assembled matrices, for which zero eigenvalues are no problem."""
    net, data, layer = primals
    matrices = lambda net, data, layer: feature_pair(net, data, layer, factor=False, reduce=False)
    full, change = eqx.filter_jvp(matrices, primals, tangents)
    pair = feature_pair(net, data, layer)
    return _value(pair), _slope(pair, full, change)


@kernel
def _value(pair: FeaturePair) -> tuple[Float[Array, " r"], Float[Array, " r"], Bool[Array, " r"], Float[Array, ""]]:
    """AGOP's eigenvalues, vᵀ NFM v along its eigenvectors, whether these are resolved, and the resolution."""
    assert pair.F is not None
    r = pair.F.shape[1]
    s, Vt = pair.spectrum()
    along = jnp.sum((Vt @ pair.V.T) ** 2, axis=1)
    resolved = (s > 100 * jnp.finfo(s.dtype).eps * max(pair.F.shape) * s[0]) & (s[0] > pair.resolution)
    along = jnp.where(resolved, along, 0)
    return _padded(s**2, r), _padded(along, r), _padded(resolved, r), pair.resolution


@kernel
def _slope(pair: FeaturePair, full: FeaturePair, change: Any) -> tuple[Array, Array, None, None]:
    """Perturbation of eigenvalues and eigenvectors, in the eigenbasis of AGOP within the span of the weights.

    Changes of an eigenvector out of that span are in the null space of NFM and do not change vᵀ NFM v.
    """
    assert pair.F is not None and full.G is not None
    _, s, Vt = jnp.linalg.svd(pair.F, full_matrices=True)
    basis = Vt.T if pair.Q is None else pair.Q @ Vt.T
    in_basis = lambda M: jnp.zeros_like(Vt) if M is None else basis.T @ M @ basis
    N, dN = full.nfm, None if change.V is None else change.V.T @ full.V + full.V.T @ change.V
    N, dN, dG = in_basis(N), in_basis(dN), in_basis(change.G)
    s = _padded(s, len(Vt))
    gap = (s[:, None] - s[None]) * (s[:, None] + s[None])
    turn = jnp.where(gap == 0, 0, dG / jnp.where(gap == 0, 1, gap))  # v_i' = Σ_j turn_ij v_j
    return jnp.diagonal(dG), jnp.diagonal(dN) + 2 * jnp.sum(N * turn, axis=1), None, None


@eqx.filter_jit
def _ranks(spectrum: Spectrum, resolution: Float[Array, ""], rank: Callable[[Array], Array]) -> Ranks:
    # The sum of NFM's eigenvalues is ‖W‖², the largest of AGOP's the square of its factor's size.
    no_weights = jnp.sum(spectrum.nfm) <= jnp.finfo(spectrum.nfm.dtype).eps
    constant = no_weights | (spectrum.agop[0] <= resolution**2)
    of = lambda eigenvalues, lost: jnp.where(lost, jnp.nan, rank(jnp.where(lost, 1, eigenvalues)))
    return Ranks(of(spectrum.nfm, no_weights), of(spectrum.agop, constant))


def _exponential_of_entropy(eigenvalues: Float[Array, " r"]) -> Float[Array, ""]:
    p = eigenvalues / jnp.sum(eigenvalues)
    return jnp.exp(-jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1))))


def _trace_over_largest(eigenvalues: Float[Array, " r"]) -> Float[Array, ""]:
    return jnp.sum(eigenvalues) / eigenvalues[0]


@kernel
def _gram_eigenvalues(W: Float[Array, "p d"], size: int) -> Float[Array, " r"]:
    return _padded(jnp.linalg.svd(W, compute_uv=False) ** 2, size)


@kernel
def _norm(W: Float[Array, "p d"]) -> Float[Array, ""]:
    return jnp.linalg.norm(W, 2)


def _padded(values: Shaped[Array, " k"], size: int) -> Shaped[Array, " r"]:
    return jnp.pad(values, (0, size - len(values)))
