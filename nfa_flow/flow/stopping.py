"""Rules that end a flow early, at the time at which one of them is met.

A rule is evaluated at the end of each accepted step. If it is met there, that time is located within the step, on the
interpolant of the solver, so that it does not depend on where the steps end.
"""

import abc
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..checks import described, require_number, wrong
from ..problem.objective import AbstractObjective
from ..run.observation import Observer
from ..run.trees import flatten


class Moment:
    """One moment of a flow, of which a stop rule evaluates what it needs. The rest is not computed."""

    def __init__(
        self,
        objective: AbstractObjective,
        observer: Observer,
        parameters: PyTree,
        loss_and_gradient: Callable[[], tuple[Float[Array, ""], PyTree]],
    ):
        self._objective, self._observer, self._parameters = objective, observer, parameters
        self._evaluate, self._values = loss_and_gradient, None

    @property
    def loss(self) -> Float[Array, ""]:
        """The data loss ℒ, without weight decay."""
        return self._loss_and_gradient()[0]

    @property
    def gradient_norm(self) -> Float[Array, ""]:
        """‖∇ℒ + λθ‖ over all parameters: the speed ‖dθ/dt‖ of the flow; with mobilities m it is ‖m(∇ℒ + λθ)‖."""
        velocity = self._objective.natural(self._loss_and_gradient()[1])
        return jnp.sqrt(sum(jnp.sum(v**2) for v in jax.tree.leaves(velocity)))

    def observed(self, name: str) -> Array:
        """The observable of this name; of one that is a tree of arrays, the leaf `observable.leaf`."""
        first = name.partition(".")[0]
        leaves = flatten({first: self._observer.one(first, self._objective, self._parameters)})
        if name not in leaves:
            raise wrong("stop", f"a rule on one of {', '.join(leaves)}", f"one on {name!r}")
        return leaves[name]

    @property
    def _gradients(self) -> int:
        """How many gradients were evaluated."""
        return int(self._values is not None)

    def _loss_and_gradient(self) -> tuple[Float[Array, ""], PyTree]:
        self._values = self._values or self._evaluate()
        return self._values


class AbstractStop(eqx.Module):
    """A rule that ends a flow: a function of a `Moment`, which has `loss`, `gradient_norm` and `observed(name)`.

    The time at which it is met is found soonest if it is a continuous number; of a condition it is found by bisection.
    """

    @abc.abstractmethod
    def __call__(self, moment: Moment) -> Float[Array, ""] | Bool[Array, ""]:
        """By how much the rule is met: ≥ 0 where the flow must end, negative before. Or whether it is met."""


class LossBelow(AbstractStop):
    """Stop when the data loss ℒ is at most `bound`."""

    bound: float | Float[Array, ""]

    def __check_init__(self):
        require_number("bound", self.bound, above=0)

    def __call__(self, moment: Moment) -> Float[Array, ""]:
        return self.bound - moment.loss


class GradientNormBelow(AbstractStop):
    """Stop when the gradient norm ‖∇ℒ + λθ‖ is at most `bound`: near a critical point, to that accuracy."""

    bound: float | Float[Array, ""]

    def __check_init__(self):
        require_number("bound", self.bound, above=0)

    def __call__(self, moment: Moment) -> Float[Array, ""]:
        return self.bound - moment.gradient_norm


class StopWhen(AbstractStop):
    """Stop when an observable is at least `above`, or at most `below`: `StopWhen("accuracy", above=0.99)`.

    **Arguments:** `name`: of an entry of `observe` that is a number, static; of an entry that is a tree of numbers, one
    of its leaves, such as "exponent.exponent"; `above` or `below`: the bound, one of the two.
    """

    name: str = eqx.field(static=True)
    above: float | Float[Array, ""] | None = eqx.field(default=None, kw_only=True)
    below: float | Float[Array, ""] | None = eqx.field(default=None, kw_only=True)

    def __check_init__(self):
        if not isinstance(self.name, str):
            raise wrong("name", "that of an observable", described(self.name))
        if (self.above is None) == (self.below is None):
            was = "none of them" if self.above is None else "both of them"
            raise wrong("above", "given, or `below`, and not the other", was)
        bound, value = ("below", self.below) if self.above is None else ("above", self.above)
        require_number(bound, value)

    def __call__(self, moment: Moment) -> Float[Array, ""]:
        value = moment.observed(self.name)
        if value.shape:
            raise wrong("stop", f"a rule on a number, not on {self.name!r}", f"one on an array of shape {value.shape}")
        return value - self.above if self.above is not None else cast(Array, self.below) - value


class StopAfter(eqx.Module):
    """Stop when the call has taken `seconds`, compilation included; checked several times per second.

    Not inside `jax.jit`, `jax.vmap` and batched sweeps, in which nothing knows the time, and not with `certify`. A
    `checkpoint` is kept: the same call goes on from it, for as many seconds.
    """

    seconds: float

    def __check_init__(self):
        require_number("seconds", self.seconds, at_least=0)


def excess(rules: Sequence[AbstractStop], moment: Moment, dtype: Any) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """By how much the first of several rules is met, −∞ where that is undefined; and the gradients that this took."""
    values = [jnp.asarray(_number(rule(moment)), dtype) for rule in rules]
    values = [jnp.where(jnp.isnan(value), -jnp.inf, value) for value in values]
    return jnp.max(jnp.stack(values)), jnp.asarray(moment._gradients, jnp.int32)


def _number(met: Any) -> Float[Array, ""]:
    try:
        met = jnp.asarray(met)
    except TypeError:
        raise wrong("stop", "rules that return one number, or a condition", f"one that returns {met!r}") from None
    if met.shape:
        raise wrong("stop", "rules that return one number, or a condition", f"one that returns {described(met)}")
    return jnp.where(met, 1.0, -1.0) if met.dtype == bool else met


Stop = AbstractStop | StopAfter | Sequence[AbstractStop | StopAfter]


def check_stop(stop: Stop, observed: Sequence[str]) -> tuple[tuple[AbstractStop, ...], float]:
    """The rules of the flow, and when the call must end, by `time.perf_counter`. `observed`: names of observables.

    **Raises:** ValueError naming `stop`.
    """
    rules: Any = (stop,) if isinstance(stop, AbstractStop | StopAfter) else stop
    if not isinstance(rules, Sequence) or not all(isinstance(rule, AbstractStop | StopAfter) for rule in rules):
        raise wrong("stop", "rules such as `LossBelow(1e-8)`", repr(stop))
    for rule in rules:
        if isinstance(rule, StopWhen) and rule.name.partition(".")[0] not in observed:
            raise wrong("stop", f"a rule on an observable, {' or '.join(observed)}", f"one on {rule.name!r}")
    seconds = min((rule.seconds for rule in rules if isinstance(rule, StopAfter)), default=math.inf)
    # As arrays, so that another bound does not compile again.
    as_array = lambda leaf: jnp.asarray(leaf) if eqx.is_array_like(leaf) else leaf
    of_flow = tuple(jax.tree.map(as_array, rule) for rule in rules if isinstance(rule, AbstractStop))
    return of_flow, time.perf_counter() + seconds
