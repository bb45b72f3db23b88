"""Interrupted sweeps: what is finished stays, the rest is computed, and the whole is the same to the last bit."""

import dataclasses
import errno
import gc
import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import xarray
from sweep.problems import linear, slow

import nfa_flow as nf
from nfa_flow.sweep.store import keeper as keeper_module
from nfa_flow.sweep.store import store as store_module

GRID = nf.Grid(weight_decay=[0, 0.1], seed=range(4))

# 100 runs of some milliseconds each.
SCRIPT = """
import sys
import nfa_flow as nf
from nfa_flow.sweep.store import keeper
from sweep.problems import slow
keeper._FLUSH_SECONDS = 0.1
dataset = nf.sweep(slow, nf.Grid(weight_decay=[0, 0.1], seed=range(50)), store=sys.argv[1], progress=False)
"""


@pytest.fixture
def environment():
    folder = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    path = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
    return os.environ | {"JAX_ENABLE_X64": "1", "PYTHONPATH": path}


def parts(store):
    return {part for part in (store / "runs").glob("*") if part.is_dir()}


def test_a_sweep_killed_at_three_random_moments_ends_as_an_uninterrupted_one(tmp_path, environment):
    whole, killed, moments = tmp_path / "whole.zarr", tmp_path / "killed.zarr", random.Random(0)
    call = lambda store: subprocess.Popen([sys.executable, "-c", SCRIPT, str(store)], env=environment)
    nf.sweep(slow, nf.Grid(weight_decay=[0, 0.1], seed=range(50)), store=whole, progress=False)
    kept, interrupted, count = set(), 0, 0
    for _ in range(3):
        process = call(killed)
        while process.poll() is None and not parts(killed) - kept:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        if process.poll() is not None:  # a fast machine has finished
            break
        interrupted += 1
        process.kill()
        process.wait()
        assert kept < parts(killed)
        kept = parts(killed)
        finished = nf.load_sweep(killed)  # without running it again
        assert finished["loss_at_end"].notnull().equals(finished["status"] == "completed")
        assert finished["loss_at_end"].notnull().any() and finished.sizes["seed"] == 50
        shown = xarray.open_zarr(killed)
        if "status" in shown:  # as it was when that sweep began, or just ended
            assert int((shown["status"] == "completed").sum()) in (count, 100)
        count = int((finished["status"] == "completed").sum())
    assert interrupted
    both = call(killed), call(killed)  # two processes on one store
    assert [process.wait() for process in both] == [0, 0]
    assert kept <= parts(killed)  # equal where the last kill came after the last run
    assert nf.load_sweep(killed).identical(nf.load_sweep(whole))
    assert nf.load_sweep(whole).sizes["seed"] == 50


def test_a_finished_sweep_computes_nothing_and_added_values_compute_only_themselves(tmp_path, compilations):
    options = {"store": tmp_path / "a.zarr", "progress": False}
    first = nf.sweep(linear, GRID, **options)
    before = parts(options["store"])
    compilations()
    assert nf.sweep(linear, GRID, **options).identical(first)
    assert compilations() == 0
    more = nf.sweep(linear, nf.Grid(weight_decay=[0.05, 0, 0.1], seed=range(4)), **options)
    assert before < parts(options["store"])
    for name in ("loss", "nfm", "total_steps"):
        np.testing.assert_array_equal(more[name].sel(weight_decay=[0, 0.1]), first[name])
    assert (tmp_path / "a.csv").read_text().count("\n") == 13


def test_a_store_of_another_function_is_refused_or_accepted_knowingly(tmp_path):
    scale = 0.5

    def one_run(key, weight_decay):
        return linear(key, scale, weight_decay)

    grid, options = nf.Grid(weight_decay=[0.1]), {"store": tmp_path / "a.zarr", "progress": False}
    first = nf.sweep(one_run, grid, **options)
    scale = 0.25
    with pytest.raises(ValueError, match="`store` must be .*\n  one_run.scale: 0.5 → 0.25\n.*accept="):
        nf.sweep(one_run, grid, **options)
    kept = nf.sweep(one_run, grid, **options, accept="one_run.scale")
    assert kept.equals(first)
    assert json.loads(kept.attrs["accepted"])[0]["differences"] == {"one_run.scale": {"was": "0.5", "is": "0.25"}}
    assert nf.sweep(one_run, grid, **options).identical(kept)


def test_runs_of_two_generators_of_random_numbers_are_not_mixed(tmp_path):
    options = {"store": tmp_path / "a.zarr", "progress": False}
    nf.sweep(linear, nf.Grid(seed=[0]), **options)
    with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable):
        with pytest.raises(ValueError, match="random_numbers.partitionable: true → false"):
            nf.sweep(linear, nf.Grid(seed=[0, 1]), **options)


def test_a_function_that_is_refused_leaves_no_store(tmp_path):
    def one_run(key):
        return linear(key, width=-1)

    options = {"store": tmp_path / "a.zarr", "progress": False}
    with pytest.raises(ValueError, match="width"):
        nf.sweep(one_run, nf.Grid(), **options)
    assert not any(tmp_path.iterdir())
    assert (nf.sweep(linear, nf.Grid(), **options)["status"] == "completed").all()


def test_a_store_that_is_a_file_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "a.zarr").write_text("mine")
    with pytest.raises(ValueError, match="`store` must be"):
        nf.sweep(linear, GRID, store=tmp_path / "a.zarr", progress=False)


def full(*arguments, **others):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_and_leaves_what_is_finished(tmp_path, monkeypatch):
    options = {"store": tmp_path / "a.zarr", "progress": False}
    nf.sweep(linear, nf.Grid(weight_decay=[0, 0.1], seed=range(2)), **options)
    before = parts(options["store"])
    with monkeypatch.context() as patch:
        patch.setattr(store_module.os, "rename", full)
        with pytest.raises(OSError, match="No space left on device.*4 finished runs in it are intact.*Free some space"):
            nf.sweep(linear, GRID, **options)
    assert parts(options["store"]) == before
    assert (nf.sweep(linear, GRID, **options)["status"] == "completed").all()


def once(action):
    """What is called before a function of the store, and only the first time does harm."""
    calls = []

    def wrap(function):
        def wrapped(*arguments):
            calls.append(arguments)
            if len(calls) == 1:
                action()
            return function(*arguments)

        return wrapped

    return calls, wrap


def interrupt():
    raise KeyboardInterrupt


@pytest.fixture
def written_only_at_the_end(monkeypatch):
    """However slow the machine is."""
    monkeypatch.setattr(keeper_module, "_FLUSH_SECONDS", np.inf)


@pytest.mark.parametrize("place", ["write", "summarize"])
def test_ctrl_c_at_the_very_end_loses_no_run(place, tmp_path, monkeypatch, written_only_at_the_end):
    options = {"store": tmp_path / "a.zarr", "progress": False}
    calls, wrap = once(interrupt)
    monkeypatch.setattr(store_module.Store, place, wrap(getattr(store_module.Store, place)))
    with pytest.raises(nf.SweepInterrupted, match="8 of 8 runs are finished and kept") as interrupted:
        nf.sweep(linear, GRID, **options)
    assert len(calls) == 2
    assert (interrupted.value.dataset["status"] == "completed").all()
    assert nf.load_sweep(options["store"]).identical(interrupted.value.dataset)
    before = parts(options["store"])
    assert nf.sweep(linear, GRID, **options).identical(interrupted.value.dataset)
    assert parts(options["store"]) == before


def test_what_cannot_be_written_is_not_tried_twice(tmp_path, monkeypatch, written_only_at_the_end):
    calls, wrap = once(full)
    monkeypatch.setattr(store_module.Store, "write", wrap(store_module.Store.write))
    with pytest.raises(OSError, match="No space left on device"):
        nf.sweep(linear, GRID, store=tmp_path / "a.zarr", progress=False)
    assert len(calls) == 1


def test_an_observable_with_the_name_of_a_count_is_refused_at_the_first_run(monkeypatch):
    def one_run(key):
        run = linear(key)
        return dataclasses.replace(run, observed={"rejected": run.observed["loss"]})

    monkeypatch.setattr(keeper_module.Keeper, "conclude", lambda self: pytest.fail("it came to the end"))
    with pytest.raises(ValueError, match="`observe` must be given names .* `rejected`"):
        nf.sweep(one_run, nf.Grid(seed=range(2)), batch="off", progress=False)


def test_ctrl_c_in_a_callback_of_the_garbage_collector_is_not_lost():
    pressed = []

    def interrupted_there(*_):
        gc.callbacks.remove(interrupted_there)
        signal.raise_signal(signal.SIGINT)

    def progress(tally):
        if not pressed:  # once: another one might arrive when the sweep has ended
            pressed.append(True)
            gc.callbacks.append(interrupted_there)
            gc.collect()
            for _ in range(100):  # until it is sent again, which ends no sleep
                time.sleep(0.05)

    hook = sys.unraisablehook
    with pytest.raises(nf.SweepInterrupted):
        nf.sweep(linear, GRID, batch="off", progress=progress)
    assert sys.unraisablehook is hook


def test_ctrl_c_keeps_what_is_finished(tmp_path):
    calls = tmp_path / "calls"
    calls.mkdir()

    def one_run(key, seed):
        if seed == 4 and not (calls / "4").exists():
            (calls / "4").touch()
            signal.raise_signal(signal.SIGINT)  # comes to the main thread, as Ctrl-C does
            time.sleep(0.5)
        (calls / f"{seed}").touch()
        return linear(key)

    grid, options = nf.Grid(seed=range(12)), {"store": tmp_path / "a.zarr", "batch": "off", "progress": False}
    with pytest.raises(nf.SweepInterrupted, match="the same call goes on") as interrupted:
        nf.sweep(one_run, grid, **options)
    finished = np.flatnonzero(interrupted.value.dataset["status"] == "completed")
    assert 0 < len(finished) < 12
    assert nf.load_sweep(options["store"]).identical(interrupted.value.dataset)
    for file in calls.iterdir():
        if file.name != "4":
            file.unlink()
    dataset = nf.sweep(one_run, grid, **options)
    assert (dataset["status"] == "completed").all()
    assert not any((calls / f"{seed}").exists() for seed in finished if seed != 4)
