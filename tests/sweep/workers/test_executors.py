"""Sweeps in other processes: the same bits, whatever runs them, and a worker that dies loses nothing finished."""

import concurrent.futures
import itertools
import multiprocessing
import os
import signal
import sys
import time
import types

import distributed
import jax
import numpy as np
import pytest
from sweep.problems import linear

import nfa_flow as nf
from nfa_flow.sweep.workers import remote

GRID = nf.Grid(weight_decay=[0, 0.1], seed=range(100))

_CANNOT_LOAD = "cannot load `one_run` or its settings .ModuleNotFoundError: No module named 'module_of_nobody'"

# Whatever a scheduler or a process waits for, a test does not.
starts_processes = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def expected():
    return nf.sweep(linear, GRID, progress=False)


@pytest.fixture
def workers_import_tests(monkeypatch):
    """Let new processes find these tests, and use float64 as this one does."""
    folder = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("JAX_ENABLE_X64", "1")


@pytest.fixture
def out_of_reach(monkeypatch):
    """A function in a module that this process has, and no worker can import."""
    module = types.ModuleType("module_of_nobody")
    module.linear = types.FunctionType(linear.__code__, linear.__globals__, "linear", linear.__defaults__)
    module.linear.__module__, module.linear.__qualname__ = module.__name__, "linear"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.linear


def spawning(workers):
    return concurrent.futures.ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def test_threads_of_an_executor_give_the_same(expected):
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        dataset = nf.sweep(linear, GRID, executor=executor, progress=False)
    assert dataset.identical(expected)


def test_a_worker_of_another_precision_is_told():
    enter = lambda: jax.enable_x64(False).__enter__()  # holds for the thread
    with concurrent.futures.ThreadPoolExecutor(1, initializer=enter) as executor:
        with pytest.raises(RuntimeError, match="JAX_ENABLE_X64=1 for the workers"):
            nf.sweep(linear, GRID, executor=executor, progress=False)


def killer(worker):
    """Kills a process, as what a sweep tells its counts to, once something is finished; and the counts by then."""
    seen = []

    def kill(tally):
        if tally.done and not seen:
            os.kill(worker, signal.SIGKILL)
            seen.append(tally.done)

    return kill, seen


@starts_processes
def test_processes_give_the_same_and_a_dead_one_loses_nothing_finished(
    expected, workers_import_tests, out_of_reach, tmp_path, monkeypatch
):
    store = tmp_path / "store.zarr"
    with spawning(1) as executor:
        with pytest.raises(RuntimeError, match=_CANNOT_LOAD):
            nf.sweep(out_of_reach, GRID, executor=executor, progress=False)
        assert nf.sweep(linear, GRID, executor=executor, progress=False).identical(expected)
        kill, _ = killer(executor.submit(os.getpid).result())
        submit, pieces = executor.submit, itertools.count()
        unending = lambda *call: submit(*call) if next(pieces) < 8 else submit(time.sleep, 1e3)
        monkeypatch.setattr(executor, "submit", unending)  # so that it is killed before it has done everything
        with pytest.raises(RuntimeError, match="the executor could not run a part of the sweep .*BrokenProcessPool"):
            nf.sweep(linear, GRID, executor=executor, store=store, progress=kill)
    kept = set((store / "runs").iterdir())
    assert kept
    assert nf.sweep(linear, GRID, store=store, progress=False).identical(expected)
    assert kept < set((store / "runs").iterdir())


@starts_processes
def test_dask_gives_the_same_also_when_a_worker_is_killed(expected, workers_import_tests, out_of_reach):
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        executor, scale = client.get_executor(), 0.5
        with pytest.raises(RuntimeError, match=_CANNOT_LOAD):
            nf.sweep(out_of_reach, GRID, executor=executor, progress=False)
        kill, seen = killer(min(client.run(os.getpid).values()))
        one_run = lambda key, weight_decay: linear(key, scale, weight_decay)
        dataset = nf.sweep(one_run, GRID, executor=executor, progress=kill)
    assert seen[0] < len(GRID)
    for name in ("loss", "nfm", "status", "total_steps"):
        np.testing.assert_array_equal(dataset[name], expected[name])


def test_a_function_that_cannot_be_sent_is_refused():
    with spawning(1) as executor, pytest.raises(ValueError, match="`one_run` must be a function that can be sent"):
        nf.sweep(lambda key: linear(key), nf.Grid(), executor=executor, progress=False)


@pytest.fixture
def cluster():
    """A dask cluster of threads, without workers so far."""
    options = {"processes": False, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(n_workers=0, **options) as cluster:
        yield cluster


class Fickle:
    """`linear`, that can be loaded only where there is this file."""

    def __init__(self, file):
        self.file = file

    def __call__(self, key, weight_decay):
        return linear(key, weight_decay=weight_decay)

    def __reduce__(self):
        return load_fickle, (self.file,)


def load_fickle(file):
    if not file.exists():
        raise FileNotFoundError("nothing there")
    return Fickle(file)


@starts_processes
def test_dask_tries_again_what_failed_in_an_earlier_sweep(cluster, expected, tmp_path):
    cluster.scale(1)
    with distributed.Client(cluster) as client:
        run = lambda: nf.sweep(Fickle(tmp_path / "it"), GRID, executor=client.get_executor(), progress=False)
        with pytest.raises(RuntimeError, match="FileNotFoundError: nothing there") as kept:
            run()
        (tmp_path / "it").touch()
        np.testing.assert_array_equal(run()["loss"], expected["loss"])
        assert kept.value.__cause__


class Scripted(concurrent.futures.Executor):
    """Each unit that is submitted does what comes next in the script; all is done when the first wait begins."""

    def __init__(self, *script):
        self.script, self.futures = list(script), []

    def submit(self, function, /, *arguments, **named):
        step = self.script.pop(0)
        if step == "interrupt":
            raise KeyboardInterrupt
        future = concurrent.futures.Future()
        self.futures.append(future)
        if step == "run":
            future.set_result(function(*arguments, **named))
        if step == "break":
            future.set_exception(concurrent.futures.process.BrokenProcessPool("a worker died"))
        return future


def test_what_is_finished_when_the_executor_breaks_is_kept(tmp_path):
    grid, options = nf.Grid(weight_decay=[0, 0.1], seed=range(3)), {"store": tmp_path / "a.zarr", "progress": False}
    executor = Scripted("break", "run", "break", "run", "run", "break")
    with pytest.raises(RuntimeError, match="the executor could not run a part of the sweep .*a worker died"):
        nf.sweep(linear, grid, executor=executor, **options)
    executor = Scripted("run", "run", "run")
    assert (nf.sweep(linear, grid, executor=executor, **options)["status"] == "completed").all()
    assert len(executor.futures) == 3


def test_ctrl_c_while_units_are_submitted_cancels_them():
    executor = Scripted("wait", "wait", "interrupt")
    with pytest.raises(nf.SweepInterrupted):
        nf.sweep(linear, GRID, executor=executor, progress=False)
    assert [future.cancelled() for future in executor.futures] == [True, True]


@starts_processes
def test_processes_that_fork_are_refused(monkeypatch):
    with monkeypatch.context() as patch:  # a process that is forked inherits what this one knows of itself
        patch.setattr(remote, "_IMPORTED_IN", os.getpid() - 1)
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            with pytest.raises(RuntimeError, match="`executor` must be of processes that spawn"):
                nf.sweep(linear, GRID, executor=executor, progress=False)
