"""Stop rules end a flow at the time at which one of them is met, and that moment is observed."""

from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import scalar_net, whitened_problem

import nfa_flow as nf
from nfa_flow.problem.objective import make_objective
from nfa_flow.run import drive


@pytest.fixture(scope="module")
def problem():
    data = nf.data.linear_teacher(30, 4, 2, key=jax.random.key(0))
    return nf.nets.MLP([4, 5, 2], key=jax.random.key(1)), data


LEVEL = 1e-3


@pytest.fixture(scope="module")
def logistic():
    """Two balanced scalar weights, whose product is s with s' = 2s(1 − s), and when the loss (1 − s)²/2 is LEVEL."""
    s0, s1 = 0.1, 1 - np.sqrt(2 * LEVEL)
    logit = lambda s: np.log(s / (1 - s))
    return (scalar_net(s0, 2), whitened_problem(np.eye(1), np.eye(1))), (logit(s1) - logit(s0)) / 2


@pytest.mark.parametrize("solver", [nf.flow.NDF(), nf.flow.TSRKC3(), diffrax.Tsit5()], ids=lambda s: type(s).__name__)
def test_the_time_of_a_stop_is_that_of_the_closed_form_at_every_tolerance(logistic, solver):
    problem, exact = logistic
    options = {"solver": solver, "save_at": [0.0, 1.0, 100.0], "progress": False}
    for rtol in (1e-4, 1e-6, 1e-8):
        run = nf.gradient_flow(*problem, 100.0, stop=nf.StopWhen("loss", below=LEVEL), rtol=rtol, **options)
        assert run.status == "stopped"
        assert abs(run.end_time / exact - 1) < 10 * rtol
        assert run.times[-1] == run.end_time and len(run.times) == 3
        # The loss of the end, and of the network there, is the level up to the rounding of 1 − s.
        np.testing.assert_allclose(run.observed["loss"][-1], LEVEL, rtol=1e-13)
        np.testing.assert_allclose(nf.measure.loss(run.net, problem[1]), LEVEL, rtol=1e-13)


def test_lanes_stop_each_at_its_own_time(logistic):
    (net, data), exact = logistic
    levels = jnp.asarray([LEVEL, 1e-30, 0.1])
    stopped = lambda level: nf.gradient_flow(
        net, data, 8.0, stop=nf.LossBelow(level), save_at=[0.0, 8.0], progress=False
    )
    lanes, alone = jax.jit(jax.vmap(stopped))(levels), [stopped(level) for level in levels]
    np.testing.assert_allclose(lanes.end_time, [run.end_time for run in alone], rtol=1e-10)
    assert lanes.end_time[1] == 8 and abs(lanes.end_time[0] / exact - 1) < 1e-5
    np.testing.assert_array_equal(lanes.counts["steps"], [run.stats["steps"] for run in alone])


class Condition(nf.flow.AbstractStop):
    holds: Callable

    def __call__(self, moment):
        return self.holds(moment.observed("loss"))


def test_a_condition_is_located_by_bisection(logistic):
    problem, exact = logistic
    run = nf.gradient_flow(*problem, 100.0, stop=Condition(lambda loss: loss < LEVEL), rtol=1e-8, progress=False)
    assert abs(run.end_time / exact - 1) < 1e-7


def test_a_rule_that_is_met_at_the_start_ends_the_run_there(logistic):
    (net, data), _ = logistic
    run = nf.gradient_flow(net, data, 100.0, t0=3.0, stop=nf.LossBelow(1.0), progress=False)
    assert run.status == "stopped" and run.end_time == 3
    np.testing.assert_array_equal(run.times, [3])
    np.testing.assert_array_equal(run.net.weights[0], net.weights[0])


def test_across_kinks_the_time_of_a_stop_is_the_same_at_every_tolerance():
    data = nf.data.multi_index(12, 3, 2, key=jax.random.key(0))
    net = nf.nets.MLP([3, 6, 1], key=jax.random.key(1), activation="relu")
    options = {"stop": nf.LossBelow(0.05), "save_at": [0.0, 50.0], "progress": False}
    rough, fine = (nf.gradient_flow(net, data, 50.0, rtol=rtol, **options) for rtol in (1e-4, 1e-8))
    assert rough.status == fine.status == "stopped" and fine.stats["crossings"] > 0
    assert abs(rough.end_time / fine.end_time - 1) < 1e-3
    np.testing.assert_allclose(rough.observed["loss"][-1], 0.05, rtol=1e-12)


def test_a_rule_on_a_leaf_of_an_observable(problem):
    W = problem[0].weights[0]
    observe = {"change": lambda net, data: {"norm": jnp.linalg.norm(net.weights[0] - W)}}
    stop = nf.StopWhen("change.norm", above=0.1)
    run = nf.gradient_flow(*problem, 1000.0, observe=observe, stop=stop, progress=False)
    assert run.status == "stopped"
    np.testing.assert_allclose(run.observed["change"]["norm"][-1], 0.1, rtol=1e-12)


def test_loss_below_stops_where_the_loss_has_fallen_to_its_bound(problem):
    run = nf.gradient_flow(*problem, 1000.0, stop=nf.LossBelow(1e-4), progress=False)
    assert run.status == "stopped" and run.succeeded
    losses = np.asarray(run.observed["loss"])
    np.testing.assert_allclose(losses[-1], 1e-4, rtol=1e-12)
    assert losses[-2] > 1e-4 and float(run.times[-1]) == float(run.end_time) < 1000
    np.testing.assert_allclose(losses[-1], nf.measure.loss(run.net, problem[1]), rtol=1e-10)


def test_gradient_norm_below_compares_the_gradient_with_weight_decay(problem):
    run = nf.gradient_flow(*problem, 1000.0, weight_decay=0.05, stop=nf.GradientNormBelow(1e-6), progress=False)
    theta, objective = make_objective(run.net, problem[1], "mse", 0.05)
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(objective.gradient(theta))))
    assert run.status == "stopped"
    np.testing.assert_allclose(norm, 1e-6, rtol=1e-6)  # of a difference of terms that are far larger


def test_the_first_of_several_rules_stops(problem):
    rules = [nf.LossBelow(1e-12), nf.LossBelow(1e-2)]
    run = nf.gradient_flow(*problem, 1000.0, stop=rules, progress=False)
    np.testing.assert_allclose(run.observed["loss"][-1], 1e-2, rtol=1e-12)


def test_a_rule_that_never_holds_does_not_stop(problem):
    run = nf.gradient_flow(*problem, 1.0, stop=nf.LossBelow(1e-30), progress=False)
    assert run.status == "completed" and float(run.end_time) == 1


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("rule", [nf.LossBelow, nf.GradientNormBelow])
def test_a_bound_must_be_positive(rule, bound):
    with pytest.raises(ValueError, match="`bound` must be a positive number"):
        rule(bound)


def test_a_stop_must_be_a_rule(problem, no_type_checks):
    for stop in ([1e-3], None, nf.LossBelow):
        with pytest.raises(ValueError, match="`stop` must be rules"):
            nf.gradient_flow(*problem, 1.0, stop=stop, progress=False)


def test_a_rule_on_an_observable_needs_one_bound_and_a_number_that_is_observed(problem, no_type_checks):
    for bounds, was in [({}, "none of them"), ({"above": 1.0, "below": 0.0}, "both of them")]:
        with pytest.raises(ValueError, match=f"`above` must be given, or `below`, and not the other, but was {was}"):
            nf.StopWhen("loss", **bounds)
    with pytest.raises(ValueError, match="`below` must be a finite number, but was nan"):
        nf.StopWhen("loss", below=float("nan"))
    observe = {"weights": lambda net, data: {"first": net.weights[0]}}
    for name, must_be in [
        ("loss", "a rule on an observable, weights, but was one on 'loss'"),
        ("weights", "a rule on one of weights.first, but was one on 'weights'"),
        ("weights.first", r"a rule on a number, not on 'weights.first', but was one on an array of shape \(5, 4\)"),
    ]:
        with pytest.raises(ValueError, match=f"`stop` must be {must_be}"):
            nf.gradient_flow(*problem, 1.0, observe=observe, stop=nf.StopWhen(name, above=1.0), progress=False)


def test_a_rule_of_ones_own_must_return_one_number(problem):
    class Vector(nf.flow.AbstractStop):
        def __call__(self, moment):
            return jnp.zeros(3)

    with pytest.raises(ValueError, match="`stop` must be rules that return one number, or a condition"):
        nf.gradient_flow(*problem, 1.0, stop=Vector(), progress=False)


def test_a_flow_stops_after_some_seconds_and_goes_on_from_its_checkpoint(problem, tmp_path, monkeypatch):
    monkeypatch.setattr(drive, "_FIRST_BUDGET", 7)  # steps until the clock is read
    options = {"solver": diffrax.Tsit5(), "save_at": [0.0, 30.0], "resumable": True, "progress": False}
    flow = lambda **more: nf.gradient_flow(*problem, 30.0, **options, **more)
    whole, stop = flow(), nf.StopAfter(0.0)
    first = flow(stop=stop)
    assert first.status == "stopped" and first.stats["steps"] == 7 and 0 < first.end_time < 30
    assert first.times[-1] == first.end_time
    np.testing.assert_allclose(first.observed["loss"][-1], nf.measure.loss(first.net, problem[1]), rtol=1e-12)
    later = first.resume(30.0, save_at=[30.0], progress=False)
    np.testing.assert_array_equal(later.net.weights[0], whole.net.weights[0])
    sessions = [flow(stop=stop, checkpoint=tmp_path / "run")]
    while sessions[-1].status == "stopped":
        sessions.append(flow(stop=stop, checkpoint=tmp_path / "run"))
    assert len(sessions) == -(-whole.stats["steps"] // 7)
    np.testing.assert_array_equal(sessions[-1].net.weights[0], whole.net.weights[0])
    assert list(tmp_path.iterdir()) == []


def test_nothing_inside_jit_knows_the_time(problem):
    with pytest.raises(ValueError, match="`stop` must be without `StopAfter` inside `jax.jit`"):
        options = {"stop": nf.StopAfter(1.0), "save_at": [1.0]}
        jax.jit(lambda decay: nf.gradient_flow(*problem, 1.0, weight_decay=decay, **options))(0.1)
    with pytest.raises(ValueError, match="`stop` must be without `StopAfter` with `certify=True`"):
        nf.gradient_flow(*problem, 1.0, stop=nf.StopAfter(1.0), certify=True)
    with pytest.raises(ValueError, match="`seconds` must be a non-negative number, but was -1"):
        nf.StopAfter(-1.0)
