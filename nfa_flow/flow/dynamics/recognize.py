"""The dynamics that follows a given optax optimizer, which is recognized by what it does."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax

from ...checks import wrong
from .abstract import AbstractDynamics
from .adam import Adam, AdamW
from .gradient import Modified
from .heavy_ball import HeavyBall
from .rmsprop import RMSProp

_LARGE, _SMALL = 1e9, 1e-12  # gradients far above and far below any eps
_AGREES = 1e-7  # of an update
_DIGITS = 10


def of(optimizer: optax.GradientTransformation) -> AbstractDynamics:
    """The dynamics whose flow follows an optimizer: `nf.dynamics.of(optax.adam(1e-3))` is `Adam(0.001)`.

    It knows `optax.sgd`, with momentum and Nesterov's too, `optax.rmsprop`, `optax.adam` and `optax.adamw` with numbers
    as hyperparameters. They are computed from a few updates, and compared with the optimizer on others.

    **Raises:** ValueError naming `optimizer` for every other one, for schedules, and inside `jax.jit` for a rate that
    is traced: then construct the dynamics yourself.
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise wrong("optimizer", "an optax optimizer such as `optax.adam(1e-3)`", repr(optimizer))
    must_be = "`optax.sgd`, `rmsprop`, `adam` or `adamw` with numbers (of others, construct the dynamics yourself)"
    try:
        with jax.enable_x64(True), np.errstate(all="ignore"):
            found = _recognized(optimizer)
    except Exception as error:  # of whatever kind: it needs other arguments, or holds numbers that are traced
        raise wrong("optimizer", must_be, f"one that raises {type(error).__name__}") from error
    if found is None:
        raise wrong("optimizer", must_be, "another one")
    return found


def _recognized(optimizer: optax.GradientTransformation) -> AbstractDynamics | None:
    if _has_schedule(optimizer.init(np.ones(1))):  # whose first updates do not say how it goes on
        return None
    candidates = _candidates(lambda *steps: _updates(optimizer, steps))
    return next((dynamics for dynamics, twin in candidates if _behaves_like(optimizer, twin)), None)


def _has_schedule(state: Any) -> bool:
    parts = state if isinstance(state, tuple) else ()
    return isinstance(state, optax.ScaleByScheduleState) or any(map(_has_schedule, parts))


def _updates(optimizer: optax.GradientTransformation, steps: Sequence[tuple[Any, Any]]) -> np.ndarray:
    """The updates for gradients and parameters, step by step."""
    state, found = optimizer.init(np.atleast_1d(steps[0][1]).astype(float)), []
    for gradient, parameter in steps:
        gradient, parameter = (np.atleast_1d(each).astype(float) for each in (gradient, parameter))
        update, state = optimizer.update(gradient, state, parameter)
        found.append(np.asarray(update))
    return np.stack(found)


def _candidates(
    updates: Callable[..., np.ndarray],
) -> Iterator[tuple[AbstractDynamics, optax.GradientTransformation]]:
    """Dynamics, with their optimizers, that would give some of these updates.

    The formulas are the updates of each optimizer at θ = 0 for gradients G, G; G, −G; G, 2G; and G, 0, 0.
    """
    at_zero = lambda *gradients: [float(u[0]) for u in updates(*((g, 0.0) for g in gradients))]
    first, second, third = at_zero(1.0, 0.0, 0.0)
    rate, beta = _rounded(-first), _rounded(third / second) if second else 0.0
    if rate > 0 and beta == 0:
        yield Modified(rate), optax.sgd(rate)
    if rate > 0 and 0 < beta < 1:
        yield HeavyBall(rate, beta), optax.sgd(rate, beta)
        rate = _rounded(rate / (1 + beta))
        yield HeavyBall(rate, beta, nesterov=True), optax.sgd(rate, beta, nesterov=True)

    one, again = at_zero(_LARGE, _LARGE)
    (tiny,) = at_zero(_SMALL)
    if one < 0 and tiny < 0 and (b := _rounded((one / again) ** 2 - 1)) < 1 and b >= 0:
        rate = _rounded(-one * (1 - b) ** 0.5)
        root = -rate * _SMALL / tiny
        for in_sqrt, eps in ((True, root**2), (False, root - (1 - b) ** 0.5 * _SMALL)):
            if (eps := _rounded(eps)) > 0:
                yield RMSProp(rate, b, eps, eps_in_sqrt=in_sqrt), optax.rmsprop(rate, b, eps, eps_in_sqrt=in_sqrt)

    rate, back, double = _rounded(-one), at_zero(_LARGE, -_LARGE)[1], at_zero(_LARGE, 2 * _LARGE)[1]
    if rate > 0 and tiny < 0 and back > -rate and double < 0:
        b1 = _rounded(max(0.0, (rate - back) / (rate + back)))
        y = (rate * (2 + b1) / (1 + b1) / double) ** 2
        b2, eps = _rounded((4 - y) / (y - 1)), _rounded(-rate * _SMALL / tiny - _SMALL)
        if 0 <= b1 < 1 and 0 <= b2 < 1 and eps > 0:
            decay = _rounded(float(-updates((0.0, 1.0))[0, 0]) / rate)
            yield Adam(rate, b1, b2, eps), optax.adam(rate, b1, b2, eps)
            within = _rounded((rate * _SMALL / tiny) ** 2)
            yield RMSProp(rate, b2, within, bias_correction=True), optax.rmsprop(rate, b2, within, bias_correction=True)
            if decay > 0:
                yield AdamW(rate, b1, b2, eps, weight_decay=decay), optax.adamw(rate, b1, b2, eps, weight_decay=decay)


def _behaves_like(optimizer: optax.GradientTransformation, twin: optax.GradientTransformation) -> bool:
    """Whether two optimizers make the same updates for gradients of all sizes."""
    rng = np.random.default_rng(0)
    steps = [(10.0 ** rng.uniform(-9, 3, 5) * rng.choice([-1, 1], 5), rng.normal(size=5)) for _ in range(12)]
    return np.allclose(_updates(optimizer, steps), _updates(twin, steps), rtol=_AGREES, atol=0)


def _rounded(value: float) -> float:
    """Without rounding errors, which would show in the hyperparameters."""
    return float(f"{value:.{_DIGITS}g}")
