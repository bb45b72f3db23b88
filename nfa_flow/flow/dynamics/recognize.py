"""The dynamics that follows a given optax optimizer, which is recognized by what it does."""

from collections.abc import Iterator, Sequence
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

_Pair = tuple[AbstractDynamics, optax.GradientTransformation]


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
        with jax.ensure_compile_time_eval(), jax.enable_x64(True), np.errstate(all="ignore"):
            found = _recognized(optimizer)
    except Exception as error:  # of whatever kind: it needs other arguments, or holds numbers that are traced
        raise wrong("optimizer", must_be, "another one") from error
    if found is None:
        raise wrong("optimizer", must_be, "another one")
    return found


def _recognized(optimizer: optax.GradientTransformation) -> AbstractDynamics | None:
    if _has_schedule(optimizer.init(np.ones(1))):  # whose first updates do not say how it goes on
        return None
    return next((dynamics for dynamics, twin in _candidates(optimizer) if _behaves_like(optimizer, twin)), None)


def _has_schedule(state: Any) -> bool:
    # Optax has one such state for schedules in a chain, and a private one for those in `inject_hyperparams`.
    is_schedule = lambda node: type(node).__name__.endswith("ScheduleState")
    return any(map(is_schedule, jax.tree.leaves(state, is_leaf=is_schedule)))


def _updates(optimizer: optax.GradientTransformation, steps: Sequence[tuple[Any, Any]]) -> np.ndarray:
    """The updates for gradients and parameters, step by step."""
    state, found = optimizer.init(np.atleast_1d(steps[0][1]).astype(float)), []
    for gradient, parameter in steps:
        gradient, parameter = (np.atleast_1d(each).astype(float) for each in (gradient, parameter))
        update, state = optimizer.update(gradient, state, parameter)
        found.append(np.asarray(update))
    return np.stack(found)


def _candidates(optimizer: optax.GradientTransformation) -> Iterator[_Pair]:
    """Dynamics, with their optimizers, that would give some of these updates: at θ = 0, for these gradients."""
    at_zero = lambda *gradients: [float(u[0]) for u in _updates(optimizer, [(g, 0.0) for g in gradients])]
    yield from _momenta(*at_zero(1.0, 0.0, 0.0))
    one, again = at_zero(_LARGE, _LARGE)
    (tiny,) = at_zero(_SMALL)
    if one < 0 and tiny < 0:
        yield from _root_mean_squares(one, again, tiny)
        back, double = at_zero(_LARGE, -_LARGE)[1], at_zero(_LARGE, 2 * _LARGE)[1]
        yield from _adams(one, tiny, back, double, decay=-float(_updates(optimizer, [(0.0, 1.0)])[0, 0]))


def _momenta(first: float, second: float, third: float) -> Iterator[_Pair]:
    """From the updates for the gradients 1, 0, 0."""
    rate, beta = _rounded(-first), _rounded(third / second) if second else 0.0
    if rate > 0 and beta == 0:
        yield Modified(rate), optax.sgd(rate)
    if rate > 0 and 0 < beta < 1:
        yield HeavyBall(rate, beta), optax.sgd(rate, beta)
        rate = _rounded(rate / (1 + beta))
        yield HeavyBall(rate, beta, nesterov=True), optax.sgd(rate, beta, nesterov=True)


def _root_mean_squares(one: float, again: float, tiny: float) -> Iterator[_Pair]:
    """From the updates for a large gradient and the same again, and for a tiny one."""
    beta = round((one / again) ** 2 - 1, _DIGITS)
    if not 0 <= beta < 1:
        return
    rate = _rounded(-one * (1 - beta) ** 0.5)
    root = -rate * _SMALL / tiny
    for in_sqrt, eps in ((True, root**2), (False, root - (1 - beta) ** 0.5 * _SMALL)):
        if (eps := _rounded(eps)) > 0:
            yield RMSProp(rate, beta, eps, eps_in_sqrt=in_sqrt), optax.rmsprop(rate, beta, eps, eps_in_sqrt=in_sqrt)


def _adams(one: float, tiny: float, back: float, double: float, *, decay: float) -> Iterator[_Pair]:
    """From the first update for a large and a tiny gradient, the second for G, −G and G, 2G, and that of θ = 1."""
    rate = _rounded(-one)
    if back <= -rate or double >= 0:
        return
    b1 = round((rate - back) / (rate + back), _DIGITS)
    y = (rate * (2 + b1) / (1 + b1) / double) ** 2
    b2, root = round((4 - y) / (y - 1), _DIGITS), -rate * _SMALL / tiny
    eps, within, decay = _rounded(root - _SMALL), _rounded(root**2), _rounded(decay / rate)
    if 0 <= b1 < 1 and 0 <= b2 < 1 and eps > 0:
        yield Adam(rate, b1, b2, eps), optax.adam(rate, b1, b2, eps)
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
