"""The end-to-end matrix of a balanced deep linear network, which obeys an ODE of its own."""

import numpy as np
from jaxtyping import Float64

from ..checks import require_integer
from ._host import ArrayLike, Number, as_array, as_number
from ._integrate import integrate


def end_to_end_flow(
    times: ArrayLike, P0: ArrayLike, S_xx: ArrayLike, S_yx: ArrayLike, depth: int, *, weight_decay: Number = 0.0
) -> Float64[np.ndarray, "t c d"]:
    """P(t) = W_L…W_1 of an exactly balanced linear network under gradient flow of the squared loss,

        P' = −Σ_{j=1}^{L} (PPᵀ)^{(L−j)/L} E (PᵀP)^{(j−1)/L} − LλP,   E = P S_xx − S_yx.

    Integrated by scipy's DOP853 at a relative tolerance of 1e-12 from one time to the next, with an absolute tolerance
    of 1e-14 of the largest entry at the earlier time: after a small start choose times that follow its growth. The flow
    conserves the rank of P. So does the field: it leaves out the directions in which P0 vanishes, in which rounding
    errors would grow.

    **Arguments:** `times`: (t,), non-negative, ascending; `P0`: P at t = 0, (c, d); `S_xx`: XᵀX/n, (d, d);
    `S_yx`: YᵀX/n, (c, d), for data in rows; `depth`: L ≥ 1; `weight_decay`: λ ≥ 0.
    **Returns:** P at `times`.
    **Raises:** ValueError for shapes that do not fit or an argument out of range.
    **Source:** Arora, Cohen & Hazan 2018, Thm 1.
    """
    P0 = as_array("P0", P0, "c", "d")
    S_xx = as_array("S_xx", S_xx, P0.shape[1], P0.shape[1])
    S_yx = as_array("S_yx", S_yx, *P0.shape)
    require_integer("depth", depth, at_least=1)
    decay = as_number("weight_decay", weight_decay, at_least=0)
    rank = int(np.linalg.matrix_rank(P0))

    def field(P):
        # The thin SVD of P: an eigendecomposition of PᵀP would lose half the digits of small singular values.
        U, s, Vt = np.linalg.svd(P, full_matrices=False)
        U, s, V = U[:, :rank], s[:rank], Vt[:rank].T
        E = P @ S_xx - S_yx
        terms = (_power(U, s, (depth - j) / depth) @ E @ _power(V, s, (j - 1) / depth) for j in range(1, depth + 1))
        return [-(sum(terms) + depth * decay * P)]

    return integrate(times, field, [P0], atol=1e-14)[0]


def balanced_nfm(P: ArrayLike, depth: int) -> Float64[np.ndarray, "d d"]:
    """NFM = (PᵀP)^{1/L} = AGOP^{1/L} of an exactly balanced linear network, from the singular values of P.

    **Arguments:** `P`: end-to-end matrix, (c, d); `depth`: L ≥ 1.
    **Returns:** the NFM, (d, d).
    **Raises:** ValueError if `P` is not a finite matrix or `depth` not a positive whole number.
    **Source:** Tansley, Massart & Cartis 2026.
    """
    P = as_array("P", P, "c", "d")
    require_integer("depth", depth, at_least=1)
    _, s, Vt = np.linalg.svd(P, full_matrices=False)
    return _power(Vt.T, s, 1 / depth)


def _power(basis, s, exponent):
    """(Q diag(s²) Qᵀ)^exponent for orthonormal columns Q; the power 0 is the identity on the whole space."""
    return np.eye(len(basis)) if exponent == 0 else (basis * s ** (2 * exponent)) @ basis.T
