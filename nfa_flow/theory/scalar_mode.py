"""One mode of a balanced deep linear network: how a single singular value moves.

If the layers are aligned and balanced, every singular value s of the end-to-end matrix moves independently,

    s' = L s^{2−2/L} p (σ − s) − L λ s,

towards its least-squares target σ; p is the variance of the input along the mode (1 for whitened inputs), L the depth
and λ the weight decay. Each layer has the singular value s^{1/L}, so the NFM has the eigenvalue s^{2/L} and the AGOP
s².

**Source:** Saxe, McClelland & Ganguli 2014; Arora, Cohen, Hu & Luo 2019, Thm 3.
"""

import numpy as np
from jaxtyping import Float64

from ..checks import require_integer
from ._host import ArrayLike, Number, as_number, as_times


def scalar_mode(
    times: ArrayLike, s0: Number, sigma: Number, depth: int, *, weight_decay: Number = 0.0, variance: Number = 1.0
) -> Float64[np.ndarray, "..."]:
    """The mode s(t) that starts at s0.

    Depths 1 and 2 are explicit; for greater depths without decay the explicit t(s) is inverted. For depth ≥ 3 with
    weight decay no closed form is known, and the scalar ODE is integrated by scipy's LSODA at a tolerance of 1e-12.

    **Arguments:** `times`: of any shape, non-negative, in gradient-flow time; `s0`, `sigma`: the singular value at
    t = 0 and its target σ, both non-negative; `depth`: L ≥ 1; `weight_decay`: λ ≥ 0; `variance`: p > 0.
    **Returns:** s, of the shape of `times`.
    **Raises:** ValueError for an argument out of these ranges.
    **Source:** L = 2: Saxe, McClelland & Ganguli 2014; the decay lowers σ to σ − λ/p.
    """
    t = as_times(times)
    start = as_number("s0", s0, at_least=0)
    target, decay, p = _checked(sigma, depth, weight_decay, variance)
    if depth == 1:
        mode = p * target / (p + decay) * -np.expm1(-(p + decay) * t) + start * np.exp(-(p + decay) * t)
    elif start == 0:
        mode = np.zeros_like(t)
    elif depth == 2:
        mode = _logistic(t, start, p * target - decay, p)
    elif decay > 0:
        mode = _integrated(t, start, target, depth, decay, p)
    else:
        mode = _inverted(p * t, start, target, depth)
    return np.asarray(mode)


def scalar_fixed_points(
    sigma: Number, depth: int, *, weight_decay: Number = 0.0, variance: Number = 1.0
) -> Float64[np.ndarray, " k"]:
    """The fixed points of a mode, ascending.

    - L = 1: pσ/(p + λ), the limit of every start.
    - L = 2: 0, and σ − λ/p if pσ > λ. The mode survives if and only if pσ > λ, from any start above 0.
    - L ≥ 3: 0, and the two roots of p s^{1−2/L} (σ − s) = λ if λ is small enough for them to exist. The lower root is
      unstable and zero is stable, so a mode that starts below the lower root vanishes for any σ.

    **Arguments:** as in `scalar_mode`.
    **Returns:** one to three values.
    **Raises:** ValueError as `scalar_mode` does.
    """
    target, decay, p = _checked(sigma, depth, weight_decay, variance)
    if depth == 1:
        return np.array([p * target / (p + decay)])
    if depth == 2 or decay == 0 or target == 0:
        return np.unique([0.0, max(target - decay / p, 0.0)])

    from scipy.optimize import brentq

    def surplus(s):
        return p * s ** (1 - 2 / depth) * (target - s) - decay

    summit = target * (depth - 2) / (2 * depth - 2)
    if surplus(summit) <= 0:
        return np.zeros(1)
    return np.array([0.0, *(brentq(surplus, *ends, xtol=1e-300) for ends in ((0.0, summit), (summit, target)))])


def decaying_integral(
    rate: float | Float64[np.ndarray, "..."], times: Float64[np.ndarray, "..."]
) -> Float64[np.ndarray, "..."]:
    """∫₀ᵗ exp(−2·rate·s) ds for rate ≥ 0, exact also near rate = 0."""
    rate, times = np.broadcast_arrays(rate, times)
    return np.divide(-np.expm1(-2 * rate * times), 2 * rate, out=times.copy(), where=rate != 0)


def _checked(sigma, depth, weight_decay, variance):
    require_integer("depth", depth, at_least=1)
    return (
        as_number("sigma", sigma, at_least=0),
        as_number("weight_decay", weight_decay, at_least=0),
        as_number("variance", variance, above=0),
    )


def _logistic(t, s0, growth, variance):
    """Solves s' = 2s(growth − p s), a logistic; exp(2·growth·t) is divided out if it would overflow."""
    numerator = s0 * np.exp(2 * min(growth, 0.0) * t)
    return numerator / (np.exp(-2 * max(growth, 0.0) * t) + 2 * variance * s0 * decaying_integral(abs(growth), t))


def _inverted(t, s0, sigma, depth):
    """Inverts t(s) in the coordinate v = log(s/σ), which resolves both s → 0 and s → σ to full precision."""
    power = 2 - 2 / depth
    untargeted = s0 * (1 + 2 * (depth - 1) * t * s0**power) ** (-1 / power)
    if np.all(sigma <= 1e-16 * untargeted):
        return untargeted
    start, end = np.log(s0 / sigma), np.copysign(1e-16, s0 - sigma)
    if abs(start) <= abs(end):
        return np.full_like(t, sigma)

    from scipy.optimize import brentq

    def log_ratio(moment):
        def lead(v):
            return _clock(v, depth) - _clock(start, depth) - moment

        return start if moment == 0 else end if lead(end) <= 0 else brentq(lead, start, end, xtol=1e-300)

    ratios = np.array([log_ratio(moment) for moment in t.ravel() * sigma**power])
    return sigma * np.exp(ratios.reshape(t.shape))


def _clock(v, depth):
    """p σ^{2−2/L} t up to a constant, at s = σe^v: ∫ dw / (w^{L−1}(1 − w^L)) with w = (s/σ)^{1/L}.

    That is −w^{2−L}/(L−2) + ∫ w/(1 − w^L) dw, and the last integrand has simple poles at the L-th roots of unity ω with
    residues −ω²/L. Far above the target the two cancel; there the geometric series in σ/s ≤ 1/2 is integrated.
    (Both are ₂F₁(1, a; a+1; ·), but scipy's is wrong near the argument 1 for some a, and infinite past 1 − 1e-13.)
    """
    if v >= np.log(2):
        exponents = np.arange(60) + 2 - 2 / depth
        return np.sum(np.exp(-exponents * v) / exponents) / depth
    roots = np.exp(2j * np.pi * np.arange(1, depth) / depth)
    logarithms = np.sum((roots ** (2 * np.sign(v)) * np.log(1 - roots * np.exp(-abs(v) / depth))).real)
    return -np.exp((2 / depth - 1) * v) / (depth - 2) - (np.log(-np.expm1(-abs(v) / depth)) + logarithms) / depth


def _integrated(t, s0, sigma, depth, weight_decay, variance):
    """Integrates u = log s, in which a vanishing mode is a straight line."""
    from scipy.integrate import solve_ivp

    def field(_, u):
        return depth * (variance * np.exp((1 - 2 / depth) * u) * (sigma - np.exp(u)) - weight_decay)

    moments, position = np.unique(np.append(t, 0.0), return_inverse=True)
    if moments.size == 1:
        return np.full_like(t, s0)
    span = (0.0, moments[-1])
    solution = solve_ivp(field, span, [np.log(s0)], "LSODA", t_eval=moments, rtol=1e-12, atol=1e-12)
    if not solution.success:
        raise RuntimeError(f"scipy could not integrate the mode: {solution.message}")
    return np.exp(solution.y[0])[position[:-1]].reshape(t.shape)
