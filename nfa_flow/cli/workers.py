"""Worker processes with the precision and the data of the main process, which end together with it."""

import multiprocessing
import pickle
import signal
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from .common import start_jax


@dataclass(frozen=True)
class Sent:
    """Data that a worker receives once, at its start, instead of with every part of the work."""

    data: Any

    def __reduce__(self) -> Any:
        return _received, ()


def workers(count: int, dtype: str, cache: bool, data: Any) -> AbstractContextManager:
    """An executor with `count` processes, each of which has the data; None for 0: the threads of this process."""
    from nfa_flow.checks import require_integer

    require_integer("workers", count, at_least=0)
    if count == 0:
        return nullcontext()
    spawn = multiprocessing.get_context("spawn")  # JAX does not survive a fork
    return ProcessPoolExecutor(count, spawn, initializer=_begin, initargs=(dtype, cache, pickle.dumps(data)))


def stop(executor: ProcessPoolExecutor | None) -> None:
    """End the workers at once, without waiting for their current runs."""
    if executor is not None:
        executor.shutdown(wait=False, cancel_futures=True)  # first, so that it does not report their end as a crash
        for worker in multiprocessing.active_children():
            worker.terminate()


_in_worker: dict[str, Any] = {}


def _begin(dtype: str, cache: bool, pickled: bytes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process receives Ctrl-C too, and handles it
    start_jax(dtype, cache=cache)
    _in_worker["data"] = pickle.loads(pickled)  # after the precision is set, so that data stay float64


def _received() -> Sent:
    return Sent(_in_worker["data"])
