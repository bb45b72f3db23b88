"""What the solvers made for gradient flow have in common, beyond being diffrax solvers."""

import abc
from typing import Any, TypeVar

import diffrax
from jaxtyping import Array, Float, Int

_State = TypeVar("_State", bound=Any)


class AbstractFlowSolver(diffrax.AbstractAdaptiveSolver[_State]):
    """A diffrax solver for y' = f(y) with a symmetric Jacobian, that accounts for its work.

    `diffrax.diffeqsolve` drops the solver state of a rejected step. `gradient_flow` asks for `after_rejection`
    instead, so that work spent is counted and what was learnt (an order, a spectral radius) is kept.
    """

    @abc.abstractmethod
    def after_rejection(self, before: _State, attempted: _State) -> _State:
        """The state to try again from, when the step from `before` to `attempted` was rejected."""

    @abc.abstractmethod
    def work(self, state: _State) -> dict[str, Float[Array, ""] | Int[Array, ""]]:
        """What the run has cost so far.

        `gradient_evaluations` and `hessian_vector_products` (one by finite differences costs one gradient), and scalars
        that sum up how the method adapted, such as `mean_order` or `mean_stages`.
        """

    def sharpness(self, state: _State) -> Float[Array, ""] | None:
        """The largest eigenvalue of −∂f/∂y as the solver knows it at its last step; None where it does not."""
        return None
