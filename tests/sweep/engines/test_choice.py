"""Which engine a group gets: by a stated rule; and that what it has compiled is kept while its function lives."""

import gc
import weakref

import jax
import pytest
from sweep.problems import linear

import nfa_flow as nf
from nfa_flow.sweep.engines import choice
from nfa_flow.sweep.one_run import OneRun
from nfa_flow.sweep.plan import make_plan


@pytest.fixture
def group():
    grid = nf.Grid(weight_decay=[0.0, 0.1], seed=range(2))
    (group,) = make_plan(OneRun(linear, {}), grid, "auto").groups(grid)
    return group


@pytest.mark.parametrize(
    ("backend", "lanes", "chosen"), [("cpu", 4, "sequential"), ("gpu", 4, "vmap"), ("gpu", 1, "sequential")]
)
def test_lanes_are_in_lockstep_on_accelerators_alone(group, backend, lanes, chosen, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    del group.lanes[lanes:]
    assert choice.choose(group) == chosen


class Slotted:
    __slots__ = ()

    def __call__(self, key, weight_decay):
        return linear(key, weight_decay=weight_decay)


def test_a_callable_whose_end_cannot_be_noticed_is_not_kept():
    before = list(choice._engines)
    assert (nf.sweep(Slotted(), nf.Grid(weight_decay=[0.1]), progress=False)["status"] == "completed").all()
    assert list(choice._engines) == before


@pytest.mark.parametrize("batch", ["sequential", "vmap", "off"])
def test_programs_are_forgotten_with_their_function(batch, monkeypatch):
    monkeypatch.setattr(choice, "_engines", {})

    def one_run(key, weight_decay):
        return linear(key, weight_decay=weight_decay)

    nf.sweep(one_run, nf.Grid(weight_decay=[0.1]), batch=batch, progress=False)
    function = weakref.ref(one_run)
    assert len(choice._engines) == 1
    del one_run
    gc.collect()
    assert function() is None and not choice._engines


def test_the_programs_used_last_are_kept(group, monkeypatch):
    monkeypatch.setattr(choice, "_engines", {})
    monkeypatch.setattr(choice, "_MOST_ENGINES", 2)
    engine_of = lambda scale: choice.engine_for(OneRun(linear, {"scale": scale}), group)
    first, second = map(engine_of, "ab")
    assert engine_of("a") is first
    engine_of("c")
    assert engine_of("a") is first
    assert engine_of("b") is not second
