"""The spectrum of the features: where its bulk ends, and where the spikes of one gradient step come to lie beside it.

Random features F_0 = σ(X̃W_0ᵀ) have the spectrum of c_1 X̃W_0ᵀ + c_{>1} Z with independent normal Z. The traces
t_1 = tr R and t_2 = tr(X̃ᵀRX̃)/d of the resolvent R = (F_0F_0ᵀ + λn)^{-1}, and q = c_1² t_2 + c_{>1}² t_1, obey

    (λ + k c_{>1}²) t_1 + k c_1² t_2 = 1,   t_2 = t_1/(1 + k c_1² t_1/φ),   k = (φ/ψ)/(1 + q),

and all are explicit functions, λ too, of y = k c_1² t_1. For −φ < y < 0 it is −λ = s² > 0, the square of a singular
value (over √n) beyond the bulk, and the least of them is the edge. Out there the spikes are where

    SᵀwS + (1 + q) YYᵀ

is singular (Woodbury; see `one_step_low_rank`). A spike far out is at its own size, one near the bulk is pushed out by
it, and one that is too small is not seen at all.

**Source:** the traces: Adlam & Pennington 2020; Moniri, Lee, Hassani & Dobriban 2024. Outliers as in Benaych-Georges &
Nadakuditi 2012; their application to these spikes is ours.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ..checks import wrong
from ._host import ArrayLike, Number, as_array, as_number
from .hermite import Hermite
from .one_step_low_rank import coupling


def feature_bulk_edge(phi: Number, psi: Number, activation: Hermite) -> float:
    """The largest singular value of the features before the step, over √n, in the limit.

    **Arguments:** `phi`: φ = d/n; `psi`: ψ = d/N; `activation`: the expansion of σ, with c_1 ≠ 0.
    **Returns:** the edge. Samples scatter around it by about n^{−2/3} of it.
    **Raises:** ValueError for an argument out of its range.
    """
    shape = _shape(phi, psi, activation)
    return float(np.sqrt(-_traces(_edge(shape), shape).penalty))


def feature_outliers(
    S: ArrayLike, phi: Number, psi: Number, activation: Hermite, *, own: Number = 0.0
) -> Float[np.ndarray, " s"]:
    """The singular values beyond the bulk after the step, over √n: the spikes that can be seen, decreasing.

    **Arguments:** `S`: from `spike_matrix`; `phi`, `psi`, `activation`: as in `feature_bulk_edge`; `own`: as in
    `GradientDirection`, 0 where the network's own output was cancelled.
    **Returns:** as many singular values as there are spikes out of the bulk.
    **Raises:** ValueError for an argument out of its range.
    """
    from scipy.optimize import brentq

    S = as_array("S", S, "K + 1", len(np.atleast_1d(S)))
    shape, own = _shape(phi, psi, activation), as_number("own", own)

    def surplus(y: float, j: int) -> float:
        """Positive while the j-th spike lies further out than the singular value at y."""
        _, t_1, t_2, q = _traces(y, shape)
        w, Y = coupling(t_1, t_2, q, shape.c_1, own, S)
        left = np.linalg.solve(Y, S.T)
        return np.linalg.eigvalsh(left @ (-w[:, None] * left.T))[-1 - j] / (1 + q) - 1

    found = []
    edge, far = _edge(shape), -1e-12 * shape.phi
    while len(found) < len(S) and surplus(edge, len(found)) > 0:
        y: Any = brentq(surplus, edge, far, args=(len(found),), xtol=1e-15)
        found.append(np.sqrt(-_traces(y, shape).penalty))
    return np.array(found)


class _Shape(NamedTuple):
    phi: float
    psi: float
    c_1: float
    nonlinear: float


class _Traces(NamedTuple):
    penalty: float
    t_1: float
    t_2: float
    q: float


def _shape(phi: Number, psi: Number, activation: Hermite) -> _Shape:
    if not activation.has(1):
        raise wrong("activation", "one with c_1 = E[σ(Z)Z] ≠ 0", "one with c_1 = 0")
    ratios = as_number("phi", phi, above=0), as_number("psi", psi, above=0)
    return _Shape(*ratios, float(activation.coefficients[1]), max(float(activation.nonlinear), 0.0))


def _traces(y: float, shape: _Shape) -> _Traces:
    """λ and the traces at y = k c_1² t_1."""
    phi, psi, c_1, nonlinear = shape
    shrink = phi / (phi + y)  # t_2/t_1
    k = phi / psi - y * (shrink + nonlinear / c_1**2)
    t_1 = y / (k * c_1**2)
    t_2 = shrink * t_1
    return _Traces(k * c_1**2 * (1 / y - shrink) - k * nonlinear, t_1, t_2, c_1**2 * t_2 + nonlinear * t_1)


def _edge(shape: _Shape) -> float:
    """The y of the edge, where −λ is least; it rises to infinity at both ends."""
    from scipy.optimize import minimize_scalar

    squared = lambda y: -_traces(y, shape).penalty
    least: Any = minimize_scalar(squared, bounds=(-shape.phi, 0), method="bounded", options={"xatol": 1e-12})
    return float(least.x)
