"""Stop rules end a flow at the first accepted step where they hold, and that moment is observed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow.problem.objective import make_objective


@pytest.fixture(scope="module")
def problem():
    data = nf.data.linear_teacher(30, 4, 2, key=jax.random.key(0))
    return nf.nets.MLP([4, 5, 2], key=jax.random.key(1)), data


def test_loss_below_stops_where_the_loss_has_fallen_to_its_bound(problem):
    run = nf.gradient_flow(*problem, 1000.0, stop=nf.LossBelow(1e-4), progress=False)
    assert run.status == "stopped" and run.succeeded
    losses = np.asarray(run.observed["loss"])
    assert losses[-1] <= 1e-4 < losses[-2]
    assert float(run.times[-1]) == float(run.end_time) < 1000
    np.testing.assert_allclose(losses[-1], nf.measure.loss(run.net, problem[1]), rtol=1e-10)


def test_gradient_norm_below_compares_the_gradient_with_weight_decay(problem):
    run = nf.gradient_flow(*problem, 1000.0, weight_decay=0.05, stop=nf.GradientNormBelow(1e-6), progress=False)
    theta, objective = make_objective(run.net, problem[1], "mse", 0.05)
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(objective.gradient(theta))))
    assert run.status == "stopped"
    assert norm <= 1e-6


def test_the_first_of_several_rules_stops(problem):
    rules = [nf.LossBelow(1e-12), nf.LossBelow(1e-2)]
    run = nf.gradient_flow(*problem, 1000.0, stop=rules, progress=False)
    assert 1e-12 < run.observed["loss"][-1] <= 1e-2


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
