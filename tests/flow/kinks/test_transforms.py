"""The flow across kinks is the same alone, in lockstep with others, and after an interruption."""

import contextlib
import signal

import jax
import numpy as np
import pytest
from flow.kinks.two_layers import Problem, TwoLayers

import nfa_flow as nf
from nfa_flow.run import drive

SEEDS = (2, 4)  # of which both flows slide
COUNTS = ("steps", "gradient_evaluations", "crossings", "slides", "releases", "pivots", "most_slides")


def one_run(key, checkpoint=None, throw=True):
    """The flow of a network drawn from a key."""
    W, a = jax.random.normal(key, (4, 3)) / 3**0.5, jax.random.normal(jax.random.fold_in(key, 1), (4,)) / 2
    problem = Problem(0, decay=0.02)
    problem.net = TwoLayers(W, a)
    return problem.flow(6.0, rtol=1e-6, checkpoint=checkpoint, throw=throw)


@pytest.fixture(scope="module")
def alone():
    runs = [one_run(jax.random.key(seed)) for seed in SEEDS]
    assert all(run.stats["slides"] >= 1 and run.stats["crossings"] >= 1 for run in runs)
    return runs


def test_runs_in_lockstep_take_the_steps_and_meet_the_kinks_that_they_meet_alone(alone):
    """Up to rounding: in a program of another size the compiler orders sums as it likes."""
    batch = nf.sweep(one_run, nf.Grid(seed=list(SEEDS)), batch="vmap", progress=False)
    assert batch.attrs["batching"] == "vmap"
    for seed, run in zip(SEEDS, alone, strict=True):
        lane = batch.sel(seed=seed)
        np.testing.assert_allclose(lane["loss"], run.observed["loss"], rtol=1e-9)
        for name in COUNTS:
            assert lane["total_steps" if name == "steps" else name] == run.stats[name]


def test_an_interrupted_run_goes_on_to_the_same_bits(monkeypatch, tmp_path):
    key = jax.random.key(SEEDS[0])

    @contextlib.contextmanager
    def progress_bar(label, progress):
        shown = []

        def show(fraction):
            shown.append(fraction)
            if len(shown) == 3:
                monkeypatch.undo()
                signal.raise_signal(signal.SIGINT)

        yield show

    whole = one_run(key, tmp_path / "whole")
    monkeypatch.setattr(drive, "_FIRST_BUDGET", 7)
    monkeypatch.setattr(drive, "_SLICE_SECONDS", 0.0)
    monkeypatch.setattr(drive, "_progress_bar", progress_bar)
    part = one_run(key, tmp_path / "run", throw=False)
    assert part.status == "interrupted" and 0 < part.stats["steps"] < whole.stats["steps"]
    resumed = one_run(key, tmp_path / "run")
    assert {**resumed.stats, "seconds": 0} == {**whole.stats, "seconds": 0}
    for ours, theirs in zip(jax.tree.leaves(resumed.net), jax.tree.leaves(whole.net), strict=True):
        np.testing.assert_array_equal(ours, theirs)
