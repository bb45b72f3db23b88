"""Plain calls of `one_run`, for functions that JAX cannot trace; every core calls it for lanes of its own."""

import time
from collections.abc import Callable

from ...run.trajectory import RunError
from ..plan import plain_settings
from ..result import RunResult, failed, to_result
from .engine import AbstractEngine, Deliver, Take
from .stages import Row, require_trajectory


class OneByOne(AbstractEngine):
    """Calls `one_run` for one lane after another."""

    name = "off"

    def work(self, one_run: Callable, take: Take, deliver: Deliver, cancelled: Callable[[], bool]) -> None:
        """See `AbstractEngine.work`."""
        while not cancelled() and (lanes := take(1)):
            deliver([(lanes[0], self._call(one_run, lanes[0].row))])

    def _call(self, one_run: Callable, row: Row) -> RunResult:
        began = time.perf_counter()
        try:
            run = require_trajectory(one_run(**plain_settings(self._fixed, row)))
        except RunError as error:
            run = error.trajectory
        except Exception as error:
            return failed(error, time.perf_counter() - began)
        return to_result(run, time.perf_counter() - began, self.name)
