"""One large gradient step on the first layer, and the spikes that it causes in the features: how many, and how large.

The network is f(x) = aᵀσ(Wx) with the rows of W_0 uniform on the unit sphere of R^d, a ~ N(0, I/N) and an activation σ
= Σ_{k≥1} c_k He_k. The data are x ~ N(0, I) and y = σ_*(β_*ᵀx) + ε with ‖β_*‖ = 1, σ_* = Σ_k c_{*k} He_k and noise ε ~
N(0, σ_ε²). Samples n, width N and inputs d grow together, d/n → φ and d/N → ψ. One full-batch step of size η = κ n^α on
W adds nearly η c_1 a βᵀ, where β = Xᵀr/n with the residuals r. So the features of a fresh batch X̃ are nearly

    F = F_0 + Σ_k c_1^k c_k η^k (X̃β)^{∘k} (a^{∘k})ᵀ

(powers entry by entry), and the k-th term is outside the spectrum of F_0 for α > (k − 1)/(2k).

Two effects are not small compared with this, even in the limit; `gradient_direction` can include them:
- The network's own output. f(x) is as large as y at this start, and r = y − f. With r = y, as in the source, the step
  is not close to η c_1 a βᵀ; with r = y − f it is, and β contains −c_1 W_0ᵀa. `nf.one_step.cancel_output` changes the
  targets so that r = y.
- The scatter of the rows. Row i of the gradient is a_i (c_1 β + e_i) with independent e_i of length² φ E[r²] Var σ'(Z).
  As a matrix these are small, but each row is as long as c_1 β. They smooth the powers: (X̃β)² becomes (X̃β)² plus a
  constant.

**Source:** Moniri, Lee, Hassani & Dobriban 2024 (arXiv 2310.07891), after Ba et al. 2022; the two additions are ours.
"""

import warnings
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ...checks import is_traced, require_integer, require_integers, require_number, wrong
from .._host import Number, as_number
from ..hermite import Hermite, information_exponent, require_expansion

_ROUNDING = 1e-9


class GradientDirection(NamedTuple):
    """The first gradient in the limit: row i is a_i c_1 (β + e_i/c_1), e_i independent.

    `norm`: ‖β‖; `cosine`: ρ, of the angle between β and β_*, with the sign of c_{*1}; `own`: c_1/‖β‖ if β/‖β‖ contains
    −own · W_0ᵀa, from the network's own output, otherwise 0; `scatter`: the length of e_i/c_1 over ‖β‖, or 0.
    """

    norm: Number
    cosine: Number
    own: Number = 0.0
    scatter: Number = 0.0


def gradient_direction(
    teacher: Hermite,
    phi: Number,
    *,
    noise: Number = 0.0,
    activation: Hermite | None = None,
    own_output: bool = True,
) -> GradientDirection:
    """‖β‖² = c_{*1}² + φ E[r²] and ρ = c_{*1}/‖β‖, with E[r²] = E[σ_*(Z)²] + σ_ε².

    The network's own output adds c_1² to ‖β‖², and Var σ(Z) to E[r²]. If the teacher has no linear part, c_{*1} = 0, β
    is orthogonal to β_*: there are spikes, but they contain only noise. Then one step learns nothing, and a warning
    reports it.

    **Arguments:** `teacher`: its expansion; `phi`: φ = d/n > 0; `noise`: σ_ε ≥ 0; `activation`: the expansion of σ, for
    the scatter and the own output; by default without either, as in the source; `own_output`: whether that output is
    included, or was cancelled. Numbers can be traced.
    **Returns:** a `GradientDirection`.
    **Raises:** ValueError for an argument out of its range.
    **Source:** Moniri et al. 2024; with an `activation`, ours (‖W_0ᵀa‖ → 1).
    """
    require_number("phi", phi, above=0)
    require_number("noise", noise, at_least=0)
    require_expansion("teacher", teacher)
    if not is_traced(teacher) and not teacher.has(1):
        exponent = information_exponent(teacher)
        exponent = f"is {exponent}" if exponent else f"is above {len(teacher.coefficients) - 1}"
        warnings.warn(
            f"The teacher has no linear part (its information exponent {exponent}): one gradient step learns nothing.",
            stacklevel=2,
        )
    along, residual = teacher.coefficients[1], teacher.square + noise**2
    if activation is None:
        norm = (along**2 + phi * residual) ** 0.5
        return GradientDirection(norm, along / norm)
    _require_linear_part(activation)
    c_1: Any = activation.coefficients[1]
    residual = residual + own_output * activation.variance
    norm = (along**2 + own_output * c_1**2 + phi * residual) ** 0.5
    scatter = (phi * residual * activation.slope_variance) ** 0.5 / abs(c_1 * norm)
    return GradientDirection(norm, along / norm, own_output * c_1 / norm, scatter)


def spike_boundaries(count: int) -> Float[np.ndarray, " l"]:
    """The exponents α at which one more spike appears: 0, 1/4, 1/3, 3/8, …, ℓ/(2ℓ + 2), …, towards 1/2.

    **Arguments:** `count`: the last ℓ.
    **Returns:** count + 1 exponents; there are ℓ spikes between the ℓ-th, counted from 1, and the next one.
    **Raises:** ValueError for a negative `count`.
    **Source:** Moniri et al. 2024.
    """
    require_integer("count", count, at_least=0)
    order = np.arange(count + 1)
    return order / (2 * order + 2)


def spike_orders(alpha: Number, activation: Hermite) -> tuple[int, ...]:
    """The orders k of the spikes that a step of size ∝ n^α creates: k ≤ ℓ(α) with c_k ≠ 0.

    ℓ = ⌊1/(1 − 2α)⌋, so that (ℓ − 1)/(2ℓ) < α < ℓ/(2ℓ + 2). On a boundary it depends on the constant κ of the step.

    **Arguments:** `alpha`: 0 < α < 1/2, not on a boundary; `activation`: the expansion of σ, with c_1 ≠ 0.
    **Returns:** the orders, increasing; as many as there are spikes.
    **Raises:** ValueError naming `alpha`, with the list of boundaries, or `activation`.
    **Source:** Moniri et al. 2024.
    """
    alpha = as_number("alpha", alpha)
    _require_linear_part(activation)
    between = 1 / (1 - 2 * alpha) if 0 < alpha < 0.5 else 1.0  # ℓ, or ℓ + a fraction inside a window
    if abs(between - round(between)) < _ROUNDING * between:
        raise wrong("alpha", f"where the number of spikes is known, {_windows(between)}", f"{alpha:g}")
    count = int(between)
    if count >= len(activation.coefficients):
        computed = len(activation.coefficients) - 1
        raise wrong("activation", f"expanded to order {count} for α = {alpha:g} (`max_order` of `hermite`)", computed)
    return tuple(k for k in range(1, count + 1) if activation.has(k))


def spike_sizes(
    eta: Number, activation: Hermite, norm: Number, width: int, orders: Sequence[int]
) -> Float[np.ndarray, " s"]:
    """The singular value of each term by itself, over √n: s_k = η^k |c_1^k c_k| (2k − 1)!! ‖β‖^k N^{(1−k)/2}.

    At practical n these prefactors matter more than the exponents: a spike is visible if its size is above
    `feature_bulk_edge`. Near the edge, and if several orders mix, `feature_outliers` gives the visible place.

    **Arguments:** `eta`: η > 0; `activation`: the expansion of σ; `norm`: ‖β‖, from `gradient_direction` or measured;
    `width`: N; `orders`: the k, as from `spike_orders`.
    **Returns:** s_k/√n for each order.
    **Raises:** ValueError for an argument out of its range.
    **Source:** Moniri et al. 2024; the term's two factors have norms² n E[Z^{2k}] ‖β‖^{2k} and N^{1−k}
    E[Z^{2k}].
    """
    eta, norm = as_number("eta", eta, above=0), as_number("norm", norm, above=0)
    require_integer("width", width, at_least=1)
    require_integers("orders", orders, at_least=1)
    require_expansion("activation", activation)
    if max(orders, default=1) >= len(activation.coefficients):
        raise wrong("orders", f"at most {len(activation.coefficients) - 1}, the last one of `activation`", max(orders))
    k, c = np.asarray(orders, int), np.asarray(activation.coefficients, np.float64)
    double_factorials = np.array([np.prod(np.arange(1.0, 2 * order, 2)) for order in orders])
    return (eta * abs(c[1]) * norm) ** k * np.abs(c[k]) * double_factorials * float(width) ** ((1 - k) / 2)


def _require_linear_part(activation: Hermite) -> None:
    require_expansion("activation", activation)
    if not is_traced(activation) and not activation.has(1):
        raise wrong(
            "activation", "one with c_1 = E[σ(Z)Z] ≠ 0, because the first gradient is c_1 a βᵀ", "one with c_1 = 0"
        )


def _windows(between: float) -> str:
    """The first windows of α, in words."""
    bounds = [Fraction(l, 2 * l + 2) for l in range(min(max(4, round(between) + 2), 13))]
    windows = [f"{low} < α < {high} for {l}" for l, (low, high) in enumerate(zip(bounds, bounds[1:], strict=False), 1)]
    return f"{', '.join(windows)}, … below 1/2"
