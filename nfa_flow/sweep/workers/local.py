"""Run groups of lanes on this machine: one thread for each core of a CPU, or for each accelerator.

XLA releases Python's lock while it computes, so threads use all cores, and they share compiled programs. Every lane
runs on one device; nothing is exchanged between devices.
"""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from ...numerics.programs import make_room_for_programs
from ..engines.choice import engine_for
from ..engines.compiled import device_of_thread, switches_of_thread
from ..engines.engine import Lane
from ..one_run import OneRun
from ..plan import Group
from ..result import Results

TICK_SECONDS = 0.2
_PATIENCE_SECONDS = 10.0


class LocalWorkers:
    """Runs groups of lanes in threads of this process."""

    def __init__(self, one_run: OneRun, groups: Sequence[Group]):
        switches = switches_of_thread()
        self._one_run = one_run
        self._jobs = [_Job(group) for group in groups]
        self._results: queue.Queue[Results] = queue.Queue()
        self._lock, self._cancelled = threading.Lock(), threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(device, switches), daemon=True) for device in _places()
        ]
        self.running = 0
        self._raised: BaseException | None = None  # an error that ended a thread

    def run(self, keep: Callable[[Results], None]) -> None:
        """Run all lanes. `keep` receives their results as they arrive, and an empty list every now and then.

        If `keep` raises an error, the threads stop, and it receives the results that they have finished by then.

        **Raises:** errors of `keep`; the error that ended a thread, such as a `SystemExit` of `one_run`, after the last
        results.
        """
        for thread in self._threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in self._threads):
                keep(self._arrived(TICK_SECONDS))
        finally:
            self._cancelled.set()
            deadline = time.monotonic() + _PATIENCE_SECONDS
            for thread in self._threads:
                thread.join(timeout=max(0.0, deadline - time.monotonic()))
            while not self._results.empty():
                keep(self._arrived())
        if self._raised is not None:
            raise self._raised

    def _arrived(self, timeout: float = 0.0) -> Results:
        try:
            return self._results.get(timeout=timeout)
        except queue.Empty:
            return []

    def _work(self, device: Any, switches: Mapping[str, Any]) -> None:
        try:
            with contextlib.ExitStack() as stack:
                for name, value in switches.items():
                    stack.enter_context(getattr(jax, name)(value))
                stack.enter_context(jax.default_device(device))
                while (job := self._next_job()) is not None:
                    self._run(job)
                    make_room_for_programs()  # of a looped setting, which no other one needs
        except BaseException as error:  # raised again by `run`: nobody sees an error of a thread
            self._raised = error
            self._cancelled.set()

    def _next_job(self) -> "_Job | None":
        """The job with waiting lanes that has the fewest threads, so that programs are compiled side by side, too."""
        with self._lock:
            jobs = [job for job in self._jobs if job.waiting]
            if not jobs or self._cancelled.is_set():
                return None
            job = min(jobs, key=lambda job: job.threads)
            job.threads += 1
            return job

    def _run(self, job: "_Job") -> None:
        """Run lanes of a group until none is left."""

        def take(most: int) -> list[Lane]:
            """The next lanes; near the end only a share of them, so that the other threads get some, too."""
            with self._lock:
                share = 0 if self._cancelled.is_set() else min(most, -(-len(job.waiting) // len(self._threads)))
                taken, job.waiting = job.waiting[:share], job.waiting[share:]
                self.running += len(taken)
            return taken

        try:
            for results in engine_for(self._one_run, job.group).work(self._one_run, take, self._cancelled.is_set):
                with self._lock:
                    self.running -= len(results)
                self._results.put(results)
        finally:
            with self._lock:
                job.threads -= 1


class _Job:
    """A group, its waiting lanes, and how many threads run it."""

    def __init__(self, group: Group):
        self.group, self.waiting, self.threads = group, list(group.lanes), 0


def _places() -> list[Any]:
    """The device of each thread: each accelerator once, or the devices of a CPU in turn for all its cores.

    If the caller has chosen a device by `jax.default_device`, there is no other.
    """
    chosen = device_of_thread()
    devices = jax.local_devices() if chosen is None else [chosen]
    if devices[0].platform != "cpu":
        return devices
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [devices[i % len(devices)] for i in range(max(len(devices), cores))]
