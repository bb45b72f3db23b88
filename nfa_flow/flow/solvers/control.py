"""The solver and the step size controller of a flow, with its tolerances."""

from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from ...checks import described, require_number, wrong
from .flow_solver import AbstractFlowSolver
from .ndf import NDF
from .piecewise import Piecewise
from .smoothed import Smoothed

_OF_NDF = diffrax.PIDController(1.0, 1.0)  # whose coefficients NDF needs
_COEFFICIENTS = ("pcoeff", "icoeff", "dcoeff", "factormin", "factormax", "safety", "error_order")


def check_solver(solver: Any, gates: int | str, *, symmetric: bool = True) -> None:
    """Raise ValueError for what is no solver, or not of this flow; `gates`, `symmetric` as in `choose_solver`."""
    if not isinstance(solver, diffrax.AbstractSolver):
        raise wrong("solver", "a diffrax solver such as `diffrax.Tsit5()`", repr(solver))
    # The leapfrog remembers absolute times, which the loop does not have; others solve split or stochastic equations.
    if isinstance(solver, diffrax.LeapfrogMidpoint) or not isinstance(solver.term_structure, type):
        raise wrong("solver", "a one-step solver of a single ODE term", type(solver).__name__)
    if isinstance(solver, Piecewise | Smoothed) and (gates == 0 or isinstance(gates, str)):
        kinks = f"kinks in {gates}, which it cannot gate" if gates else "a network and a loss without kinks"
        raise wrong("solver", f"another one for {kinks}", type(solver).__name__)
    if not symmetric and isinstance(solver, AbstractFlowSolver) and not isinstance(solver, NDF):
        raise wrong("solver", "one for a Jacobian that is not symmetric", type(solver).__name__)


def check_controller(controller: Any, solver: diffrax.AbstractSolver) -> None:
    """Raise ValueError for what is no step size controller, or not of this solver; None is the one of choice."""
    name, argument = type(solver).__name__, "stepsize_controller"
    if controller is None:
        return
    if isinstance(controller, diffrax.ConstantStepSize):
        if isinstance(solver, AbstractFlowSolver):
            raise wrong(
                argument, f"a `diffrax.PIDController` for {name}, which adapts its steps", described(controller)
            )
        return
    if not isinstance(controller, diffrax.PIDController):
        # Others know absolute times, which the loop does not have.
        raise wrong(argument, "a `diffrax.PIDController` or `diffrax.ConstantStepSize`", described(controller))
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        must_be = f"`diffrax.ConstantStepSize()` for {name}, which has no error estimate to choose its step"
        raise wrong(argument, must_be, "a `PIDController`")
    if controller.dtmin is not None and not controller.force_dtmin:
        raise wrong(argument, "one with `force_dtmin=True` if it has a `dtmin`", "one without")
    if isinstance(solver, NDF):
        others = [each for each in _COEFFICIENTS if getattr(controller, each) != getattr(_OF_NDF, each)]
        if others:
            must_be = f"a `PIDController` with default coefficients for {name}, which selects its steps itself"
            raise wrong(argument, must_be, f"one with another {others[0]}")


def tolerances(controller: Any, rtol: Any, atol: Any) -> tuple[Any, Any]:
    """Those of a controller that has some, otherwise those that are given.

    **Raises:** ValueError naming `rtol` or `atol` if both are there.
    """
    if not isinstance(controller, diffrax.PIDController):
        return rtol, atol
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None:
            raise wrong(name, "None with a `stepsize_controller` that has tolerances", value)
    return controller.rtol, controller.atol


def controlled(
    solver: diffrax.AbstractSolver, given: Any, rtol: Any, atol: Any, dt0: Any, dtype: DTypeLike
) -> tuple[diffrax.AbstractSolver, diffrax.PIDController | None]:
    """The solver and its step size controller with these tolerances; None for a constant step.

    **Arguments:** `given`: the user's controller, whose own tolerances these take the place of; or None.
    """
    rtol, atol = jnp.asarray(rtol, dtype), jnp.asarray(atol, dtype)
    if isinstance(given, diffrax.PIDController):
        controller = eqx.tree_at(lambda c: (c.rtol, c.atol), given, (rtol, atol))
    else:
        # Proportional-integral control: fewer rejected steps than the default where stability limits the step. NDF
        # selects its steps itself, through the default coefficients.
        pcoeff, icoeff = (0.0, 1.0) if isinstance(solver, NDF) else (0.3, 0.4)
        controller = diffrax.PIDController(*_of_a_step(solver, rtol, atol), pcoeff=pcoeff, icoeff=icoeff)
    if isinstance(solver, diffrax.AbstractImplicitSolver):
        solver = with_tolerances(solver, controller)
    if dt0 is not None:
        require_number("dt0", dt0, above=0)
    if isinstance(solver, diffrax.AbstractAdaptiveSolver) and not isinstance(given, diffrax.ConstantStepSize):
        return solver, controller
    if dt0 is None:
        why = "with a constant step" if given else "which has no error estimate to choose its step"
        raise wrong("dt0", f"given for {type(solver).__name__}, {why}", "None")
    return solver, None


def _of_a_step(
    solver: Any, rtol: Float[Array, ""], atol: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The tolerances of a step that make the error at the end of a run proportional to `rtol`.

    Steps shrink as rtol^{1/q} if the estimated error of a step is O(h^q), and the error at the end as h^p, where p is
    the order of the solver. Pairs that estimate the error of the lower of their orders have q = p, but RKC2 has q = 3.
    """
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        return rtol, atol
    terms: Any = None
    of_step: Any = solver.error_order(terms)
    excess = max(1, of_step / solver.order(terms)) - 1
    return (rtol ** (1 + excess), atol * rtol**excess) if excess else (rtol, atol)


def with_tolerances(solver: Any, controller: diffrax.PIDController) -> Any:
    """The solver whose root finder, if it has no tolerances of its own, has those of the controller."""
    unset = diffrax.with_stepsize_controller_tols(diffrax.VeryChord)().rtol
    names = [name for name in ("rtol", "atol", "norm") if getattr(solver.root_finder, name) is unset]
    values = [getattr(controller, name) for name in names]
    return eqx.tree_at(lambda s: [getattr(s.root_finder, name) for name in names], solver, values)
