"""Sweeps in other processes: the same bits, whatever runs them, and a worker that dies loses nothing finished."""

import concurrent.futures
import multiprocessing
import os
import sys
import types

import distributed
import numpy as np
import pytest
from sweep.problems import dies_once, linear

import nfa_flow as nf

GRID = nf.Grid(weight_decay=[0, 0.1], seed=range(6))


_CANNOT_LOAD = "cannot load `one_run` or its settings .ModuleNotFoundError: No module named 'module_of_nobody'"

# A scheduler without workers waits for new ones, as it should; a test must not.
starts_processes = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def expected():
    return nf.sweep(linear, GRID, progress=False)


@pytest.fixture
def workers_import_tests(monkeypatch):
    """Let new processes find these tests, and use float64 as this one does."""
    folder = os.path.dirname(os.path.dirname(__file__))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("JAX_ENABLE_X64", "1")


def spawning(workers):
    return concurrent.futures.ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def test_threads_of_an_executor_give_the_same(expected):
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        dataset = nf.sweep(linear, GRID, executor=executor, progress=False)
    assert dataset.identical(expected)


@starts_processes
def test_processes_give_the_same_and_a_dead_one_loses_nothing_finished(expected, workers_import_tests, tmp_path):
    with spawning(1) as executor:
        dataset = nf.sweep(linear, GRID, executor=executor, progress=False)
        assert dataset.identical(expected)
        options = {"store": tmp_path / "store.zarr", "batch": "off", "progress": False}
        grid = nf.Grid(seed=range(6), marker=[str(tmp_path / "marker")], parent=[os.getpid()])
        with pytest.raises(RuntimeError, match="the executor could not run a part of the sweep .*BrokenProcessPool"):
            nf.sweep(dies_once, grid, executor=executor, **options)
    assert (tmp_path / "marker").exists()
    kept = set((tmp_path / "store.zarr" / "runs").iterdir())
    assert kept
    dataset = nf.sweep(dies_once, grid, **options)
    assert (dataset["status"] == "completed").all()
    assert kept < set((tmp_path / "store.zarr" / "runs").iterdir())


@starts_processes
def test_dask_gives_the_same_and_survives_a_killed_worker(expected, workers_import_tests, out_of_reach, tmp_path):
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        with pytest.raises(RuntimeError, match=_CANNOT_LOAD):
            nf.sweep(out_of_reach, GRID, executor=client.get_executor(), progress=False)
        scale = 0.5
        dataset = nf.sweep(
            lambda key, weight_decay: linear(key, scale, weight_decay),
            GRID,
            executor=client.get_executor(),
            progress=False,
        )
        for name in ("loss", "nfm", "status", "total_steps"):
            np.testing.assert_array_equal(dataset[name], expected[name])
        grid = nf.Grid(seed=range(6), marker=[str(tmp_path / "marker")], parent=[os.getpid()])
        dataset = nf.sweep(dies_once, grid, executor=client.get_executor(), batch="off", progress=False)
    assert (tmp_path / "marker").exists()
    assert (dataset["status"] == "completed").all()


@starts_processes
def test_a_worker_of_another_precision_is_told(workers_import_tests, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "0")
    with spawning(1) as executor, pytest.raises(RuntimeError, match="JAX_ENABLE_X64=1 for the workers"):
        nf.sweep(linear, GRID, executor=executor, progress=False)


@pytest.fixture
def out_of_reach(monkeypatch):
    """A function in a module that this process has, and no worker can import."""
    module = types.ModuleType("module_of_nobody")
    module.linear = types.FunctionType(linear.__code__, linear.__globals__, "linear", linear.__defaults__)
    module.linear.__module__, module.linear.__qualname__ = module.__name__, "linear"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.linear


@starts_processes
def test_processes_that_cannot_import_the_function_say_so(workers_import_tests, out_of_reach):
    with spawning(1) as executor, pytest.raises(RuntimeError, match=_CANNOT_LOAD):
        nf.sweep(out_of_reach, GRID, executor=executor, progress=False)


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


def test_processes_that_fork_are_refused():
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        with pytest.raises(ValueError, match="`executor` must be a ProcessPoolExecutor"):
            nf.sweep(linear, GRID, executor=executor, progress=False)
