"""The spectrum of the features: the edge of its bulk, and the places of the spikes of one gradient step.

Random features F_0 = σ(X̃W_0ᵀ) have the spectrum of c_1 X̃W_0ᵀ + c_{>1} Z with independent normal Z. The traces
t_1 = tr R and t_2 = tr(X̃ᵀRX̃)/d of the resolvent R = (F_0F_0ᵀ + λn)^{-1}, and q = c_1² t_2 + c_{>1}² t_1, obey

    (λ + k c_{>1}²) t_1 + k c_1² t_2 = 1,   t_2 = t_1/(1 + k c_1² t_1/φ),   k = (φ/ψ)/(1 + q),

and are explicit functions of x = k t_1: λ = (φ/ψ − x e)(1/x − e) with e = c_1² φ/(φ + c_1² x) + c_{>1}². For x < 0 it
is −λ = s² > 0, the square of a singular value (over √n) outside the bulk; the smallest of them is the edge. The spikes
are at the x for which

    SᵀwS + (1 + q) YYᵀ

is singular (Woodbury's identity; see the module `low_rank`). A spike far from the bulk is at its own size, a spike near
the bulk is moved away from it, and a spike that is too small is hidden in the bulk.

**Source:** the traces: Adlam & Pennington 2020; Moniri, Lee, Hassani & Dobriban 2024. Outliers as in Benaych-Georges &
Nadakuditi 2012; the application to these spikes is ours.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ...checks import wrong
from .._host import ArrayLike, Number, as_array, as_number
from ..hermite import Hermite, require_expansion
from .low_rank import coupling

_FAR = 1e12  # in x; singular values up to its root times the bulk are told apart


def feature_bulk_edge(phi: Number, psi: Number, activation: Hermite) -> float:
    """The largest singular value of the features before the step, over √n, in the limit.

    **Arguments:** `phi`: φ = d/n; `psi`: ψ = d/N; `activation`: the expansion of σ.
    **Returns:** the edge. The largest singular values of samples scatter around it by about n^{−2/3} of it.
    **Raises:** ValueError for an argument out of its range.
    """
    shape = _shape(phi, psi, activation)
    return float(np.sqrt(-_traces(_edge(shape), shape).penalty))


def feature_outliers(
    S: ArrayLike, phi: Number, psi: Number, activation: Hermite, *, own: Number = 0.0
) -> Float[np.ndarray, " s"]:
    """The singular values outside the bulk after the step, over √n: the visible spikes, decreasing.

    **Arguments:** `S`: from `spike_matrix`; `phi`, `psi`, `activation`: as in `feature_bulk_edge`; `own`: as in
    `GradientDirection`, 0 if the network's own output was cancelled.
    **Returns:** one singular value for each spike outside the bulk.
    **Raises:** ValueError for an argument out of its range.
    """
    from scipy.optimize import brentq

    S = as_array("S", S, "K + 1", "K + 1")
    if len(S) < 2 or len(S) != S.shape[1]:
        raise wrong("S", "a square matrix, as from `spike_matrix`", f"of shape {S.shape}")
    shape, own = _shape(phi, psi, activation), as_number("own", own)

    def surplus(x: float, j: int) -> float:
        """Positive while the j-th spike is larger than the singular value at x."""
        _, t_1, t_2, q = _traces(x, shape)
        w, Y = coupling(t_1, t_2, q, shape.c_1, own, S)
        left = np.linalg.solve(Y, S.T)
        return np.linalg.eigvalsh(left @ (-w[:, None] * left.T))[-1 - j] / (1 + q) - 1

    found = []
    edge = _edge(shape)
    while len(found) < len(S) and surplus(edge, len(found)) > 0:
        x: Any = brentq(surplus, edge, edge / _FAR, args=(len(found),), xtol=-1e-16 * edge)
        found.append(np.sqrt(-_traces(x, shape).penalty))
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
    require_expansion("activation", activation)
    if float(activation.variance) <= 0:
        raise wrong("activation", "not constant", "of variance 0")
    ratios = as_number("phi", phi, above=0), as_number("psi", psi, above=0)
    return _Shape(*ratios, float(activation.coefficients[1]), max(float(activation.nonlinear), 0.0))


def _traces(x: float, shape: _Shape) -> _Traces:
    """λ and the traces at x = k t_1."""
    phi, psi, c_1, nonlinear = shape
    shrink = phi / (phi + c_1**2 * x)  # t_2/t_1
    e = c_1**2 * shrink + nonlinear
    k = phi / psi - x * e
    return _Traces(k * (1 / x - e), x / k, shrink * x / k, e * x / k)


def _edge(shape: _Shape) -> float:
    """The x of the edge, where −λ is least: it rises to infinity towards x = 0 and x = −φ/c_1²."""
    from scipy.optimize import minimize_scalar

    squared = lambda log_x: -_traces(-np.exp(log_x), shape).penalty
    unit = 1 / (shape.c_1**2 + shape.nonlinear)
    furthest = min(shape.phi / shape.c_1**2 if shape.c_1 else np.inf, _FAR * unit)
    bounds = np.log(unit / _FAR), np.log(furthest)
    least: Any = minimize_scalar(squared, bounds=bounds, method="bounded", options={"xatol": 1e-10})
    return -float(np.exp(least.x))
