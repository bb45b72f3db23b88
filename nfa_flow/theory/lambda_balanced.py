"""How the ansatz changes in a two-layer linear network whose balance is b·I instead of zero."""

import numpy as np
from jaxtyping import Float64

from ..checks import require_integer, wrong
from ._host import ArrayLike, Number, as_array, as_number


def lambda_balanced_nfm(P: ArrayLike, b: Number, *, width: int | None = None) -> Float64[np.ndarray, "d d"]:
    """NFM = (−bI + (b²I + 4 AGOP)^{1/2}) / 2 of a two-layer linear network with W_2ᵀW_2 − W_1W_1ᵀ = bI.

    AGOP = PᵀP with P = W_2W_1, and roots are computed from the singular values of P. The exponent of the ansatz is 1/2
    for b = 0 and for AGOP ≫ b², and tends to 1 for AGOP ≪ b², b > 0.

    Each of the h hidden directions gives the NFM one eigenvalue; the other d − h are zero. For b ≥ 0 the formula
    already has those zeros: it is zero on the null space of P. For b < 0 every hidden direction has an eigenvalue of at
    least −b (W_1W_1ᵀ ⪰ −bI, hence h ≤ d) and the formula holds on the row space of W_1, even where P vanishes. P
    determines that space only if h = d, when it is the whole space, or rank(P) = h, when it is the row space of P.
    Otherwise the NFM is not a function of P.

    **Arguments:** `P`: end-to-end matrix, (c, d); `b`: the balance; `width`: the hidden width h, needed for b < 0 only.
    **Returns:** the NFM, (d, d).
    **Raises:** ValueError if b < 0 and `width` is missing, is above d, or does not determine the NFM.
    **Source:** Dominé et al. 2024 (λ-balanced networks); the relation follows from PᵀP = W_1ᵀ(W_1W_1ᵀ + bI)W_1.
    """
    P = as_array("P", P, "c", "d")
    b = as_number("b", b)
    _, singular, Vt = np.linalg.svd(P, full_matrices=True)
    s = np.zeros(P.shape[1])
    s[: singular.size] = singular
    root = np.hypot(b, 2 * s)
    if b >= 0:
        eigenvalues = np.divide(2 * s**2, b + root, out=np.zeros_like(s), where=root > 0)
    else:
        eigenvalues = (root - b) / 2
        eigenvalues[_determined_width(P, s, width) :] = 0
    return (Vt.T * eigenvalues) @ Vt


def _determined_width(P, s, width) -> int:
    require_integer("width", width, at_least=1)
    rank = int(np.sum(s > max(P.shape) * np.finfo(np.float64).eps * s[0]))
    if width not in (rank, P.shape[1]):
        raise wrong("width", f"the rank of P, {rank}, or its number of columns, {P.shape[1]}, for b < 0", width)
    return width
