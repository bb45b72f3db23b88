"""How a small change of θ(t) moves along a flow, in both directions of time."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..dynamics.motion import MovingObjective
from ..integrate import FlowProblem, loss_and_gradient
from .path import Path, PathKeeper


class Variation(eqx.Module):
    """Along a smooth flow: v' = −H v − (∂_p∇F) ṗ, where p are those arrays of the objective that have a tangent.

    `dense` is what the flow keeps of a step.
    """

    problem: FlowProblem
    p: PyTree

    def forwards(self, dense: Any, theta: PyTree, v: PyTree, direction: PyTree) -> PyTree:
        """v', where `direction` is ṗ."""
        return jax.jvp(self._velocity, (theta, self.p), (v, direction))[1]

    def backwards(self, dense: Any, theta: PyTree, mu: PyTree) -> tuple[PyTree, PyTree]:
        """The transpose of `forwards`: how fast μ, and the derivative with respect to p, grow backwards in time."""
        along = lambda theta: self._velocity(theta, self.p)
        # The product with H is the cheaper one of two that are equal if H is symmetric.
        is_symmetric = self.problem.symmetric
        of_theta = jax.jvp(along, (theta,), (mu,))[1] if is_symmetric else jax.vjp(along, theta)[1](mu)[0]
        return of_theta, jax.vjp(lambda p: self._velocity(theta, p), self.p)[1](mu)[0]

    def velocity(self, dense: Any, theta: PyTree) -> PyTree:
        """Of the flow in a step."""
        return self._velocity(theta, self.p)

    def velocities(self, keeper: PathKeeper, path: Path, times: Float[Array, " s"], thetas: PyTree) -> PyTree:
        """Of the flow at times of the run, at which it is at `thetas`; each array leads with the times."""
        return jax.lax.map(lambda theta: self._velocity(theta, self.p), thetas)

    def is_held(self, dense: Any) -> bool | Bool[Array, ""]:
        """Whether the velocity is not that of the gradient, but a projection of it."""
        return False

    def last_event(self, path: Path, before: Int[Array, ""]) -> Int[Array, ""]:
        """The last row of a block before this one at whose end the equation changes; −1 if there is none."""
        return jnp.full_like(before, -1)

    def next_event(self, path: Path, row: Int[Array, ""]) -> Int[Array, ""]:
        """The first such row from this one on; the number of rows if there is none."""
        return jnp.full_like(row, path.size)

    def jump(self, dense: Any, theta: PyTree, v: PyTree, direction: PyTree) -> PyTree:
        """v after an event at the end of a step, at `theta`, from that before it."""
        return v

    def jump_backwards(self, dense: Any, theta: PyTree, mu: PyTree) -> tuple[PyTree, PyTree]:
        """The transpose of `jump`: μ before the event, and what the derivative with respect to p gains."""
        return mu, jax.tree.map(jnp.zeros_like, self.p)

    def _velocity(self, theta: PyTree, p: PyTree) -> PyTree:
        """−∇F for gradient flow."""
        problem = dataclasses.replace(self.problem, objective=eqx.combine(p, self.problem.objective))
        if isinstance(problem.objective, MovingObjective):
            return problem.objective.velocity(theta)
        return jax.tree.map(jnp.negative, loss_and_gradient(problem, None, theta)[1])
