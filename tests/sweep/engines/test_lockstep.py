"""Lanes in lockstep: those that have ended leave, others take their places, and the batch shrinks to powers of two."""

import numpy as np
from sweep.problems import DATA, TSIT5

import nfa_flow as nf
from nfa_flow.sweep.engines import lockstep
from nfa_flow.sweep.one_run import OneRun
from nfa_flow.sweep.plan import make_plan

GRID = nf.Grid(t1=list(np.geomspace(1.0, 1000.0, 7)), seed=range(2))


def one_run(key, t1):
    net = nf.nets.MLP([4, 5, 1], key=key, activation="identity", init=nf.nets.Gaussian(0.5))
    return nf.gradient_flow(net, DATA, t1, save_at=t1 * np.array([0.0, 1.0]), solver=TSIT5, observe={})


def test_no_lane_is_lost_and_few_places_wait_for_the_longest_lanes(monkeypatch):
    sizes, advance = [], lockstep.InLockstep._advance

    def spy(self, stage, shared, bucket, budget):
        sizes.append(bucket.size)
        advance(self, stage, shared, bucket, budget)
        return float(len(sizes))  # seconds, as if nothing had to be compiled: a smaller program pays at once

    monkeypatch.setattr(lockstep.InLockstep, "_advance", spy)
    monkeypatch.setattr(lockstep, "_MOST_ROWS", 4)
    (group,) = make_plan(OneRun(one_run, {}), GRID, "vmap").groups(GRID)
    waiting, results = list(group.lanes), {}

    def take(most):
        taken = waiting[:most]
        del waiting[:most]
        return taken

    engine = lockstep.InLockstep(group.fixed)
    for done in engine.work(OneRun(one_run, {}), take, lambda: False):
        assert not {key for key, _ in done} & set(results)
        results.update(done)
    assert results.keys() == {setting.key for setting in GRID}
    assert set(sizes) <= {1, 2, 4} and sizes == sorted(sizes, reverse=True) and sizes[-1] < 4
    steps = [result.counts["steps"] for result in results.values()]
    assert engine.needed_steps == sum(steps)
    # As many places as lanes, until the longest has ended, is what `jit(vmap)` computes.
    assert sum(steps) < 0.3 * len(steps) * max(steps)
    assert engine.needed_steps >= 0.85 * engine.computed_steps
