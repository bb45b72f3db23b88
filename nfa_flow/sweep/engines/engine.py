"""What brings lanes through the stages of `one_run`: the part that both ways of batching share.

A lane is one run of a sweep on its way: one row of settings, and the final states of the runs inside `one_run` that are
already integrated. An engine does not keep `one_run`, nor the data in it, alive: whoever works, brings it.
"""

import abc
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

from jaxtyping import PyTree

from ...run.trajectory import Trajectory
from ..one_run import OneRun, Row
from ..result import Results, RunResult, failed, to_result
from .rows import rows_on_host
from .stages import Stage


@dataclass(frozen=True)
class Lane:
    """One run of a sweep on its way; `key` identifies it."""

    key: str
    row: Row
    finals: tuple[PyTree, ...] = ()

    def after(self, final: PyTree) -> "Lane":
        """The lane behind its next run, which ended in this state."""
        return replace(self, finals=(*self.finals, final))


Take = Callable[[int], Sequence[Lane]]  # at most this many of the lanes that are left; none left: empty
Runs = Iterator[tuple[Sequence[Lane], Sequence[Trajectory | Exception]]]  # lanes at their ends, and what came of them


class AbstractEngine(abc.ABC):
    """Runs lanes of one group: those that differ in their batched settings only. Threads may share it.

    **Arguments:** `fixed`: the settings that all lanes of the group have in common.
    """

    name: ClassVar[str]

    def __init__(self, fixed: Mapping[str, Any]):
        self._fixed = fixed
        self._has_worked = False  # whether any lane has come to its end

    @abc.abstractmethod
    def runs(self, one_run: OneRun, take: Take, cancelled: Callable[[], bool]) -> Runs:
        """Run lanes until `take` has none left, or until `cancelled()`; with the same `one_run` every time."""

    def work(self, one_run: OneRun, take: Take, cancelled: Callable[[], bool]) -> Iterator[Results]:
        """The results of `runs` as they arrive, each with its share of the time since the previous ones.

        An error in Python fails the lanes that were taken and have no result yet, and the work continues with others.

        **Raises:** `SystemExit` and `KeyboardInterrupt` of `one_run`, after the results of these lanes.
        """
        held: set[str] = set()

        def take_noted(most: int) -> Sequence[Lane]:
            lanes = take(most)
            held.update(lane.key for lane in lanes)
            return lanes

        while True:
            began = time.perf_counter()
            try:
                for lanes, runs in self.runs(one_run, take_noted, cancelled):
                    seconds = (time.perf_counter() - began) / len(lanes)
                    held.difference_update(lane.key for lane in lanes)
                    self._has_worked = True
                    yield [(lane.key, self._result(run, seconds)) for lane, run in zip(lanes, runs, strict=True)]
                    began = time.perf_counter()
                return
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                # If no lane of the group has ever ended, its program is to blame: the other lanes would fail, too.
                while isinstance(error, Exception) and not self._has_worked and take_noted(1):
                    pass
                yield [(key, failed(error)) for key in held]
                if not isinstance(error, Exception):
                    raise
                held.clear()

    def _result(self, run: Trajectory | Exception, seconds: float) -> RunResult:
        return failed(run, seconds) if isinstance(run, Exception) else to_result(run, seconds, self.name)


class CompiledStage(NamedTuple):
    """A stage with its programs for batches of rows."""

    stage: Stage
    prepare: Callable
    advance: Callable

    def trajectories(self, arrays: PyTree, count: int) -> list[Trajectory]:
        """The trajectories in the first rows of the last stage's arrays, brought to the host at once."""
        return [self.stage.trajectory(row) for row in rows_on_host(arrays, count)]


class AbstractCompiledEngine(AbstractEngine):
    """An engine that integrates the runs inside `one_run` itself, in programs made once for all threads."""

    def __init__(self, fixed: Mapping[str, Any]):
        super().__init__(fixed)
        self.stages: list[CompiledStage] = []
        self._lock = threading.Lock()

    @abc.abstractmethod
    def compiled(self, stage: Stage) -> CompiledStage:
        """A stage with the programs of this engine."""

    def stage(self, one_run: OneRun, lane: Lane) -> CompiledStage:
        """The next stage of this lane."""
        with self._lock:
            number = len(lane.finals)
            if number == len(self.stages):
                self.stages.append(self.compiled(Stage(one_run, self._fixed, lane.row, lane.finals)))
            return self.stages[number]
