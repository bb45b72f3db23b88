"""nfa_flow: exact gradient flow of neural networks, and how their weights relate to their average gradients."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from .run.interrupts import never_ignored as _never_ignored

with _never_ignored():  # while JAX is imported, which takes seconds
    from . import data as data
    from . import descent as descent
    from . import flow as flow
    from . import measure as measure
    from . import nets as nets
    from . import one_step as one_step
    from . import plot as plot
    from . import theory as theory
    from . import width as width
    from .data import Dataset as Dataset
    from .descent import gradient_descent as gradient_descent
    from .flow import GradientNormBelow as GradientNormBelow
    from .flow import LossBelow as LossBelow
    from .flow import StopAfter as StopAfter
    from .flow import StopWhen as StopWhen
    from .flow import dynamics as dynamics
    from .flow import gradient_flow as gradient_flow
    from .flow import log_times as log_times
    from .problem.losses import TotalLoss as TotalLoss
    from .run.trajectory import RunError as RunError
    from .run.trajectory import RunInterrupted as RunInterrupted
    from .run.trajectory import Trajectory as Trajectory
    from .sweep import Grid as Grid
    from .sweep import SweepInterrupted as SweepInterrupted
    from .sweep import batched as batched
    from .sweep import load_sweep as load_sweep
    from .sweep import looped as looped
    from .sweep import sweep as sweep
    from .sweep import zipped as zipped

if _TYPE_CHECKING:
    from . import studies as studies


def __getattr__(name: str) -> _Any:
    """`nf.studies`, which is imported when it is first used."""
    if name == "studies":
        from importlib import import_module

        return import_module(".studies", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "studies"])
