"""The switches of JAX hold in every thread of a sweep, and stop its runs where they would stop a single call."""

import contextlib

import jax
import pytest
from sweep.problems import linear

import nfa_flow as nf
from nfa_flow.sweep.one_run import OneRun
from nfa_flow.sweep.plan import make_plan

GRID = nf.Grid(weight_decay=[0.1], seed=range(2))


def test_a_run_sees_the_switches_that_hold_where_the_sweep_is_called():
    seen = set()
    names = ("numpy_dtype_promotion", "numpy_rank_promotion", "debug_nans", "debug_infs", "disable_jit")

    def one_run(key, weight_decay):
        seen.add(tuple(getattr(jax.config, f"jax_{name}") for name in names))
        with contextlib.ExitStack() as usual:
            for name, value in zip(names, ("standard", "allow", False, False, False), strict=True):
                usual.enter_context(getattr(jax, name)(value))
            return linear(key, weight_decay=weight_decay)

    with contextlib.ExitStack() as unusual:
        for name, value in zip(names, ("strict", "raise", True, True, True), strict=True):
            unusual.enter_context(getattr(jax, name)(value))
        nf.sweep(one_run, GRID, progress=False)
    assert seen == {("strict", "raise", True, True, True)}


@pytest.mark.parametrize("switch", [jax.debug_nans, jax.debug_infs, jax.disable_jit])
def test_under_a_debugging_switch_runs_are_plain_calls(switch):
    with switch(True):
        assert make_plan(OneRun(linear, {}), GRID, "auto").batch == "off"
    assert make_plan(OneRun(linear, {}), GRID, "auto").batch == "auto"


@pytest.mark.parametrize("batch", ["sequential", "vmap"])
def test_batches_run_where_types_and_ranks_are_never_promoted(batch):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        dataset = nf.sweep(linear, GRID, batch=batch, progress=False)
    assert (dataset["status"] == "completed").all()
