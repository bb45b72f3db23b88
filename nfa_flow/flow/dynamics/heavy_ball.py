"""The flow of gradient descent with momentum."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...checks import require_flag, require_number
from ...problem.objective import AbstractObjective
from . import averages
from .abstract import AbstractDynamics


class HeavyBall(AbstractDynamics):
    """dθ/dt = −u, T du/dt = ∇F − u: the flow of `optax.sgd(learning_rate, momentum, nesterov)`.

    u is (1 − β) times the trace of optax, an average of gradients. T = η(1+β)/(2(1−β)²) is the time over which it is
    taken. Nesterov's momentum moves by a mean of ∇F and u. One step is the time η/(1−β), so that the flow tends to
    gradient flow for η → 0 at any momentum.

    **Source:** Polyak 1964; Kovachki & Stuart 2021 (equations for fixed momentum); the times are those that make the
    distance from the optimizer of the order η², see `nfa_flow.flow.dynamics.averages`.
    """

    learning_rate: float | Float[Array, ""]
    momentum: float | Float[Array, ""] = 0.9
    nesterov: bool = eqx.field(static=True, default=False)

    rule: ClassVar[str | None] = "sgd"

    def __check_init__(self):
        require_number("learning_rate", self.learning_rate, above=0)
        averages.require_average("momentum", self.momentum)
        require_flag("nesterov", self.nesterov)

    @property
    def time_per_step(self) -> Any:
        """η/(1−β)."""
        return self.learning_rate / (1 - self.momentum)

    @property
    def averaging_time(self) -> Any:
        """T, the time over which gradients are averaged."""
        return self.time_per_step / averages.rate(self.momentum)

    def start(self, objective: AbstractObjective, parameters: PyTree) -> PyTree:
        """The average after half a step."""
        share = averages.rate(self.momentum) / 2 / self._past
        return jax.tree.map(lambda g: share * g, objective.gradient(parameters))

    def velocity(self, objective: AbstractObjective, parameters: PyTree, memory: PyTree) -> tuple[PyTree, PyTree]:
        """−u, or minus the mean of u and the gradient, and (∇F − u)/T."""
        g, past = objective.gradient(parameters), self._past
        moves = jax.tree.map(lambda g, u: -(past * u + (1 - past) * g), g, memory)
        return moves, jax.tree.map(lambda g, u: (g - u) / self.averaging_time, g, memory)

    @property
    def _past(self) -> Any:
        """The share of u in the update, so that its delay is Nesterov's, β²/(1−β) steps, and half a step."""
        beta = self.momentum
        return (1 - beta + 2 * beta**2) / (1 + beta) if self.nesterov else 1.0

    def energy(self, objective: AbstractObjective, parameters: PyTree, memory: PyTree) -> Float[Array, ""]:
        """F + (T/2)‖u‖², which falls by ‖u‖² per time without Nesterov's momentum and without mobilities."""
        squares = sum(jnp.sum(u**2) for u in jax.tree.leaves(memory))
        return super().energy(objective, parameters, memory) + self.averaging_time / 2 * squares
