"""Plain calls of `one_run`, for functions that JAX cannot trace. Every core calls it for lanes of its own."""

from collections.abc import Callable

from ...run.trajectory import RunError, Trajectory
from ..one_run import OneRun, Row
from .engine import AbstractEngine, Runs, Take


class OneByOne(AbstractEngine):
    """Calls `one_run` for one lane after another."""

    name = "off"

    def runs(self, one_run: OneRun, take: Take, cancelled: Callable[[], bool]) -> Runs:
        """Run lanes, as in `AbstractEngine.runs`."""
        while not cancelled() and (lanes := take(1)):
            yield lanes, [self._call(one_run, lanes[0].row)]

    def _call(self, one_run: OneRun, row: Row) -> Trajectory | Exception:
        try:
            return one_run(self._fixed, row)
        except RunError as error:
            return error.trajectory
        except Exception as error:
            return error
