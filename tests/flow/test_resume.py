"""A flow that goes on takes the steps of a flow that never ended."""

import diffrax
import jax
import numpy as np
import optax
import pytest
from oracles import parameters

import nfa_flow as nf

QUIET = {"progress": False}
PARTS = [[0.1, 0.3], [0.5, 1.7], [1.8, 2.0], [4.0, 9.0], [12.0, 20.0]]  # observed within each part, and at its end
WITHIN = slice(0, None, 2)


def problem(activation="tanh"):
    data = nf.data.multi_index(12, 3, 2, key=jax.random.key(0))
    return nf.nets.MLP([3, 6, 1], key=jax.random.key(1), activation=activation), data


def flow(times, activation="tanh", solver=None, **options):
    options = {"solver": solver or diffrax.Tsit5(), "rtol": 1e-5, "save_at": times} | options | QUIET
    return nf.gradient_flow(*problem(activation), options.pop("t1", times[-1]), **options)


@pytest.mark.parametrize(
    "solver",
    [nf.flow.NDF(), nf.flow.TSRKC3(), diffrax.Tsit5(), nf.flow.Piecewise()],
    ids=lambda solver: type(solver).__name__,
)
def test_a_flow_in_five_parts_is_the_flow_in_one(solver):
    options = {"solver": solver, "save_nets": True}
    options["activation"] = "relu" if isinstance(solver, nf.flow.Piecewise) else "tanh"
    whole, parts = flow(np.ravel(PARTS), **options), flow(PARTS[0], resumable=True, **options)
    for times in PARTS[1:]:
        parts = parts.resume(times[-1], save_at=times, **QUIET)
    assert parts.status == "completed" and parts.end_time == 20
    assert {**parts.stats, "seconds": 0} == {**whole.stats, "seconds": 0}
    np.testing.assert_array_equal(parts.times, whole.times)
    np.testing.assert_array_equal(parts.steps[WITHIN], whole.steps[WITHIN])
    np.testing.assert_allclose(parts.observed["loss"][WITHIN], whole.observed["loss"][WITHIN], rtol=1e-14)
    np.testing.assert_allclose(parts.nets.weights[0][WITHIN], whole.nets.weights[0][WITHIN], rtol=1e-13)
    np.testing.assert_allclose(parameters(parts.net), parameters(whole.net), rtol=1e-13)
    # Where a part ends, a step ends, which the flow in one part interpolates.
    np.testing.assert_allclose(parts.observed["loss"], whole.observed["loss"], rtol=1e-3)


def test_a_flow_goes_on_after_a_stop_and_after_its_last_step():
    whole = flow([1.0, 20.0])
    level = float(flow([1.0, 4.0]).observed["loss"][-1])
    stopped = flow([1.0, 20.0], stop=nf.LossBelow(level), resumable=True)
    few = flow([1.0, 20.0], max_steps=5, resumable=True, throw=False)
    assert stopped.status == "stopped" and few.status == "max_steps"
    for run in (stopped, few):
        on = run.resume(20.0, save_at=[20.0], **QUIET)
        assert on.status == "completed" and on.stats["steps"] == whole.stats["steps"]
        np.testing.assert_array_equal(on.times, np.union1d([*run.times], [20.0]))
        np.testing.assert_allclose(parameters(on.net), parameters(whole.net), rtol=1e-13)
    for rule in (nf.LossBelow(level), nf.LossBelow(2 * level)):  # which are met already
        same = stopped.resume(20.0, stop=rule, save_at=[20.0], **QUIET)
        assert same.status == "stopped" and same.end_time == stopped.end_time
        np.testing.assert_array_equal(same.times, stopped.times)
    again = stopped.resume(20.0, stop=nf.LossBelow(level / 2), **QUIET)
    np.testing.assert_allclose(again.observed["loss"][-1], level / 2, rtol=1e-12)


def test_by_default_the_rest_is_observed_at_sixty_times():
    run = flow([1.0, 4.0], resumable=True).resume(8.0, **QUIET)
    assert len(run.times) == 62 and run.times[-1] == 8
    np.testing.assert_allclose(np.diff(np.log(run.times[1:])), np.log(2) / 60, rtol=1e-9)


def test_a_flow_in_parts_has_a_checkpoint(tmp_path):
    run = flow([1.0, 4.0], resumable=True)
    run.resume(8.0, checkpoint=tmp_path / "run", **QUIET)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_go_on_is_said_in_a_sentence(tmp_path):
    run = flow([1.0, 4.0], resumable=True)
    for t1 in (4.0, 1.0):
        with pytest.raises(ValueError, match=f"`t1` must be after the end of the run, t = 4, but was {t1:g}"):
            run.resume(t1, **QUIET)
    with pytest.raises(ValueError, match=r"`save_at` must be within \[t0, t1\] = \[4, 8\]"):
        run.resume(8.0, save_at=[3.0, 8.0], **QUIET)
    with pytest.raises(ValueError, match="`stop` must be a rule on an observable, loss"):
        run.resume(8.0, stop=nf.StopWhen("accuracy", above=1.0), **QUIET)
    needs = "`resume` needs a run of `nf.gradient_flow` with `resumable=True`"
    net, data = problem()
    run.save(tmp_path / "run")
    others = [flow([1.0, 4.0]), nf.gradient_descent(net, data, optax.sgd(0.1), 2, **QUIET)]
    for other in [*others, nf.Trajectory.load(tmp_path / "run")]:
        with pytest.raises(ValueError, match=needs):
            other.resume(8.0, **QUIET)
    failed = flow([1.0, 4.0], rtol=1e-3, solver=diffrax.Euler(), dt0=1e3, t1=1e6, resumable=True, throw=False)
    with pytest.raises(ValueError, match="This run cannot go on. The run ended at t = "):
        failed.resume(1e7, **QUIET)


def test_a_resumable_run_is_one_run_outside_of_transformations():
    with pytest.raises(ValueError, match="`resumable` must be False inside `jax.jit`, `jax.vmap` or a batched sweep"):
        jax.jit(lambda decay: flow([1.0, 4.0], weight_decay=decay, resumable=True).net)(0.1)
    with pytest.raises(ValueError, match="`resumable` must be False with `certify=True`"):
        flow([1.0, 4.0], resumable=True, certify=True)
