"""Gradient flow, and the flow that gradient descent with a finite step follows more closely."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...checks import require_number
from ...problem.objective import AbstractObjective
from .abstract import AbstractDynamics


class Gradient(AbstractDynamics):
    """dθ/dt = −∇F, the limit of gradient descent for small steps."""

    symmetric: ClassVar[bool] = True
    rule: ClassVar[str | None] = "sgd"

    def velocity(self, objective: AbstractObjective, parameters: PyTree, memory: PyTree) -> tuple[PyTree, PyTree]:
        """−∇F."""
        return jax.tree.map(lambda g: -g, objective.gradient(parameters)), None


class Modified(AbstractDynamics):
    """dθ/dt = −∇(F + (η/4)‖∇F‖²): the modified flow of gradient descent with the learning rate η.

    Its distance from gradient descent is of the order η², that of gradient flow of the order η. One step is the time η.
    An evaluation costs a gradient and a Hessian product.

    **Source:** Barrett & Dherin 2021; Hairer, Lubich & Wanner 2006, chapter IX (backward error analysis).
    """

    learning_rate: float | Float[Array, ""]

    symmetric: ClassVar[bool] = True
    rule: ClassVar[str | None] = "sgd"

    def __check_init__(self):
        require_number("learning_rate", self.learning_rate, above=0)

    @property
    def time_per_step(self) -> Any:
        """η."""
        return self.learning_rate

    def velocity(self, objective: AbstractObjective, parameters: PyTree, memory: PyTree) -> tuple[PyTree, PyTree]:
        """−(∇F + (η/2) H∇F)."""
        g = objective.gradient(parameters)
        half = self.learning_rate / 2
        return jax.tree.map(lambda g, Hg: -(g + half * Hg), g, objective.hessian_product(parameters, g)), None

    def energy(self, objective: AbstractObjective, parameters: PyTree, memory: PyTree) -> Float[Array, ""]:
        """F + (η/4)‖∇F‖², whose gradient flow this is."""
        squares = [jnp.sum(g**2) for g in jax.tree.leaves(objective.gradient(parameters))]
        return super().energy(objective, parameters, memory) + self.learning_rate / 4 * sum(squares)
