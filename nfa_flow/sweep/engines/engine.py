"""What brings lanes through the stages of `one_run`: the part that both ways of batching share.

A lane is one run of a sweep on its way: one row of settings, and the final states of the runs inside `one_run` that are
already integrated.
"""

import abc
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
from jaxtyping import PyTree

from ...run.trajectory import Trajectory
from ..result import RunResult
from .compiled import Compiled, device_of_thread
from .rows import rows_on_host
from .stages import Row, Stage


@dataclass(frozen=True)
class Lane:
    """One run of a sweep on its way; `index` is its place in the grid."""

    index: tuple[int, ...]
    row: Row
    finals: tuple[PyTree, ...] = ()

    def after(self, final: PyTree) -> "Lane":
        """The lane behind its next run, which ended in this state."""
        return replace(self, finals=(*self.finals, final))


Take = Callable[[int], Sequence[Lane]]  # at most this many of the lanes that are left; none left: empty
Deliver = Callable[[Sequence[tuple[Lane, RunResult]]], None]


class Leg:
    """A stage with its programs for batches of rows, and what its rows share, on every device that asks for it."""

    def __init__(self, stage: Stage, prepare: Compiled, advance: Compiled):
        self.stage, self.prepare, self.advance = stage, prepare, advance
        self._shared: dict[Any, PyTree] = {}
        self._lock = threading.Lock()

    def shared(self, lane: Lane) -> PyTree:
        """What all rows have in common, on the device of this thread."""
        device = device_of_thread()
        with self._lock:
            if device not in self._shared:
                self._shared[device] = self.stage.shared(lane.row, lane.finals)
        return self._shared[device]

    def arrays(self) -> list[Any]:
        """What all rows have in common, on all devices."""
        return [leaf for leaf in jax.tree.leaves(list(self._shared.values())) if isinstance(leaf, jax.Array)]


class AbstractEngine(abc.ABC):
    """Runs lanes of one group: those that differ in their batched settings only. Threads may share it.

    **Arguments:** `one_run`; `fixed`: the settings that all lanes of the group have in common.
    """

    name: ClassVar[str]

    def __init__(self, one_run: Callable, fixed: Mapping[str, Any]):
        self._one_run: Callable[[], Callable | None] = lambda: one_run
        if type(one_run).__weakrefoffset__:
            self._one_run = weakref.ref(one_run)
        self._fixed = fixed

    @property
    def one_run(self) -> Callable:
        """The user's function, which whoever works holds: an engine alone does not keep it, and the data in it, alive.

        **Raises:** ReferenceError when it is gone.
        """
        one_run = self._one_run()
        if one_run is None:
            raise ReferenceError("the function of this engine is gone")
        return one_run

    def arrays(self) -> list[Any]:
        """What it holds on devices from one batch of lanes to the next."""
        return []

    @abc.abstractmethod
    def work(self, take: Take, deliver: Deliver, cancelled: Callable[[], bool]) -> None:
        """Run lanes until `take` has none left, or until `cancelled()`."""


class AbstractCompiledEngine(AbstractEngine):
    """An engine that integrates the runs inside `one_run` itself, in programs made once for all threads."""

    def __init__(self, one_run: Callable, fixed: Mapping[str, Any]):
        super().__init__(one_run, fixed)
        self._legs: list[Leg] = []
        self._lock = threading.Lock()

    def arrays(self) -> list[Any]:
        """See `AbstractEngine.arrays`."""
        return [array for leg in list(self._legs) for array in leg.arrays()]

    @abc.abstractmethod
    def _make_leg(self, stage: Stage) -> Leg:
        """A stage with the programs of this engine."""

    def leg(self, lane: Lane) -> Leg:
        """The next stage of this lane."""
        with self._lock:
            number = len(lane.finals)
            if number == len(self._legs):
                self._legs.append(self._make_leg(Stage(self.one_run, self._fixed, lane.row, lane.finals)))
            return self._legs[number]


def trajectories(stage: Stage, arrays: PyTree, count: int) -> list[Trajectory]:
    """The trajectories in the first rows of the last stage's arrays, brought to the host at once."""
    return [stage.trajectory(row) for row in rows_on_host(arrays, count)]
