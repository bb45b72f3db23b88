"""Which solver follows a flow when the user names none, and how many gradients a solver's step costs."""

import warnings
from typing import Any

import diffrax
from jax.numpy import finfo
from jaxtyping import DTypeLike

from ..checks import is_traced
from .flow_solver import AbstractFlowSolver

_DOPRI8_BELOW = 1e-7
_KINKS_COST_BELOW = 1e-4


def choose_solver(rtol: Any, *, has_kinks: bool) -> tuple[diffrax.AbstractSolver, str]:
    """A solver for this tolerance, and the reason in words.

    High order pays when the tolerance is tight and the vector field smooth; across the kinks of piecewise linear
    activations no method keeps its order, so the cheaper pair is as good.
    """
    if has_kinks:
        return diffrax.Tsit5(), "piecewise linear activation: trajectory accuracy is not certified across kinks"
    if is_traced(rtol) or rtol >= _DOPRI8_BELOW:
        return diffrax.Tsit5(), f"rtol ≥ {_DOPRI8_BELOW:g}"
    return diffrax.Dopri8(), f"rtol < {_DOPRI8_BELOW:g}"


def warn_about_tolerance(rtol: Any, dtype: DTypeLike, *, has_kinks: bool) -> None:
    """Say so when a tolerance asks for more than the floating-point type or a kinked network can give."""
    if is_traced(rtol):
        return
    resolution = 8 * float(finfo(dtype).eps)
    if rtol < resolution:
        message = (
            f"`rtol` = {rtol:g} is finer than {dtype} can give (about {resolution:.1g}); "
            "use float64 or a larger `rtol`."
        )
        warnings.warn(message, UserWarning, stacklevel=3)
    if has_kinks and rtol < _KINKS_COST_BELOW:
        message = (
            f"`rtol` = {rtol:g} on a network with kinks (relu, leaky_relu): every kink that a trajectory crosses "
            f"forces tiny steps, which can cost a hundred times more than `rtol` = {_KINKS_COST_BELOW:g}, and accuracy "
            "is not certified there."
        )
        warnings.warn(message, UserWarning, stacklevel=3)


def evaluations_per_step(solver: diffrax.AbstractSolver) -> tuple[int, int] | None:
    """(gradients in each step, extra gradients until the first step is accepted), or None where it is not known.

    Explicit Runge-Kutta pairs of the "first same as last" kind reuse their last gradient in the next step. The solvers
    made for gradient flow count for themselves.
    """
    if isinstance(solver, AbstractFlowSolver):
        return 0, 0
    if isinstance(solver, diffrax.Euler):
        return 1, 0
    if not isinstance(solver, diffrax.AbstractERK):
        return None
    tableau: Any = solver.tableau
    return (tableau.num_stages - 1, 1) if tableau.fsal else (tableau.num_stages, 0)
