"""Run groups of lanes by a `concurrent.futures.Executor`: processes, dask, a cluster.

A group is sent in pieces of a few lanes. Their results return as plain arrays, and only the process that called `sweep`
writes the store. A worker keeps its compiled programs from one piece of a group to the next.
"""

import dataclasses
import functools
import importlib.util
import itertools
import os
import pickle
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from typing import Any

from ...checks import wrong
from ...numerics.blas import one_blas_thread
from ..engines.choice import engine_for
from ..identity.libraries import uses_float64
from ..one_run import OneRun
from ..plan import Group
from ..result import Results
from .local import TICK_SECONDS

_MOST_LANES = 32
_PIECES_PER_GROUP = 16
_IMPORTED_IN = os.getpid()  # inherited by a forked process, which has another id itself

_Outcome = tuple[Results, BaseException | None]  # with the error by which the user's function ends the program, if any


def check_executor(executor: Any) -> None:
    """Raise ValueError unless this is an executor or None."""
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise wrong("executor", "a `concurrent.futures.Executor`", repr(executor))


class RemoteWorkers:
    """Runs groups of lanes through an executor.

    If a group says "auto", each worker chooses the engine for its own device.
    """

    def __init__(self, executor: Executor, one_run: OneRun, groups: Sequence[Group]):
        self._executor, self._one_run = executor, one_run
        self._pieces = [piece for group in groups for piece in _pieces(group)]
        self._packed = _packer(executor)
        self.running = 0

    def run(self, keep: Callable[[Results], None]) -> None:
        """Run all lanes. `keep` receives their results as they arrive, and an empty list every now and then.

        If anything raises, the pieces that have not begun are canceled.

        **Raises:** errors of `keep`; the error by which `one_run` ends the program; RuntimeError if the executor loses
        its workers or cannot run the function; ValueError if the function cannot be sent to them.
        """
        waiting: dict[Future, int] = {}
        attempt = secrets.token_hex(8)
        try:
            one_run = self._packed(self._one_run)
            for piece in self._pieces:
                future = self._executor.submit(run_piece, one_run, self._packed(piece), uses_float64(), attempt)
                waiting[future] = len(piece.lanes)
            while waiting:
                done, _ = wait(waiting, timeout=TICK_SECONDS, return_when=FIRST_COMPLETED)
                self.running = sum(lanes for future, lanes in waiting.items() if future.running())
                if not done:
                    keep([])
                # A broken executor fails many pieces at once, and the first one ends the sweep: successful ones first.
                for future in sorted(done, key=lambda each: each.cancelled() or each.exception() is not None):
                    del waiting[future]
                    results, raised = _outcome_of(future)
                    keep(results)
                    if raised is not None:
                        raise raised
        finally:
            for future in waiting:
                future.cancel()


def run_piece(one_run: Any, piece: Any, x64: bool, attempt: str) -> _Outcome:
    """Run some lanes of one group in this process, on its first device.

    `attempt` makes calls of two sweeps different: dask would repeat the error that it has kept of an equal call.
    """
    if _IMPORTED_IN != os.getpid():
        must_be = 'of processes that spawn, as with mp_context=multiprocessing.get_context("spawn")'
        raise wrong("executor", must_be, "one that forks, which JAX does not survive")
    if uses_float64() != x64:
        raise RuntimeError(
            f"this worker has jax_enable_x64={not x64}, but the sweep was called with {x64}: "
            f"set the environment variable JAX_ENABLE_X64={int(x64)} for the workers"
        )
    one_run, group = (_unpacked(each) if isinstance(each, bytes) else each for each in (one_run, piece))
    waiting, results = iter(group.lanes), []
    try:
        with one_blas_thread():
            take = lambda most: list(itertools.islice(waiting, most))
            for done in engine_for(one_run, group).work(one_run, take, lambda: False):
                results += done
    except (SystemExit, KeyboardInterrupt) as error:  # not for this process, but for the one that called `sweep`
        return results, error
    return results, None


def _packer(executor: Executor) -> Callable[[Any], Any]:
    """How a function or group is sent: unchanged to a thread, otherwise as bytes that `run_piece` unpacks.

    If a worker cannot import the function, the piece then fails with an error that says so. If the executor unpacked
    the function itself, a pool would break without an explanation, and dask would wait forever.
    """
    if isinstance(executor, ThreadPoolExecutor):
        return lambda value: value
    packing = "pickle" if isinstance(executor, ProcessPoolExecutor) else "cloudpickle"
    if importlib.util.find_spec(packing) is None:
        return lambda value: value
    dumps = importlib.import_module(packing).dumps  # cloudpickle can also send functions of scripts, and lambdas

    def packed(value: Any) -> bytes:
        try:
            return dumps(value)
        except Exception as error:
            must_be = "a function that can be sent to other processes, with settings that can"
            raise wrong("one_run", must_be, f"one that cannot ({type(error).__name__}: {error})") from error

    return packed


@functools.lru_cache(maxsize=4)  # so that all pieces have the same function object, with its programs
def _unpacked(packed: bytes) -> Any:
    try:
        return pickle.loads(packed)
    except Exception as error:
        raise RuntimeError(
            f"this worker cannot load `one_run` or its settings ({type(error).__name__}: {error}): "
            "define them where the workers can import them"
        ) from error


def _outcome_of(future: Future) -> _Outcome:
    try:
        return future.result()
    except Exception as error:
        message = f"the executor could not run a part of the sweep ({type(error).__name__}: {error})"
        raise RuntimeError(message) from error


def _pieces(group: Group) -> list[Group]:
    size = min(_MOST_LANES, -(-len(group.lanes) // _PIECES_PER_GROUP))
    pieces = [group.lanes[i : i + size] for i in range(0, len(group.lanes), size)]
    return [dataclasses.replace(group, lanes=lanes) for lanes in pieces]
