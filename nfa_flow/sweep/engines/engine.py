"""Engines: they compute lanes, stage by stage.

A lane is one run of a sweep while it is computed: one row of settings, and the final states of those integrations
inside `one_run` that have ended. An engine gets `one_run` with every call and does not keep it, nor the data in it.
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
    """One run of a sweep while it is computed; `key` identifies it."""

    key: str
    row: Row
    finals: tuple[PyTree, ...] = ()

    def after(self, final: PyTree) -> "Lane":
        """The lane after its next integration, which ended in this state."""
        return replace(self, finals=(*self.finals, final))


Take = Callable[[int], Sequence[Lane]]  # the next lanes, at most this many; empty if none is left
Runs = Iterator[tuple[Sequence[Lane], Sequence[Trajectory | Exception]]]  # finished lanes, and the outcome of each


class AbstractEngine(abc.ABC):
    """Runs the lanes of one group. Threads may share it.

    **Arguments:** `fixed`: the settings that all lanes of the group have in common.
    """

    name: ClassVar[str]

    def __init__(self, fixed: Mapping[str, Any]):
        self._fixed = fixed
        self._has_worked = False  # whether any lane has ever ended

    @abc.abstractmethod
    def runs(self, one_run: OneRun, take: Take, cancelled: Callable[[], bool]) -> Runs:
        """Run lanes until none is left, or until `cancelled()`. Every call gets the same `one_run`."""

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
        """The trajectories in the first rows of the arrays of the last stage, transferred to the host together."""
        return [self.stage.trajectory(row) for row in rows_on_host(arrays, count)]


class AbstractCompiledEngine(AbstractEngine):
    """An engine that integrates the runs inside `one_run` itself, by programs that all threads share."""

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
