"""What the solver cannot do is refused before it starts, or ends the run with a status."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flow.kinks.two_layers import INPUTS, NEURONS, SAMPLES, Problem

import nfa_flow as nf
from nfa_flow.flow.kinks.pieces import count_kinks
from nfa_flow.problem.objective import make_objective

DATA = nf.data.multi_index(8, 3, 2, key=jax.random.key(0))


class Recurrent(eqx.Module):
    """A state that reads its inputs one by one."""

    w: jax.Array = eqx.field(default_factory=lambda: jnp.array([0.5, 0.3]))

    def __call__(self, x):
        step = lambda state, each: (jax.nn.relu(self.w[0] * state + self.w[1] * each), None)
        return jax.lax.scan(step, jnp.ones(()), x)[0][None]


def runaway(prediction, target):
    """A squared loss for small predictions; large ones run away in finite time, until they overflow."""
    return jnp.sum((prediction - target) ** 2 - prediction**4)


def flow(problem, **options):
    """With room for four kinks, which is the same compiled program for all problems."""
    options = {
        "solver": nf.flow.Piecewise(capacity=4),
        "loss": runaway,
        "throw": False,
        "rtol": 1e-4,
        "max_steps": 20_000,
    } | options
    return problem.flow(6.0, **options)


def test_more_kinks_than_there_is_room_for_end_the_flow_and_name_the_capacity():
    with pytest.raises(nf.RunError, match="`capacity` of `nf.flow.Piecewise`") as raised:
        flow(Problem(0, W=np.zeros((NEURONS, INPUTS))), throw=True)
    run = raised.value.trajectory
    assert run.status == "full" and "`capacity` of `nf.flow.Piecewise`" in run.what_happened
    assert np.all(np.isfinite(run.net.theta))


def test_a_flow_that_blows_up_ends_where_its_numbers_end():
    run = flow(Problem(1, y=np.full((SAMPLES, 1), 4.0)))
    assert run.status == "step_underflow" and 0 < run.end_time < 6
    assert np.all(np.isfinite(run.net.theta)) and np.all(np.isfinite(run.observed["loss"]))


def test_a_flow_whose_gradient_is_infinite_at_the_start_ends_at_once():
    run = flow(Problem(1, W=np.full((NEURONS, INPUTS), 1e50), a=np.full(NEURONS, 1e50)))
    assert run.status == "no_gradient" and run.stats["steps"] == 1


def test_it_refuses_flows_without_kinks_and_with_kinks_that_have_no_gates():
    smooth = nf.nets.MLP([3, 4, 1], key=jax.random.key(0), activation="tanh")
    with pytest.raises(ValueError, match="`solver` must be another one for a network and a loss without kinks"):
        nf.gradient_flow(smooth, DATA, 1.0, solver=nf.flow.Piecewise())
    of_loops = "`solver` must be another one for kinks in loops, which it cannot gate, but was Piecewise"
    with pytest.raises(ValueError, match=of_loops):
        nf.gradient_flow(Recurrent(), DATA, 1.0, solver=nf.flow.Piecewise())


def hinge(prediction, target):
    return jnp.sum(jnp.maximum(0, 1 - prediction * target))


def norm(prediction, target):
    return jnp.linalg.norm(prediction - target)


@pytest.mark.parametrize(
    ("net", "loss", "kinks"),
    [
        (
            nf.nets.MLP([3, 4, 1], key=jax.random.key(0), activation="relu"),
            norm,
            "the loss that are not those of a selection",
        ),
        (nf.nets.MLP([3, 4, 1], key=jax.random.key(0), activation="relu"), "mse", 8 * 4),
        (nf.nets.MLP([3, 4, 1], key=jax.random.key(0), activation="relu"), hinge, 8 * 5),
        (nf.nets.MLP([3, 4, 5, 1], key=jax.random.key(0), activation=["tanh", "abs"]), "mse", 8 * 5),
        (eqx.nn.MLP(3, 1, 4, 2, key=jax.random.key(0)), "mse", 8 * 8),
        (Recurrent(), "mse", "loops"),
    ],
    ids=["relu and the cusp of a loss", "relu", "relu and hinge loss", "tanh and abs", "a module of Equinox", "a loop"],
)
def test_the_kinks_of_all_samples_are_counted_or_named(net, loss, kinks):
    parameters, objective = make_objective(net, DATA, loss, 0.0)
    assert count_kinks(objective, parameters) == kinks


def test_its_capacity_is_a_number_of_kinks():
    with pytest.raises(ValueError, match="`capacity` must be a whole number of at least 1"):
        nf.flow.Piecewise(capacity=0)
