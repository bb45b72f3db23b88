"""Work off groups of lanes by a `concurrent.futures.Executor`: processes, dask, a cluster.

A unit of work is a handful of lanes of one group. Its results come back as plain arrays, and the process that called
`sweep` alone writes the store. A worker keeps its compiled programs from one unit to the next.
"""

import dataclasses
import importlib.util
import pickle
import secrets
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from typing import Any

from ...checks import wrong
from ...numerics.blas import one_blas_thread
from ..engines.choice import engine_for
from ..engines.engine import Lane
from ..identity.libraries import uses_float64
from ..plan import Group
from ..result import RunResult, failed
from .local import TICK_SECONDS, Results
from .watch import Watch

_MOST_LANES = 32
_UNITS_PER_GROUP = 16
_MOST_FUNCTIONS = 2  # that a worker keeps with their programs

_UnitOfWork = tuple[Callable, str, Group]  # one_run, its fingerprint, and some lanes
_Outcome = tuple[Results, BaseException | None]  # with what the user's function raised to end the program


def check_executor(executor: Any) -> None:
    """Raise unless an executor can run parts of a sweep.

    A forked process inherits JAX's locks without the threads that would open them, and hangs.
    """
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise wrong("executor", "a `concurrent.futures.Executor`", repr(executor))
    context = getattr(executor, "_mp_context", None)
    if isinstance(executor, ProcessPoolExecutor) and context is not None and context.get_start_method() == "fork":
        must_be = 'a ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))'
        raise wrong("executor", must_be, "one that forks, which JAX does not survive")


class RemoteWorkers:
    """Runs groups of lanes through an executor.

    **Arguments:** `executor`; `one_run`; `fingerprint`: of what it computes, by which a worker knows it again;
    `groups`: where one says "auto", each worker decides for its own device.
    """

    def __init__(self, executor: Executor, one_run: Callable, fingerprint: str, groups: Sequence[Group]):
        self._executor = executor
        self._units = [(one_run, fingerprint, unit) for group in groups for unit in _units(group)]
        self._pack = _packer(executor)
        self.running = 0

    def results(self) -> Generator[Results, None, None]:
        """Results as they come, and an empty list every now and then; what has not begun is cancelled at the end.

        **Raises:** RuntimeError when the executor loses its workers, or cannot run the function; ValueError when the
        function cannot be sent to them.
        """
        submit, watch = self._executor.submit, Watch(self._executor)
        waiting: dict[Future, int] = {}
        attempt = secrets.token_hex(8)
        try:
            for unit in self._units:
                waiting[submit(run_unit, self._packed(unit), uses_float64(), attempt)] = len(unit[-1].lanes)
            while waiting:
                done, _ = wait(waiting, timeout=TICK_SECONDS, return_when=FIRST_COMPLETED)
                self.running = sum(lanes for future, lanes in waiting.items() if future.running())
                if not done:
                    watch.look()
                    yield []
                # An executor that breaks fails many at once, and the first of them ends the sweep.
                for future in sorted(done, key=_failed):
                    del waiting[future]
                    results, raised = _outcome_of(future)
                    yield results
                    if raised is not None:
                        raise raised
        finally:
            for future in waiting:
                future.cancel()

    def _packed(self, unit: _UnitOfWork) -> bytes | _UnitOfWork:
        try:
            return self._pack(unit)
        except Exception as error:
            must_be = "a function that can be sent to other processes, with settings that can"
            raise wrong("one_run", must_be, f"one that cannot ({type(error).__name__}: {error})") from error


def run_unit(unit_of_work: bytes | _UnitOfWork, x64: bool, attempt: str) -> _Outcome:
    """Run some lanes of one group in this process, on its first device.

    `attempt` tells a call from the same one in another sweep: dask would repeat the error that it kept of that.
    """
    if uses_float64() != x64:
        raise RuntimeError(
            f"this worker has jax_enable_x64={not x64}, but the sweep was called with {x64}: "
            f"set the environment variable JAX_ENABLE_X64={int(x64)} for the workers"
        )
    one_run, fingerprint, unit = _unpacked(unit_of_work) if isinstance(unit_of_work, bytes) else unit_of_work
    one_run = _known(one_run, fingerprint)
    waiting, results, raised = list(unit.lanes), [], None

    def take(most: int) -> list[Lane]:
        taken = waiting[:most]
        del waiting[:most]
        return taken

    def deliver(done: Sequence[tuple[Lane, RunResult]]) -> None:
        results.extend((lane.index, result) for lane, result in done)

    try:
        with one_blas_thread():
            engine_for(one_run, fingerprint, unit).work(take, deliver, lambda: False)
    except BaseException as error:
        known = {index for index, _ in results}
        results.extend((lane.index, failed(error)) for lane in unit.lanes if lane.index not in known)
        raised = None if isinstance(error, Exception) else error
    return results, raised


def _known(one_run: Callable, fingerprint: str) -> Callable:
    """The function as earlier units brought it, so that its programs stay."""
    with _lock:
        one_run = _functions.pop(fingerprint, one_run)
        _functions[fingerprint] = one_run
        if len(_functions) > _MOST_FUNCTIONS:
            del _functions[next(iter(_functions))]
        return one_run


_functions: dict[str, Callable] = {}
_lock = threading.Lock()


def _packer(executor: Executor) -> Callable[[_UnitOfWork], bytes | _UnitOfWork]:
    """How units of work are sent: as bytes that `run_unit` unpacks in the worker, as they are to a thread.

    What a worker cannot import is then an error of the unit. A pool whose worker unpacks its own messages would break
    without saying why, and dask would wait for ever.
    """
    if isinstance(executor, ProcessPoolExecutor):
        return pickle.dumps
    if isinstance(executor, ThreadPoolExecutor) or importlib.util.find_spec("cloudpickle") is None:
        return lambda unit: unit
    import cloudpickle  # what dask and most other executors pickle with, scripts and lambdas included

    return cloudpickle.dumps


def _unpacked(unit: bytes) -> _UnitOfWork:
    try:
        return pickle.loads(unit)
    except Exception as error:
        raise RuntimeError(
            f"this worker cannot load `one_run` or its settings ({type(error).__name__}: {error}): "
            "define them where the workers can import them"
        ) from error


def _failed(future: Future) -> bool:
    return future.cancelled() or future.exception() is not None


def _outcome_of(future: Future) -> _Outcome:
    try:
        return future.result()
    except Exception as error:
        message = f"the executor could not run a part of the sweep ({type(error).__name__}: {error})"
        raise RuntimeError(message) from error


def _units(group: Group) -> list[Group]:
    size = min(_MOST_LANES, -(-len(group.lanes) // _UNITS_PER_GROUP))
    pieces = [group.lanes[i : i + size] for i in range(0, len(group.lanes), size)]
    return [dataclasses.replace(group, lanes=lanes) for lanes in pieces]
