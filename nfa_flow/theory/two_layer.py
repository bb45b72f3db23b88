"""The two-layer linear network on whitened inputs, solved from any λ-balanced start.

Let W_2ᵀW_2 − W_1W_1ᵀ = bI, S_xx = I and Q = [W_1ᵀ; W_2]. Gradient flow of the squared loss is Q' = FQ − ½QQᵀQ with
F = [[−b/2 I, S_yxᵀ], [S_yx, b/2 I]], so QQᵀ obeys a matrix Riccati equation, whose solution is

    QQᵀ(t) = e^{Ft} Q0 [I + Q0ᵀ Φ(t) Q0]⁻¹ Q0ᵀ e^{Ft},   Φ(t) = ∫₀ᵗ e^{2Fs} ds.

Weight decay λ at b = 0 turns F into F − λI. The upper left block of QQᵀ is the NFM, the lower left one P = W_2W_1.

**Source:** Fukumizu 1998; Braun, Dominé, Fitzgerald & Saxe 2022 (b = 0); Dominé et al. 2024 (any b).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from ..checks import wrong
from ._host import ArrayLike, Number, as_array, as_number, as_times
from .scalar_mode import decaying_integral


class TwoLayer(NamedTuple):
    """A two-layer linear network through time: `nfm` = W_1ᵀW_1, `end_to_end` = P = W_2W_1, `agop` = PᵀP."""

    nfm: Float64[np.ndarray, "t d d"]
    end_to_end: Float64[np.ndarray, "t c d"]
    agop: Float64[np.ndarray, "t d d"]


def two_layer(
    times: ArrayLike, W_1: ArrayLike, W_2: ArrayLike, S_yx: ArrayLike, *, weight_decay: Number = 0.0
) -> TwoLayer:
    """NFM, end-to-end matrix and AGOP of a two-layer linear network at given times, in closed form.

    Nothing overflows, also at very late times. Directions in which the start is zero up to rounding stay zero.

    **Arguments:** `times`: (t,), non-negative; `W_1`: (h, d) and `W_2`: (c, h), the weights at t = 0, with
    W_2ᵀW_2 − W_1W_1ᵀ = bI for some number b; `S_yx`: YᵀX/n, (c, d), for whitened data in rows; `weight_decay`: λ ≥ 0,
    which must be 0 unless b = 0.
    **Returns:** a `TwoLayer`.
    **Raises:** ValueError for shapes that do not fit, weights that are not λ-balanced (to 1e-8 of their size), or decay
    with b ≠ 0, for which no closed form is known because b then decays.
    """
    t = as_array("times", as_times(times), "t")
    W_1 = as_array("W_1", W_1, "h", "d")
    hidden, inputs = W_1.shape
    W_2 = as_array("W_2", W_2, "c", hidden)
    S_yx = as_array("S_yx", S_yx, len(W_2), inputs)
    decay = as_number("weight_decay", weight_decay, at_least=0)
    b = _balance(W_1, W_2)
    if b != 0 and decay != 0:
        raise wrong("weight_decay", f"0 for weights whose balance is b·I with b = {b:g}, not 0", decay)

    F = np.block([[-b / 2 * np.eye(inputs), S_yx.T], [S_yx, b / 2 * np.eye(len(W_2))]])
    Q = _riccati(t, F - decay * np.eye(len(F)), np.vstack([W_1.T, W_2]))
    W_1T, W_2 = Q[:, :inputs], Q[:, inputs:]
    P = W_2 @ W_1T.mT
    return TwoLayer(nfm=W_1T @ W_1T.mT, end_to_end=P, agop=P.mT @ P)


def _balance(W_1, W_2):
    """b of W_2ᵀW_2 − W_1W_1ᵀ = bI, rounded to 0 if it is not larger than the tolerance."""
    D = W_2.T @ W_2 - W_1 @ W_1.T
    b = np.trace(D) / len(D)
    off = np.linalg.norm(D - b * np.eye(len(D)))
    tolerance = 1e-8 * (np.linalg.norm(W_1) ** 2 + np.linalg.norm(W_2) ** 2)
    if off > tolerance:
        raise wrong("W_1, W_2", "λ-balanced, W_2ᵀW_2 − W_1W_1ᵀ = bI for some b", f"{off:.2g} away from the nearest bI")
    return 0.0 if abs(b) <= tolerance else b


def _riccati(t, F, Q0):
    """Q(t) with QQᵀ the Riccati solution, up to a rotation of the hidden layer.

    Take F = V diag(μ) Vᵀ with μ falling and Y = VᵀQ0. Factoring out the fastest e^{μt} alone would let the slower modes
    underflow. So the hidden layer is rotated until YG is in echelon form: hidden direction j holds eigenvector lead[j]
    and slower ones only, and is scaled by its own e^{−μt}. The bracket, scaled by S = diag(e^{−max(μ, 0)t}) over the
    leads, is BᵀB with B = [S; Φ^{1/2} Y G S], whose QR gives its root.
    """
    mu, V = np.linalg.eigh(F)
    mu, Y = mu[::-1], V[:, ::-1].T @ Q0
    lead, G = _echelon(Y)
    YG = np.where(np.arange(len(mu))[:, None] < lead, 0.0, Y @ G)

    t = t[:, None, None]
    rise, row = np.maximum(mu, 0), mu[:, None]
    S = np.exp(-rise[lead] * t) * np.eye(len(lead))
    # Above the lead YG is zero, but its factor would overflow.
    root_phi = np.sqrt(decaying_integral(abs(row), t)) * np.exp(np.minimum(rise[:, None] - rise[lead], 0) * t)
    R = np.linalg.qr(np.concatenate([S, root_phi * YG], axis=1)).R
    scaled = np.exp(np.minimum(row - rise[lead], 0) * t) * YG
    return V[:, ::-1] @ np.linalg.solve(R.mT, scaled.mT).mT


def _echelon(Y):
    """Orthonormal columns G that span the rows of Y, each with the first row that contains it (Gram–Schmidt)."""
    tolerance = 10 * max(Y.shape) * np.finfo(np.float64).eps * np.linalg.norm(Y)
    lead, G = [], np.zeros((Y.shape[1], 0))
    for i, row in enumerate(Y):
        rest = row - G @ (G.T @ row)
        rest -= G @ (G.T @ rest)
        if np.linalg.norm(rest) > tolerance:
            lead.append(i)
            G = np.column_stack([G, rest / np.linalg.norm(rest)])
    return np.array(lead, int), G
