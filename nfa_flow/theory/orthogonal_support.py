"""A nonlinear network that fits its data exactly and breaks the Neural Feature Ansatz at every exponent.

f(x) = Σ_i a_i relu(w_iᵀx) has the inputs e_i with probability p_i and target y_i > 0. From the balanced start W_1 =
diag(√s0_i), a_i = √s0_i each neuron depends on one input only and is a mode of depth 2 with input variance p_i,

    s_i' = 2 p_i s_i (y_i − s_i),   NFM = diag(s_i),   AGOP = diag(p_i s_i²).

At exact fit NFM = diag(y_i) but AGOP = diag(p_i y_i²): only AGOP depends on the frequencies of the data. They can even
reverse the order of its eigenvalues, and no power α > 0 restores it.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from ..checks import wrong
from ._host import ArrayLike, as_array, as_times
from .scalar_mode import scalar_mode

_ANGLES = 400  # exponents tried before the best is refined, equally spaced in arctan α


class OrthogonalSupport(NamedTuple):
    """Diagonals of `nfm` and `agop`, which are diagonal matrices at all times."""

    nfm: Float64[np.ndarray, "*t d"]
    agop: Float64[np.ndarray, "*t d"]


def orthogonal_support(
    times: ArrayLike, s0: ArrayLike, targets: ArrayLike, probabilities: ArrayLike
) -> OrthogonalSupport:
    """NFM and AGOP through time, in closed form.

    **Arguments:** `times`: of any shape, non-negative; `s0`: (d,), the starts s0_i > 0; `targets`: (d,), y_i > 0;
    `probabilities`: (d,), p_i > 0, summing to 1.
    **Returns:** an `OrthogonalSupport` whose leading axes are those of `times`.
    **Raises:** ValueError for an argument out of these ranges.
    """
    t = as_times(times)
    y, p = _support(targets, probabilities)
    s0 = _positive("s0", s0, y.size)
    modes = [scalar_mode(t, start, y_i, 2, variance=p_i) for start, y_i, p_i in zip(s0, y, p, strict=True)]
    nfm = np.stack(modes, axis=-1)
    return OrthogonalSupport(nfm, p * nfm**2)


def orthogonal_support_limit(targets: ArrayLike, probabilities: ArrayLike) -> OrthogonalSupport:
    """NFM = diag(y_i) and AGOP = diag(p_i y_i²): the limit of the flow, at exact fit.

    **Arguments:** as in `orthogonal_support`.
    **Returns:** an `OrthogonalSupport` without time axes.
    **Raises:** ValueError as `orthogonal_support` does.
    """
    y, p = _support(targets, probabilities)
    return OrthogonalSupport(y, p * y**2)


def diagonal_cosine(nfm: ArrayLike, agop: ArrayLike, power: ArrayLike) -> Float64[np.ndarray, "..."]:
    """Cosine between NFM and AGOP^α for diagonal matrices, ⟨NFM, AGOP^α⟩ / (‖NFM‖ ‖AGOP^α‖).

    **Arguments:** `nfm`, `agop`: diagonals, (…, d), non-negative and not all zero; `power`: α ≥ 0, of any shape.
    **Returns:** cosines, with the leading axes of the diagonals followed by those of `power`.
    **Raises:** ValueError for a negative `power`, or diagonals of shapes that do not fit.
    """
    powers = as_array("power", power, ...)
    if not np.all(powers >= 0):
        raise wrong("power", "non-negative", powers.tolist())
    nfm, agop = as_array("nfm", nfm, ...), as_array("agop", agop, ...)
    for argument, diagonals in {"nfm": nfm, "agop": agop}.items():
        if not diagonals.size or not diagonals.ndim or np.any(diagonals < 0):
            raise wrong(argument, "diagonals (…, d) of non-negative numbers", diagonals.tolist())
    if nfm.shape[-1] != agop.shape[-1]:
        raise wrong("agop", f"diagonals of length {nfm.shape[-1]}, like `nfm`", f"of length {agop.shape[-1]}")
    lead = (..., *(None,) * powers.ndim, slice(None))
    nfm, agop = nfm[lead], agop[lead]
    # Scaled to at most 1, so that no power overflows.
    agop_power = (agop / agop.max(-1, keepdims=True)) ** powers[..., None]
    norms = np.linalg.norm(nfm, axis=-1) * np.linalg.norm(agop_power, axis=-1)
    return np.asarray(np.sum(nfm * agop_power, axis=-1) / norms)


def best_diagonal_cosine(nfm: ArrayLike, agop: ArrayLike) -> tuple[float, float]:
    """The exponent α ≥ 0 that aligns AGOP^α best with NFM, and that cosine: no exponent does better.

    α = 0 means that the supremum over α > 0 is not attained, as when the eigenvalues of the two have opposite orders.

    **Arguments:** `nfm`, `agop`: diagonals, (d,), positive.
    **Returns:** (α, cosine).
    **Raises:** ValueError if the diagonals are not positive or differ in length.
    """
    from scipy.optimize import minimize_scalar

    nfm = _positive("nfm", nfm, "d")
    agop = _positive("agop", agop, nfm.size)
    angles = np.linspace(0, np.pi / 2, _ANGLES, endpoint=False)
    best = int(np.argmax(diagonal_cosine(nfm, agop, np.tan(angles))))

    def loss(angle):
        return -diagonal_cosine(nfm, agop, np.tan(angle))

    bounds = angles[max(best - 1, 0)], angles[min(best + 1, _ANGLES - 1)]
    refined: Any = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12})
    angle = min(angles[best], refined.x, key=loss)
    return float(np.tan(angle)), float(-loss(angle))


def _support(targets, probabilities):
    y = _positive("targets", targets, "d")
    p = _positive("probabilities", probabilities, y.size)
    if abs(p.sum() - 1) > 1e-6:
        raise wrong("probabilities", "numbers that sum to 1", f"{p.tolist()}, which sum to {p.sum():g}")
    return y, p


def _positive(argument, value, size):
    array = as_array(argument, value, size)
    if np.any(array <= 0):
        raise wrong(argument, "positive everywhere", array.tolist())
    return array
