"""The alignment of NFM and AGOP as different papers define it.

Their numbers are not comparable: the same network has a different score by each definition. K = E[BᵀB] with B = df/dz
is the second moment of the gradients at the pre-activation z of the layer, so that AGOP = WᵀKW; ΔW = W − W_0 is the
change since the start; ⟨A,B⟩ is the Frobenius inner product, cos(A, B) = ⟨A,B⟩/(‖A‖‖B‖), and corr(A, B) the correlation
over entries. Each function computes the number that the paper defines. If the authors' own code computes another
number, the docstring says which, and how to get it. The scores of untrained networks are means over 64 draws of a relu
network 20-64-64-1 with `Gaussian()` weights on 500 samples of `linear_teacher` (spread .01 to .07); `null_alignment`
gives them for your own network.
"""

from dataclasses import replace
from typing import Any

from jaxtyping import Array, Float

from ..checks import require_flag, require_integer
from ..problem.losses import Loss
from .alignment import Alignment, alignment
from .layer import Layer


def nfa_cosine_2022(initial: Any, *, layer: Layer = 1) -> Alignment:
    """cos(ΔWᵀΔW, AGOP), in [0, 1]: the change of the weights against AGOP to the power 1, not centered.

    Undefined (NaN) for the untrained network, because its ΔW is zero. This is the definition of the paper. The authors'
    script for fully connected networks subtracts W_0 in place, so that its AGOP is that of a network with the weights
    ΔW; `on_change(alignment(1.0), initial)` gives that number.

    **Arguments:** `initial`: the network at the start; `layer`: as in `alignment`.
    **Source:** Radhakrishnan, Beaglehole, Pandit & Belkin 2022.
    """
    return alignment(1.0, initial=initial, layer=layer)


def nfa_pearson_2024(*, layer: Layer = 1) -> Alignment:
    """corr(WᵀW, AGOP^{1/2}), in [−1, 1]. Untrained networks score .86.

    This is the definition of the paper. The authors' script for fully connected networks uses ΔW instead of W, also in
    AGOP; `on_change(nfa_pearson_2024(), initial)` gives that number.

    **Source:** Radhakrishnan et al. 2024 (Science).
    """
    return alignment(0.5, metric="pearson", layer=layer)


def nfa_off_diagonal_2024(*, keep_zeros: bool = False, layer: Layer = 1) -> Alignment:
    """corr(WᵀW, AGOP^{1/2}) over the entries off the diagonal, in [−1, 1]. Untrained networks score .51.

    **Arguments:** `keep_zeros`: set the diagonals to zero and correlate all entries, including these zeros, as the
    authors' code does; the effect is larger for smaller matrices; `layer`: as in `alignment`.
    **Source:** Mallinar et al. 2024 (grokking modular arithmetic).
    """
    require_flag("keep_zeros", keep_zeros)
    metric = "pearson_zero_diagonal" if keep_zeros else "pearson_off_diagonal"
    return alignment(0.5, metric=metric, layer=layer)


def uncentered_nfa(*, metric: str = "cosine", layer: Layer = 1) -> Alignment:
    """UC-NFA: cos(WᵀW, WᵀKW), in [0, 1]. Untrained networks score .62.

    **Arguments:** `metric`: as in `alignment`; the paper defines "cosine", its authors' code computes "pearson";
    `layer`: as in `alignment`.
    **Source:** Beaglehole, Mitliagkas & Agarwala 2024, arXiv 2402.05271.
    """
    return alignment(1.0, metric=metric, layer=layer)


def centered_nfa(initial: Any, *, metric: str = "cosine", layer: Layer = 1) -> Alignment:
    """C-NFA: cos(ΔWᵀΔW, ΔWᵀKΔW), in [0, 1], of the change ΔW of the weights. It does not subtract a mean.

    Undefined (NaN) for the untrained network, because its ΔW is zero. Subtracting the mean Jacobian, J − E[J], is
    `alignment(…, centered=True)`.

    **Arguments:** `initial`: the network at the start; `metric`, `layer`: as in `uncentered_nfa`.
    **Source:** Beaglehole, Mitliagkas & Agarwala 2024, arXiv 2402.05271.
    """
    return alignment(1.0, metric=metric, initial=initial, agop_of_change=True, layer=layer)


def nfa_of_depth(depth: int, *, layer: Layer = 1) -> Alignment:
    """cos(WᵀW, AGOP^{1/L}), in [0, 1], exactly 1 for L balanced linear layers. Untrained: .91 at L = 3.

    **Arguments:** `depth`: L ≥ 1, the number of linear layers from this one on.
    **Source:** Tansley, Massart & Cartis 2026.
    """
    require_integer("depth", depth, at_least=1)
    return alignment(1 / depth, layer=layer)


def enfa(power: float | Float[Array, ""] = 0.5, *, loss: Loss | None = None, layer: Layer = 1) -> Alignment:
    """eNFA: cos(WᵀW, E[∇_h ℓ ∇_h ℓᵀ]^power), in [0, 1]: gradients of the loss instead of gradients of the outputs.

    Undefined (NaN) if the loss gradients vanish, as at an exact fit. Untrained networks score .85 at power 1/2.

    **Arguments:** `loss`: "mse", "cross_entropy" or a function; by default that of the run whose observable this is,
    and "mse" in a direct call; `layer`: as in `agop`.
    **Source:** Boix-Adserà, Mallinar, Simon & Belkin 2025, arXiv 2507.05644.
    """
    return replace(alignment(power, loss=loss, layer=layer), of_loss=True)
