"""Which solver and tolerance a flow gets by default, and how many gradients a solver's step costs."""

import warnings
from typing import Any

import diffrax
import jax.numpy as jnp
from jaxtyping import DTypeLike

from ...checks import is_traced
from ...numerics.precision import is_half
from ..kinks.find import Kinks
from .flow_solver import AbstractFlowSolver
from .ndf import NDF
from .piecewise import Piecewise
from .smoothed import Smoothed
from .tsrkc3 import TSRKC3

NDF_VECTORS = 23  # parameter vectors, by XLA's account of a whole solve (`python benchmarks/solvers.py --scaling`)
_NDF_BYTES = 4 * 2**30
_MOST_KINKS = 50_000  # of all samples: a run locates many of them, one by one, and takes minutes if there are more
_KINKS_COST_BELOW = 1e-4
_EXACT_RTOL, _LOOSE_RTOL = 1e-6, 1e-3
_FINEST = 8  # rounding errors, below which a tolerance asks for more than there is


def choose_solver(
    dtype: DTypeLike,
    parameter_bytes: int,
    kinks: Kinks,
    gates: int | str = 0,
    *,
    symmetric: bool = True,
    stiff: bool = True,
) -> tuple[diffrax.AbstractSolver, str]:
    """A solver for this flow, and the reason in words.

    **Arguments:** `kinks`: where there are some; `gates`: the number of kinks of all samples, or a word for those that
    cannot be gated; `symmetric`: whether the Jacobian is, as that of gradient flow; `stiff`: whether those that are not
    need an implicit method.

    It depends only on properties that all runs of a sweep share, so that each gets the solver that it would get alone.

    Measured with `python benchmarks/solvers.py --horizons 1 10 1e2` (kinks: `--problems relu`): on smooth networks NDF
    needs about as many gradients as the best explicit pair if the flow is not stiff (so changing from one to the other
    within a run would not save any), and far fewer if it is. Across kinks no method for smooth flows keeps its order;
    the stabilized one takes as many stages as the sharpness that it meets on its way requires.
    """
    if is_half(dtype):
        return diffrax.Tsit5(), f"{dtype} is too coarse for anything but an explicit pair"
    if not symmetric:
        across = "" if kinks is None else f", across kinks in the {kinks} that it does not locate"
        if stiff and kinks is None and dtype == jnp.float64:
            return NDF(), "stiff, with a Jacobian that is not symmetric"
        return diffrax.Tsit5(), f"an explicit pair for a Jacobian that is not symmetric{across}"
    if kinks is not None:
        return _across_kinks(kinks, gates)
    if parameter_bytes * NDF_VECTORS > _NDF_BYTES:
        return TSRKC3(), f"smooth, but too large for the {NDF_VECTORS} parameter vectors of NDF"
    return NDF(), "smooth activations"


def _across_kinks(kinks: Kinks, gates: int | str) -> tuple[diffrax.AbstractSolver, str]:
    if isinstance(gates, str):
        why = f"kinks in {gates}"
    elif gates == 0:
        why = f"kinks in the {kinks} that are not those of a selection, such as the cusp of a norm"
    elif gates > _MOST_KINKS:
        why = f"{gates} kinks in the {kinks}, so many that `Piecewise` would take long"
    else:
        return Piecewise(), f"kinks in the {kinks}, each of which is located"
    return TSRKC3(), f"{why}: trajectory accuracy is not certified across them"


def ignored_kinks(solver: Any, kinks: Kinks) -> Kinks:
    """The kinks that a solver treats as if the flow were smooth there."""
    return None if isinstance(solver, Piecewise | Smoothed) else kinks


def default_rtol(dtype: DTypeLike, kinks: Kinks) -> float:
    """A tolerance that the floating-point type, and kinks that the solver ignores, allow at a reasonable cost."""
    return max(_EXACT_RTOL if kinks is None else _LOOSE_RTOL, _FINEST * float(jnp.finfo(dtype).eps))


def warn_about_tolerance(rtol: Any, dtype: DTypeLike, kinks: Kinks) -> None:
    """Warn when a tolerance is smaller than the floating-point type or a flow across kinks can reach."""
    if is_traced(rtol):
        return
    resolution = _FINEST * float(jnp.finfo(dtype).eps)
    if rtol < resolution:
        message = (
            f"`rtol` = {rtol:g} is finer than {dtype} can give (about {resolution:.1g}); "
            "use float64 or a larger `rtol`."
        )
        warnings.warn(message, UserWarning, stacklevel=3)
    if kinks is not None and rtol < _KINKS_COST_BELOW:
        message = (
            f"`rtol` = {rtol:g} with kinks in the {kinks}: every kink that a trajectory crosses forces tiny steps, "
            f"which can cost a hundred times more than `rtol` = {_KINKS_COST_BELOW:g}, and accuracy is not certified "
            "there."
        )
        warnings.warn(message, UserWarning, stacklevel=3)


def evaluations_per_step(solver: diffrax.AbstractSolver) -> tuple[int, int] | None:
    """(gradients in each step, extra gradients until the first step is accepted), or None if it is not known.

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
