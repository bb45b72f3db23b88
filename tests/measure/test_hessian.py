import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import nfa_flow as nf
from nfa_flow.measure import Sharpness
from nfa_flow.measure.hessian import HessianEigenvalues
from nfa_flow.problem.objective import make_objective

RTOL = 1e-6
PARAMETERS = 3 * 5 + 5 * 2


@eqx.filter_jit
def dense_hessian(net, data, weight_decay=0.0, mobility=None):
    parameters, objective = make_objective(net, data, "mse", weight_decay, mobility=mobility)
    z, unravel = ravel_pytree(parameters)

    def total(z):
        theta = ravel_pytree(objective.natural(unravel(z)))[0]
        return objective.loss(unravel(z)) + 0.5 * weight_decay * theta @ theta

    return jax.hessian(total)(z)


def exact(*problem, **options):
    return np.linalg.eigvalsh(dense_hessian(*problem, **options))[::-1]


def problem(activation="tanh", dtype=None):
    net = nf.nets.MLP([3, 5, 2], key=jax.random.key(1), activation=activation, dtype=dtype)
    return net, nf.data.linear_teacher(20, 3, 2, key=jax.random.key(0), noise=0.3)


def test_they_are_the_largest_eigenvalues_of_the_hessian():
    net, data = problem()
    eigenvalues = exact(net, data)
    assert eigenvalues[-1] < 0  # the Hessian is indefinite
    np.testing.assert_allclose(HessianEigenvalues(4, RTOL)(net, data), eigenvalues[:4], rtol=RTOL)


def test_weight_decay_shifts_all_of_them():
    net, data = problem()
    shifted = HessianEigenvalues(4, RTOL)(net, data, weight_decay=0.3)
    np.testing.assert_allclose(shifted, 0.3 + exact(net, data)[:4], rtol=RTOL)


@pytest.mark.parametrize(("loss", "curvature"), [("mse", 1), (lambda prediction, y: -0.5 * jnp.sum(prediction**2), -1)])
def test_a_multiple_eigenvalue_comes_as_often_as_it_is_also_below_zero(loss, curvature):
    # With whitened inputs ±½‖Wx‖² has plus or minus the identity as its Hessian in W.
    net = nf.nets.MLP([3, 4], key=jax.random.key(0))
    data = nf.Dataset(np.sqrt(3) * np.eye(3), np.ones((3, 4)))
    np.testing.assert_allclose(HessianEigenvalues(4, RTOL)(net, data, loss=loss), 4 * [curvature], rtol=1e-12)


def test_all_of_them_down_to_the_most_negative():
    net, data = problem()
    eigenvalues = exact(net, data)
    np.testing.assert_allclose(HessianEigenvalues(PARAMETERS)(net, data), eigenvalues, atol=1e-12 * eigenvalues[0])


def test_the_first_is_the_sharpness():
    net, data = problem()
    sharpness = Sharpness(RTOL)(net, data)
    for count in (1, 4):
        np.testing.assert_allclose(HessianEigenvalues(count, RTOL)(net, data)[0], sharpness, rtol=RTOL)


def test_along_a_flow_they_are_those_of_what_the_flow_minimizes():
    net, data = problem()
    settings = {"weight_decay": 0.1, "mobility": [3.0, 0.5]}
    options = {"observe": {"eigenvalues": HessianEigenvalues(4, RTOL)}, "solver": diffrax.Tsit5(), "progress": False}
    run = nf.gradient_flow(net, data, 5.0, save_at=[0.0, 5.0], **options, **settings)
    ends = [exact(each, data, **settings)[:4] for each in (net, run.net)]
    np.testing.assert_allclose(run.observed["eigenvalues"], ends, rtol=RTOL)


def test_lanes_agree_with_one_at_a_time():
    net, data = problem()
    nets = [net, jax.tree.map(lambda a: 2 * a, net)]
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
    observable = HessianEigenvalues(4, RTOL)
    batch = eqx.filter_vmap(lambda net: observable(net, data))(lanes)
    np.testing.assert_allclose(batch, [observable(net, data) for net in nets], rtol=RTOL)


def test_single_precision_is_kept():
    assert eqx.filter_eval_shape(HessianEigenvalues(4), *problem(dtype="float32")).dtype == jnp.float32


def test_a_network_that_has_diverged_has_none():
    net, data = problem()
    parameters, objective = make_objective(net, data, "mse", 0.0)
    lost = jax.tree.map(lambda a: jnp.nan * a, parameters)
    assert np.all(np.isnan(HessianEigenvalues(4, RTOL).of_run(objective, lost, {})))


def test_another_network_of_the_same_shape_is_not_compiled_again(compilations):
    net, data = problem()
    another = jax.tree.map(lambda a: 2 * a, net)
    HessianEigenvalues(4, RTOL)(net, data)
    compilations()
    HessianEigenvalues(4, RTOL)(another, data)
    assert compilations() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "`count` must be a whole number of at least 1, but was 0"),
        ((2, 0.0), "`rtol` must be a positive number, but was 0"),
        (
            (PARAMETERS + 1,),
            f"`count` must be at most the number of parameters, {PARAMETERS}, but was {PARAMETERS + 1}",
        ),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        HessianEigenvalues(*arguments)(*problem())
