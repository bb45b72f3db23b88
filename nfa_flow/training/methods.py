"""Methods of training, called with (net, data, key) and options of a run: exact flows, and optimizers by name."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from ..data import Dataset
from ..descent import gradient_descent
from ..flow import gradient_flow
from ..flow.dynamics import of as dynamics_of
from ..run.trajectory import Trajectory

Rates = Sequence[float | Float[Array, ""]] | Float[Array, " L"]  # one per layer
Optimizer = Literal["gd", "momentum", "adam", "adamw"]

OPTIMIZERS = {"gd": "GD", "momentum": "SGD momentum", "adam": "Adam", "adamw": "AdamW"}
MOMENTUM = 0.9


@dataclass(frozen=True)
class ExactFlow:
    """Trains a network by its exact gradient flow, at the default tolerance of `gradient_flow` unless one is given."""

    t1: float
    rtol: float | None = None

    def __call__(self, net: Any, data: Dataset, key: PRNGKeyArray, **options: Any) -> Trajectory:
        """The run, which does not use the key."""
        return gradient_flow(net, data, self.t1, rtol=self.rtol, **options)

    def __str__(self) -> str:
        return f"exact flow to t = {self.t1:g}"


@dataclass(frozen=True)
class Descent:
    """Trains a network by an optimizer, on minibatches of a given size or on the full batch."""

    name: Optimizer
    rate: float
    steps: int
    batch_size: int | None = None
    adamw_decay: float = 0.0

    def __call__(
        self, net: Any, data: Dataset, key: PRNGKeyArray, *, mobility: Rates | None = None, **options: Any
    ) -> Trajectory:
        """The run. The key draws the minibatches; `mobility` multiplies the updates of each layer of an MLP."""
        batch_size = None if self.batch_size is None else min(self.batch_size, data.samples)
        batch = {"batch_size": batch_size, "key": key, "time_per_step": self.time_per_step}
        optimizer = self.optimizer if mobility is None else optax.chain(self.optimizer, scale_layers(mobility))
        return gradient_descent(net, data, optimizer, self.steps, **batch, **options)

    @property
    def time_per_step(self) -> float:
        """The time of one step on the axis of the flows."""
        return self.rate / (1 - MOMENTUM) if self.name == "momentum" else self.rate

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer of optax."""
        return _optimizer(self.name, self.rate, self.adamw_decay)

    def __str__(self) -> str:
        return f"{OPTIMIZERS[self.name]}, {self.steps:,} steps of {self.rate:g}"


@dataclass(frozen=True)
class FlowOf:
    """Trains a network by the flow that an optimizer follows, on the full batch and to the same time."""

    descent: Descent
    rtol: float | None = None

    def __call__(self, net: Any, data: Dataset, key: PRNGKeyArray, **options: Any) -> Trajectory:
        """The run, which does not use the key."""
        dynamics: Any = dynamics_of(self.descent.optimizer)
        t1 = self.descent.steps * dynamics.time_per_step
        return gradient_flow(net, data, t1, dynamics=dynamics, rtol=self.rtol, **options)

    def __str__(self) -> str:
        return f"flow of {self.descent}"


@dataclass(frozen=True)
class Untrained:
    """Observes a network at t = 0 only: the baseline without training."""

    def __call__(self, net: Any, data: Dataset, key: PRNGKeyArray, **options: Any) -> Trajectory:
        """The run, in which the network does not change."""
        return gradient_descent(net, data, _stands_still(), 1, time_per_step=1.0, save_at=[0], **options)

    def __str__(self) -> str:
        return "untrained"


def scale_layers(factors: Rates) -> optax.GradientTransformation:
    """Multiply the updates of each layer of an `MLP` by a factor."""
    is_none = lambda leaf: leaf is None  # in the place of a frozen array
    where = lambda net: [linear.weight for linear in net.layers]
    scaled = lambda net: [None if W is None else f * W for f, W in zip(factors, where(net), strict=True)]
    # A function with annotations would be another one under run-time type checks, and stores of sweeps be refused.
    return optax.stateless(lambda net, params=None: eqx.tree_at(where, net, scaled(net), is_leaf=is_none))


@functools.cache  # another object would be compiled again
def _optimizer(name: str, rate: float, adamw_decay: float) -> optax.GradientTransformation:
    if name == "gd":
        return optax.sgd(rate)
    if name == "momentum":
        return optax.sgd(rate, momentum=MOMENTUM)
    return optax.adam(rate) if name == "adam" else optax.adamw(rate, weight_decay=adamw_decay)


@functools.cache
def _stands_still() -> optax.GradientTransformation:
    return optax.set_to_zero()
