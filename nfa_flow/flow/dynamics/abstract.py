"""The base class of the equations that optimizers follow."""

import abc
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from ...problem.objective import AbstractObjective


class AbstractDynamics(eqx.Module):
    """An equation of motion of the parameters θ and a memory μ, such as a momentum: d(θ, μ)/dt = velocity(θ, μ).

    One of your own needs `velocity`, and `start` if it has a memory:

        class Normalized(nf.dynamics.AbstractDynamics):
            epsilon: float = 1e-3

            def velocity(self, objective, parameters, memory):
                g = objective.gradient(parameters)
                size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(g)) + self.epsilon**2)
                return jax.tree.map(lambda leaf: -leaf / size, g), None

    `objective` is F = ℒ + (λ/2)‖θ‖², with `loss(parameters)` for ℒ, `gradient(parameters)` and
    `hessian_product(parameters, direction)` for F, and `net(parameters)`. An equation that depends on time keeps the
    time in its memory.

    Numbers in its fields become arrays, so that another value does not compile again; others must be declared by
    `equinox.field(static=True)`.

    With mobilities m, dθ/dt is m times this velocity. If it is `symmetric`, the parameters are θ/√m instead, and the
    objective is a function of them.

    **Attributes:**
    - `symmetric`: whether the velocity is a gradient, so that its Jacobian is symmetric, and there is no memory. Then
      `NDF` and the stabilized solvers can integrate it.
    - `stiff`: whether it is so stiff that `NDF` is the solver by default also without symmetry.
    - `mobile`: whether mobilities may multiply its velocity.
    - `rule`: the learning rates of a parametrization that are for this dynamics: "sgd", "adam", or None.
    - `time_per_step`: the time t of one step of the optimizer that it follows; None if it follows none.
    """

    symmetric: ClassVar[bool] = False
    stiff: ClassVar[bool] = False
    mobile: ClassVar[bool] = True
    rule: ClassVar[str | None] = None

    @property
    def time_per_step(self) -> float | Float[Array, ""] | None:
        """The time t of one step of the optimizer that this dynamics follows."""
        return None

    def start(self, objective: AbstractObjective, parameters: PyTree) -> PyTree:
        """The memory at the start: a tree of arrays, or None."""
        return None

    @abc.abstractmethod
    def velocity(self, objective: AbstractObjective, parameters: PyTree, memory: PyTree) -> tuple[PyTree, PyTree]:
        """dθ/dt and dμ/dt, in the structures of θ and μ."""

    def energy(self, objective: AbstractObjective, parameters: PyTree, memory: PyTree) -> Float[Array, ""]:
        """The function whose fall `certify` compares with the integral of its rate: F, or an energy of the dynamics."""
        return objective.energy(parameters)
