"""Which solver follows a flow when the user names none, and how many gradients a solver's step costs."""

import warnings
from collections.abc import Callable
from typing import Any

import diffrax
import jax.numpy as jnp
from jaxtyping import DTypeLike

from ..checks import is_traced
from .flow_solver import AbstractFlowSolver
from .ndf import NDF
from .tsrkc3 import TSRKC3

_KINKS_COST_BELOW = 1e-4
_LOOSE = 3e-3
NDF_VECTORS = 23  # parameter vectors, by XLA's account of a whole solve (`python benchmarks/solvers.py --scaling`)
_NDF_BYTES = 4 * 2**30


def choose_solver(
    rtol: Any, dtype: DTypeLike, parameter_bytes: int, *, has_kinks: bool, stiffness: Callable[[], float | None]
) -> tuple[diffrax.AbstractSolver, str]:
    """A solver for this flow, and the reason in words.

    **Arguments:** `stiffness`: asked only where it matters, gives sharpness at the start × horizon, or None where that
    is not known (under `jax.vmap`).

    Measured with `python benchmarks/solvers.py --horizons 1 10 1e2` (kinks: `--problems relu`): on smooth
    networks NDF needs about as many gradients as the best explicit pair where the flow is not stiff (so changing from
    one to the other within a run would not pay), and far fewer where it is. Across the kinks of piecewise
    linear activations no method keeps its order; loose tolerances and long horizons belong to the stabilised method,
    the rest to an explicit pair.
    """
    if jnp.finfo(dtype).bits < 32:
        return diffrax.Tsit5(), f"{dtype} is too coarse for anything but an explicit pair"
    if not has_kinks:
        if parameter_bytes * NDF_VECTORS > _NDF_BYTES:
            return TSRKC3(), f"smooth, but too large for the {NDF_VECTORS} parameter vectors of NDF"
        return NDF(), "smooth activations"
    warning = "trajectory accuracy is not certified across kinks"
    if is_traced(rtol):
        return diffrax.Tsit5(), f"kinks: {warning}"
    product = stiffness()
    shown = "" if product is None else f", sharpness * horizon = {product:.3g}"
    if rtol >= _LOOSE or (product is not None and rtol * product >= 3):
        return TSRKC3(), f"kinks at a loose tolerance or over a long horizon{shown}: {warning}"
    return diffrax.Tsit5(), f"kinks{shown}: {warning}"


def warn_about_tolerance(rtol: Any, dtype: DTypeLike, *, has_kinks: bool) -> None:
    """Say so when a tolerance asks for more than the floating-point type or a kinked network can give."""
    if is_traced(rtol):
        return
    resolution = 8 * float(jnp.finfo(dtype).eps)
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
