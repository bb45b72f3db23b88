"""What the solvers for gradient flow have in common, in addition to being diffrax solvers."""

import abc
from typing import Any, TypeVar

import diffrax
from jaxtyping import Array, Float, Int, PyTree

from ...checks import wrong
from ...problem.objective import AbstractObjective, SampleObjective
from ...run.status import RUNNING


def objective_of(terms: Any) -> SampleObjective:
    """The objective whose flow these terms are, for solvers that must know it.

    **Raises:** ValueError for terms of something other than a flow of `nf.gradient_flow` that sees its samples.
    """
    objective = getattr(terms.vector_field, "objective", None)
    if not isinstance(objective, SampleObjective):
        raise wrong("terms", "those of a flow of `nf.gradient_flow`, whose kinks are known", type(terms).__name__)
    return objective


_State = TypeVar("_State", bound=Any)


class AbstractFlowSolver(diffrax.AbstractAdaptiveSolver[_State]):
    """A diffrax solver for y' = f(y) that counts its work; most need a symmetric Jacobian.

    `diffrax.diffeqsolve` drops the solver state of a rejected step. `gradient_flow` uses `after_rejection` instead, so
    that the work of rejected steps is counted, and an order or a spectral radius that was found is kept.
    """

    @abc.abstractmethod
    def after_rejection(self, before: _State, attempted: _State) -> _State:
        """The state from which to try again after the step from `before` to `attempted` was rejected."""

    @abc.abstractmethod
    def work(self, state: _State) -> dict[str, Float[Array, ""] | Int[Array, ""]]:
        """What the run has cost so far.

        `gradient_evaluations` and `hessian_vector_products` (a product by finite differences costs one gradient), and
        scalars that describe how the method adapted, such as `mean_order` or `mean_stages`.
        """

    def sharpness(self, state: _State) -> Float[Array, ""] | None:
        """The largest eigenvalue of −∂f/∂y that the solver estimated at its last step; None if it estimates none."""
        return None

    def reach(self, state: _State, dt: Float[Array, ""]) -> Float[Array, ""]:
        """The step to attempt from here, at most `dt`."""
        return dt

    def elapsed(self, state: _State, dt: Float[Array, ""]) -> Float[Array, ""]:
        """How much of the attempted step `dt` the solution was followed; less than `dt` if something ended it."""
        return dt

    def loss_and_gradient(
        self, objective: AbstractObjective, state: _State, parameters: PyTree
    ) -> tuple[Float[Array, ""], PyTree]:
        """The data loss, and minus the velocity with which the solver follows the flow from `state` on."""
        return objective.loss_and_gradient(parameters)

    def finer(self) -> "AbstractFlowSolver":
        """The solver of a second run that measures the error of a first one; tolerances are set apart from it."""
        return self

    def for_derivatives(self) -> diffrax.AbstractSolver:
        """The solver of the linear equations that the derivatives of a flow obey along its path."""
        return self

    def trouble(self, state: _State) -> int | Int[Array, ""]:
        """The status (`run.status`) with which a run ends after this step; RUNNING if it can go on."""
        return RUNNING
