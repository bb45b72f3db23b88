"""The choice between lanes in turn and lanes in lockstep: measured once per program, and remembered."""

import gc
import weakref

import jax
import pytest
from sweep.problems import linear

import nfa_flow as nf
from nfa_flow.sweep.engines import choice as batching
from nfa_flow.sweep.plan import make_plan


@pytest.fixture
def group():
    grid = nf.Grid(weight_decay=[0.0, 0.1], seed=range(2))
    (group,) = make_plan(linear, grid, "auto").groups(grid)
    return group


@pytest.fixture
def on_an_accelerator(monkeypatch):
    """Lanes are few enough on a CPU to need no measurement."""
    monkeypatch.setattr(batching, "_CPU_LANES", 0)
    monkeypatch.setattr(batching, "_measured", {})


def test_on_a_cpu_lanes_are_taken_in_turn_without_measuring(group, monkeypatch):
    monkeypatch.setattr(batching, "_seconds", None)
    assert batching.choose_batch(linear, group) == "sequential"


def test_large_gradients_on_a_cpu_need_no_measurement(group, on_an_accelerator, monkeypatch):
    monkeypatch.setattr(batching, "_seconds", None)
    monkeypatch.setattr(batching, "_CPU_OPERATIONS", 0)
    assert batching.choose_batch(linear, group) == "sequential"


@pytest.mark.parametrize(("in_turn", "together", "chosen"), [(1.0, 0.4, "vmap"), (1.0, 0.6, "sequential")])
def test_lockstep_has_to_be_twice_as_fast(group, on_an_accelerator, monkeypatch, in_turn, together, chosen):
    asked = []
    monkeypatch.setattr(batching, "_seconds", lambda *_: asked.append(1) or (in_turn, together))
    assert [batching.choose_batch(linear, group) for _ in range(2)] == [chosen, chosen]
    assert len(asked) == 1


def test_the_measurement_runs_real_gradients(group, on_an_accelerator, monkeypatch):
    measured, seconds = [], batching._seconds
    monkeypatch.setattr(batching, "_seconds", lambda *arguments: measured.append(seconds(*arguments)) or measured[0])
    assert batching.choose_batch(linear, group) in ("sequential", "vmap")
    assert all(0 < value < 60 for value in measured[0])
    assert jax.default_backend() == "cpu"


class Slotted:
    __slots__ = ()

    def __call__(self, key, weight_decay):
        return linear(key, weight_decay=weight_decay)


def test_a_callable_whose_end_cannot_be_noticed_is_not_kept():
    before = list(batching._engines)
    assert (nf.sweep(Slotted(), nf.Grid(weight_decay=[0.1]), progress=False)["status"] == "completed").all()
    assert list(batching._engines) == before


@pytest.mark.parametrize("batch", ["sequential", "vmap", "off"])
def test_programs_are_forgotten_with_their_function(batch, monkeypatch):
    monkeypatch.setattr(batching, "_engines", {})

    def one_run(key, weight_decay):
        return linear(key, weight_decay=weight_decay)

    nf.sweep(one_run, nf.Grid(weight_decay=[0.1]), batch=batch, progress=False)
    function = weakref.ref(one_run)
    assert len(batching._engines) == 1
    del one_run
    gc.collect()
    assert function() is None and not batching._engines


def test_programs_that_hold_too_many_bytes_are_forgotten(group, monkeypatch):
    monkeypatch.setattr(batching, "_engines", {})
    engines = [batching.engine_for(linear, fingerprint, group) for fingerprint in "ab"]
    engines[0].leg(group.lanes[0]).shared(group.lanes[0])
    held = batching._bytes_held()
    assert 0 < held <= sum(array.nbytes for array in engines[0].arrays())
    for most, kept in ((held, 3), (held - 1, 2)):  # the first goes, and with it what it holds
        monkeypatch.setattr(batching, "_MOST_BYTES", most)
        batching.engine_for(linear, "c", group)
        assert len(batching._engines) == kept
    assert batching.engine_for(linear, "b", group) is engines[1]
