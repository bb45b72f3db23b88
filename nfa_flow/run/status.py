"""How a run ended: its status as a number inside compiled programs, as a word outside, and in a sentence."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray

RUNNING, COMPLETED, STOPPED, MAX_STEPS, DIVERGED, STEP_UNDERFLOW, SOLVER_FAILED, INTERRUPTED, NO_GRADIENT = range(9)
FULL, UNRESOLVED = 9, 10

STATUS = {
    RUNNING: "running",
    COMPLETED: "completed",
    STOPPED: "stopped",
    MAX_STEPS: "max_steps",
    DIVERGED: "diverged",
    STEP_UNDERFLOW: "step_underflow",
    SOLVER_FAILED: "solver_failed",
    INTERRUPTED: "interrupted",
    NO_GRADIENT: "no_gradient",
    FULL: "full",
    UNRESOLVED: "unresolved",
}

SUCCEEDED = ("completed", "stopped")

WHAT_HAPPENED = {
    "max_steps": "the maximum number of steps was reached",
    "diverged": "the parameters stopped being finite",
    "no_gradient": "the gradient of the loss is NaN or infinite there",
    "step_underflow": (
        "the step size fell below the resolution of time (the flow blows up there, is not smooth, or has no gradient)"
    ),
    "solver_failed": "the solver reported a failure inside a step",
    "full": "more kinks met there than the solver has room for (see `capacity` of `nf.flow.Piecewise`)",
    "unresolved": "kinks met there, and no velocity was found that is consistent at all of them",
    "interrupted": "it was interrupted",
}


def finished(runs: "xarray.Dataset") -> "xarray.DataArray":
    """Which runs of a sweep reached their end, or were ended by a stop rule."""
    return runs["status"].isin(SUCCEEDED)
