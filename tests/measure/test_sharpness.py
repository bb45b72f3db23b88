import equinox as eqx
import jax
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import nfa_flow as nf
from nfa_flow.problem.objective import make_objective


def dense_sharpness(net, data, loss="mse", weight_decay=0.0):
    parameters, objective = make_objective(net, data, loss, weight_decay)
    theta, unravel = ravel_pytree(parameters)
    total = lambda v: objective.loss(unravel(v)) + 0.5 * weight_decay * v @ v
    return np.linalg.eigvalsh(jax.hessian(total)(theta))[-1]


def problem(seed=0, activation="tanh"):
    key = jax.random.key(seed)
    net = nf.nets.MLP([4, 6, 5, 3], key=key, activation=activation)
    return net, nf.data.linear_teacher(20, 4, 3, key=key, noise=0.3)


@pytest.mark.parametrize("activation", ["tanh", "identity"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_it_is_the_largest_eigenvalue_of_the_hessian(activation, weight_decay):
    net, data = problem(activation=activation)
    sharpness = nf.measure.Sharpness(rtol=1e-6)(net, data, weight_decay=weight_decay)
    np.testing.assert_allclose(sharpness, dense_sharpness(net, data, weight_decay=weight_decay), rtol=1e-6)


def test_it_takes_any_loss():
    key = jax.random.key(3)
    net = nf.nets.MLP([4, 6, 3], key=key, activation="tanh")
    labels = jax.nn.one_hot(jax.random.randint(key, (20,), 0, 3), 3)
    data = nf.data.Dataset(jax.random.normal(key, (20, 4)), labels)
    sharpness = nf.measure.Sharpness(rtol=1e-6)(net, data, loss="cross_entropy")
    np.testing.assert_allclose(sharpness, dense_sharpness(net, data, "cross_entropy"), rtol=1e-6)


def test_zero_weights_have_a_sharpness_of_zero():
    net, data = problem()
    zero = jax.tree.map(lambda leaf: 0 * leaf if eqx.is_array(leaf) else leaf, net)
    assert nf.measure.Sharpness()(zero, data) == 0


def test_along_a_flow_it_is_that_of_what_the_flow_minimizes():
    net, data = problem()
    settings = {"weight_decay": 0.1, "save_at": [0.0, 20.0], "progress": False}
    run = nf.gradient_flow(net, data, 20.0, observe={"sharpness": nf.measure.Sharpness()}, **settings)
    ends = [dense_sharpness(each, data, weight_decay=0.1) for each in (net, run.net)]
    np.testing.assert_allclose(run.observed["sharpness"], ends, rtol=0.01)


def test_a_rough_value_comes_from_the_solver_where_it_has_one():
    """A stabilized solver needs Lanczos for its own purposes: observing it costs no further products."""
    net, data = problem()
    observe = {"sharpness": nf.measure.Sharpness(rtol=0.1), "exact": nf.measure.Sharpness(rtol=1e-3)}
    run = nf.gradient_flow(net, data, 20.0, observe=observe, solver=nf.flow.TSRKC3(), rtol=1e-4, progress=False)
    rough, exact = (np.asarray(run.observed[name]) for name in ("sharpness", "exact"))
    assert len(np.unique(rough)) < len(np.unique(exact))
    # At both ends the sharpness hardly changes within the eight steps of an estimate.
    np.testing.assert_allclose(rough[[0, -1]], exact[[0, -1]], rtol=0.1)


def test_along_gradient_descent_too():
    net, data = problem()
    observe = {"sharpness": nf.measure.Sharpness()}
    run = nf.gradient_descent(net, data, optax.sgd(0.01), steps=10, observe=observe, progress=False)
    np.testing.assert_allclose(run.observed["sharpness"][-1], dense_sharpness(run.net, data), rtol=0.01)
