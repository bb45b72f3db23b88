"""The two-layer linear network in the maximal update parametrization: closed equations at every width and at infinity.

With f(x) = Px, P = W_2W_1, hidden width n and the mobilities n and 1/n of muP, gradient flow of the squared loss is a
closed system for A = W_1ᵀW_1/n, P and C = nW_2W_2ᵀ, without n in it:

    A' = −(PᵀE + EᵀP),   P' = −(CE + EA),   C' = −(EPᵀ + PEᵀ),   E = P S_xx − S_yx.

Only the start depends on n: it is random with deviations of order n^{−½}, and A = αI, P = 0, C = βI for n = ∞, when W_1
starts with the variance α and W_2 with β/n². So NFM = nA and AGOP = PᵀP are known exactly at infinite width.

They are related at all times, for any data and any loss. Gradient flow conserves D = vᵀv − uuᵀ of u = W_1/√n, v = √n
W_2. At n = ∞ (D + αI)(D − βI) = 0 at the start, hence always; between the two layers this reads

    AGOP = A² + (β − α)A − αβI,   so that   NFM/n = A = ½[(α − β)I + ((α + β)²I + 4 AGOP)^{½}]:

NFM is an affine function of AGOP if AGOP ≪ (α + β)², and of its square root if AGOP ≫ (α + β)².

**Source:** Bordelon & Pehlevan 2022 (closed equations of deep linear networks at infinite width); the relation between
NFM and AGOP extends that of λ-balanced networks, Dominé et al. 2024.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from ._host import ArrayLike, Number, as_array, as_number
from ._integrate import integrate


class LinearMuP(NamedTuple):
    """A two-layer linear muP network through time, in quantities that have a limit for infinite width n.

    `nfm` = A = W_1ᵀW_1/n (the NFM itself is n times that), `end_to_end` = P = W_2W_1, `readout` = C = nW_2W_2ᵀ and
    `agop` = PᵀP.
    """

    nfm: Float64[np.ndarray, "t d d"]
    end_to_end: Float64[np.ndarray, "t c d"]
    readout: Float64[np.ndarray, "t c c"]
    agop: Float64[np.ndarray, "t d d"]


def linear_mup(times: ArrayLike, W_1: ArrayLike, W_2: ArrayLike, S_xx: ArrayLike, S_yx: ArrayLike) -> LinearMuP:
    """A network of finite width under gradient flow with the mobilities n and 1/n, those of `nf.nets.muP()`.

    Integrated by scipy's DOP853 at a relative tolerance of 1e-12 of the largest entry.

    **Arguments:** `times`: (t,), non-negative, ascending; `W_1`: (n, d) and `W_2`: (c, n), the weights at t = 0;
    `S_xx`: XᵀX/samples, (d, d), and `S_yx`: YᵀX/samples, (c, d), for data in rows.
    **Returns:** a `LinearMuP`.
    **Raises:** ValueError for shapes that do not fit.
    """
    W_1 = as_array("W_1", W_1, "n", "d")
    W_2 = as_array("W_2", W_2, "c", len(W_1))
    return _flow(times, W_1.T @ W_1 / len(W_1), W_2 @ W_1, len(W_1) * W_2 @ W_2.T, S_xx, S_yx)


def infinite_linear_mup(
    times: ArrayLike, S_xx: ArrayLike, S_yx: ArrayLike, *, alpha: Number | None = None, beta: Number = 1.0
) -> LinearMuP:
    """The limit of infinite width, from independent weights.

    It is also the plain gradient flow of a network of finite width d + c that starts from [√α I; 0] and [0, √β I].

    **Arguments:** `times`, `S_xx`, `S_yx`: as in `linear_mup`; `alpha`: variance of the entries of W_1 at the start,
    1/d by default, as in `nf.nets.muP()`; `beta`: n² times that of W_2.
    **Returns:** a `LinearMuP`.
    **Raises:** ValueError for shapes that do not fit or a variance that is not positive.
    """
    S_yx = as_array("S_yx", S_yx, "c", "d")
    outputs, inputs = S_yx.shape
    alpha, beta = start_variances(alpha, beta, inputs)
    return _flow(times, alpha * np.eye(inputs), np.zeros_like(S_yx), beta * np.eye(outputs), S_xx, S_yx)


def infinite_width_nfm(P: ArrayLike, *, alpha: Number | None = None, beta: Number = 1.0) -> Float64[np.ndarray, "d d"]:
    """NFM/n = ½[(α − β)I + ((α + β)²I + 4 AGOP)^{½}] of an infinitely wide two-layer linear muP network, AGOP = PᵀP.

    It holds at all times of a gradient flow from independent weights, for any data and any loss.

    **Arguments:** `P`: end-to-end matrix, (c, d); `alpha`, `beta`: as in `infinite_linear_mup`.
    **Returns:** (d, d).
    **Raises:** ValueError if `P` is not a matrix, or a variance is not positive.
    """
    P = as_array("P", P, "c", "d")
    alpha, beta = start_variances(alpha, beta, P.shape[1])
    _, s, Vt = np.linalg.svd(P)
    singular = np.zeros(P.shape[1])
    singular[: s.size] = s
    return (Vt.T * (alpha - beta + np.hypot(alpha + beta, 2 * singular)) / 2) @ Vt


def start_variances(alpha: Number | None, beta: Number, inputs: int) -> tuple[float, float]:
    """α and β as numbers; α is 1/d if it is None.

    **Raises:** ValueError if one is not positive.
    """
    alpha = 1 / inputs if alpha is None else as_number("alpha", alpha, above=0)
    return alpha, as_number("beta", beta, above=0)


def _flow(times, A, P, C, S_xx, S_yx) -> LinearMuP:
    outputs, inputs = P.shape
    S_xx = as_array("S_xx", S_xx, inputs, inputs)
    S_yx = as_array("S_yx", S_yx, outputs, inputs)

    def field(A, P, C):
        E = P @ S_xx - S_yx
        pull, push = P.T @ E, E @ P.T
        return -(pull + pull.T), -(C @ E + E @ A), -(push + push.T)

    A, P, C = integrate(times, field, (A, P, C))
    return LinearMuP(nfm=A, end_to_end=P, readout=C, agop=P.mT @ P)
