"""The motion of parameters and memory together, as the loop of a flow integrates it.

The loop moves one tree, and reads the network off it by an objective. For gradient flow that tree is the parameters;
for other dynamics it is a `Moving`, and the objective is a `MovingObjective`.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...checks import wrong
from ...numerics.switches import full_precision, usual_promotion
from ...problem.objective import AbstractObjective
from .abstract import AbstractDynamics

_SMALLEST = 1e-12  # size of parameters, for those that are all zero


class Moving(NamedTuple):
    """The parameters, and the memory in units in which it has their size at the start.

    So the absolute tolerance of a step, which is made for the parameters, fits the memory too.
    """

    parameters: PyTree
    memory: PyTree


class MovingObjective(AbstractObjective):
    """An objective as a function of all that moves, with the dynamics that moves it."""

    objective: AbstractObjective
    dynamics: AbstractDynamics
    factors: PyTree | None  # mobilities that multiply the velocity of the parameters
    units: PyTree  # of the memory

    @property
    def frozen(self) -> PyTree:
        return self.objective.frozen

    @property
    def weight_decay(self) -> Float[Array, ""]:
        return self.objective.weight_decay

    @property
    def root_mobility(self) -> PyTree | None:
        return self.objective.root_mobility

    @property
    def loss_function(self) -> Callable:
        return self.objective.loss_function

    @property
    def at_once(self) -> int | None:
        return self.objective.at_once

    def loss(self, parameters: Moving) -> Float[Array, ""]:
        return self.objective.loss(parameters.parameters)

    def natural(self, parameters: Moving) -> PyTree:
        return self.objective.natural(parameters.parameters)

    def mobility(self, parameters: Moving) -> PyTree:
        return self.objective.mobility(parameters.parameters) if self.factors is None else self.factors

    def loss_and_gradient(self, parameters: Moving) -> tuple[Float[Array, ""], Moving]:
        loss, gradient = self.objective.loss_and_gradient(parameters.parameters)
        return loss, Moving(gradient, jax.tree.map(jnp.zeros_like, parameters.memory))

    def gradient(self, parameters: Moving) -> Moving:
        return self.loss_and_gradient(parameters)[1]

    def velocity(self, parameters: Moving) -> Moving:
        theta, memory = parameters.parameters, jax.tree.map(jnp.multiply, parameters.memory, self.units)
        moves, changes = self.dynamics.velocity(self.objective, theta, memory)
        moves = moves if self.factors is None else jax.tree.map(jnp.multiply, moves, self.factors)
        return Moving(moves, jax.tree.map(jnp.divide, changes, self.units))

    def power(self, parameters: Moving) -> Float[Array, ""]:
        """How fast the energy falls."""
        return -jax.jvp(self.energy, (parameters,), (self.velocity(parameters),))[1]

    def energy(self, parameters: Moving) -> Float[Array, ""]:
        memory = jax.tree.map(jnp.multiply, parameters.memory, self.units)
        return self.dynamics.energy(self.objective, parameters.parameters, memory)


@eqx.filter_jit
@usual_promotion()
@full_precision
def in_motion(
    dynamics: AbstractDynamics, objective: AbstractObjective, parameters: PyTree, factors: PyTree | None
) -> tuple[Moving, MovingObjective]:
    """What moves at the start, and the objective that the loop of a flow uses for it."""
    memory = jax.tree.map(jnp.asarray, dynamics.start(objective, parameters))
    _check(dynamics, objective, parameters, memory)
    scale = jnp.maximum(_size(jax.tree.leaves(parameters)), _SMALLEST)
    unit = lambda size: jnp.where(size > 0, size / scale, 1)
    units = jax.tree.map(lambda leaf: unit(_size([leaf])), memory)
    moving = Moving(parameters, jax.tree.map(jnp.divide, memory, units))
    return moving, MovingObjective(objective, dynamics, factors, units)  # pyright: ignore[reportCallIssue]


def _check(dynamics: AbstractDynamics, objective: AbstractObjective, parameters: PyTree, memory: PyTree) -> None:
    """Raise ValueError naming `dynamics` for a memory or a velocity that the loop cannot use."""
    name = type(dynamics).__name__
    if dynamics.symmetric and jax.tree.leaves(memory):
        raise wrong("dynamics", "one without a memory if it is `symmetric`", f"{name} with one")
    moves = eqx.filter_eval_shape(dynamics.velocity, objective, parameters, memory)
    must_be = "one whose `velocity` returns a pair in the structures and shapes of parameters and memory"
    if not isinstance(moves, tuple) or jax.tree.structure(moves) != jax.tree.structure((parameters, memory)):
        raise wrong("dynamics", must_be, f"{name} with another structure")
    kinds = lambda tree: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
    for found, wanted in zip(kinds(moves), kinds((parameters, memory)), strict=True):
        if found != wanted:
            was = f"{name} with an array of {found[1]} and shape {found[0]} for one of {wanted[1]} and {wanted[0]}"
            raise wrong("dynamics", must_be, was)


def _size(leaves: list[Array]) -> Float[Array, ""]:
    """The root mean square, without a derivative: a unit changes no result."""
    leaves = [jax.lax.stop_gradient(leaf) for leaf in leaves]
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in leaves) / sum(leaf.size for leaf in leaves))
