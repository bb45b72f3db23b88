"""What the flows of optimizers have in common with gradient flow: laws, and everything that a run can do."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import nfa_flow as nf
from nfa_flow.problem.objective import make_objective
from tests.oracles import linear_net

D = nf.dynamics
HEAVY, ADAM = D.HeavyBall(0.02), D.Adam(0.02, eps=1e-3)
SHORT = {"save_at": [0.5, 1.0], "progress": False}


def weights_of(net):
    return ravel_pytree(eqx.filter(net, eqx.is_inexact_array))[0]


@pytest.fixture(scope="module")
def run(net, data):
    return nf.gradient_flow(net, data, 1.0, dynamics=ADAM, dense=True, resumable=True, **SHORT)


# Closed forms: one weight, ℒ = w²/2, so that ∇ℒ = w.

ONE = linear_net([np.ones((1, 1))]), nf.Dataset(np.ones((1, 1)), np.zeros((1, 1)))


def at_one(dynamics, **options):
    return nf.gradient_flow(*ONE, 1.0, dynamics=dynamics, rtol=1e-10, **SHORT, **options).net.weights[0].item()


def test_modified_flow_of_a_quadratic_loss():
    np.testing.assert_allclose(at_one(D.Modified(0.1)), np.exp(-(1 + 0.1 / 2)), rtol=1e-9)


def test_heavy_ball_of_a_quadratic_loss():
    T, A = HEAVY.averaging_time, lambda T: np.array([[0, -1], [1 / T, -1 / T]])
    values, Q = np.linalg.eig(A(T))
    start = np.array([1.0, 0.1 / 1.9])
    exact = (Q * np.exp(values)) @ np.linalg.solve(Q, start)
    np.testing.assert_allclose(at_one(HEAVY), exact[0].real, rtol=1e-9)


def test_adamw_without_a_gradient_is_a_decay():
    net, data = linear_net([np.zeros((1, 1)), np.ones((1, 1))]), ONE[1]
    dynamics = D.AdamW(0.1, weight_decay=0.5)
    V = nf.gradient_flow(net, data, 1.0, dynamics=dynamics, rtol=1e-10, **SHORT).net.weights[1].item()
    np.testing.assert_allclose(V, np.exp(-0.5 * (1 + 0.1 * 0.5 / 2)), rtol=1e-9)


def test_natural_gradient_without_noise_moves_the_prediction_straight():
    np.testing.assert_allclose(at_one(D.NaturalGradient(1e-3)), np.exp(-1 / (1 + 1e-3)), rtol=1e-9)


# Laws.


def test_the_energy_of_the_heavy_ball_falls_while_its_loss_does_not(net, data):
    run = nf.gradient_flow(
        net, data, 20.0, dynamics=D.HeavyBall(0.1, 0.95), save_nets=True, certify=True, progress=False
    )
    assert np.any(np.diff(run.observed["loss"]) > 0)
    assert np.max(run.observed["loss_identity_error"]) < 1e-6
    assert "balance_error" not in run.observed  # it is no law of this flow


@pytest.mark.parametrize("dynamics", [D.Modified(0.1), ADAM], ids=["modified", "adam"])
def test_certify_measures_the_identity_of_each_energy(net, data, dynamics):
    run = nf.gradient_flow(net, data, 1.0, dynamics=dynamics, certify=True, **SHORT)
    assert 0 < run.observed["loss_identity_error"][-1] < 1e-5
    assert 0 < run.observed["parameter_error"][-1] < 1e-5


def test_natural_gradient_keeps_the_balance_of_linear_layers_and_the_modified_flow_does_not(data):
    net = nf.nets.MLP([5, 4, 1], key=jax.random.key(0))
    balance = lambda net: net.weights[1].T @ net.weights[1] - net.weights[0] @ net.weights[0].T
    change = {}
    for dynamics in (D.NaturalGradient(0.1), D.Modified(0.1)):
        run = nf.gradient_flow(net, data, 1.0, dynamics=dynamics, rtol=1e-9, **SHORT)
        change[type(dynamics)] = float(jnp.linalg.norm(balance(run.net) - balance(net)))
    assert change[D.NaturalGradient] < 1e-8 < 1e-3 < change[D.Modified]


# Gradients and parameters that are zero.


@pytest.mark.parametrize("zero", ["inputs", "last layer"])
def test_natural_gradient_where_entries_of_the_gradient_are_zero(zero):
    key = jax.random.key(0)
    data = nf.data.linear_teacher(20, 4, 2, key=key)
    data = nf.Dataset(data.x.at[:, 0].set(0), data.y) if zero == "inputs" else data
    net = nf.nets.MLP([4, 5, 2], key=key, activation="tanh")
    net = net if zero == "inputs" else net.with_weights([net.weights[0], 0 * net.weights[1]])
    parameters, objective = make_objective(net, data, "mse", 0.0)
    theta, unravel = ravel_pytree(parameters)
    J = jax.jacobian(lambda theta: jax.vmap(objective.net(unravel(theta)))(data.x).ravel())(theta)
    G = J.T @ J / data.samples + 0.1 * jnp.eye(theta.size)
    exact = -jnp.linalg.solve(G, ravel_pytree(objective.gradient(parameters))[0])
    found, _ = D.NaturalGradient(0.1).velocity(objective, parameters, None)
    np.testing.assert_allclose(ravel_pytree(found)[0], exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dynamics", [HEAVY, D.Adam(0.02), D.RMSProp(0.02, eps_in_sqrt=False)])
def test_a_linear_regression_from_zero(dynamics):
    data = nf.data.linear_teacher(20, 4, 2, key=jax.random.key(0))
    data = nf.Dataset(data.x.at[:, 0].set(0), data.y)  # whose gradient is zero at all times
    net = nf.nets.MLP([4, 2], key=jax.random.key(0))
    net = net.with_weights([0 * net.weights[0]])
    run = nf.gradient_flow(net, data, 0.5, dynamics=dynamics, save_at=[0.0, 0.5], progress=False)
    assert run.observed["loss"][-1] < 0.9 * run.observed["loss"][0]
    np.testing.assert_array_equal(run.net.weights[0][:, 0], 0)


def test_derivatives_of_adam_where_a_gradient_is_zero(data):
    net = nf.nets.MLP([5, 4, 1], key=jax.random.key(0), activation="tanh")
    dead = nf.Dataset(data.x.at[:, 0].set(0), data.y)

    def final(rate):
        return nf.gradient_flow(
            net, dead, 0.2, dynamics=D.Adam(rate, eps=1e-3), rtol=1e-9, save_at=[0.2], progress=False
        )

    program = jax.jit(lambda rate: final(rate).observed["loss"][-1])
    found = jax.jit(jax.grad(lambda rate: final(rate).observed["loss"][-1]))(0.02)
    np.testing.assert_allclose(found, (program(0.0201) - program(0.0199)) / 2e-4, rtol=1e-3)


# What every run can do.


def test_a_run_says_what_moved_it(run):
    assert run.stats["dynamics"] == "Adam" and run.stats["data_enters_as"] == "samples"


def test_the_stiff_solver_follows_the_same_flow(net, data, run):
    other = nf.gradient_flow(net, data, 1.0, dynamics=ADAM, solver=nf.flow.NDF(), **SHORT)
    np.testing.assert_allclose(weights_of(other.net), weights_of(run.net), rtol=1e-5, atol=1e-6)
    assert other.stats["hessian_vector_products"] > 0


def test_steps_of_the_stiff_solver_hardly_grow_with_time(net, data):
    dynamics, steps = D.HeavyBall(0.002), []
    for t1 in (2e3, 2e4):
        run = nf.gradient_flow(net, data, t1, dynamics=dynamics, solver=nf.flow.NDF(), save_at=[t1], progress=False)
        steps.append(run.stats["steps"])
    assert steps[1] < 1.5 * steps[0]


def test_runs_are_dense_and_go_on(net, data, run):
    np.testing.assert_allclose(weights_of(run.net_at_time(1.0)), weights_of(run.net), rtol=1e-12)
    longer = nf.gradient_flow(net, data, 2.0, dynamics=ADAM, save_at=[2.0], progress=False)
    np.testing.assert_allclose(weights_of(run.resume(2.0).net), weights_of(longer.net), rtol=1e-12)


def test_another_rate_does_not_compile_again_and_is_the_same_in_jit_vmap_and_sweeps(net, data, compilations):
    def final(rate):
        return nf.gradient_flow(net, data, 1.0, dynamics=D.Adam(rate, eps=1e-3), **SHORT).observed["loss"][-1]

    rates = jnp.array([0.02, 0.03])
    alone = [final(float(rates[0]))]
    compilations()
    alone.append(final(float(rates[1])))
    assert compilations() == 0
    np.testing.assert_allclose(jax.vmap(final)(rates), alone, rtol=1e-12)
    one_run = lambda rate, key: nf.gradient_flow(net, data, 1.0, dynamics=D.Adam(rate, eps=1e-3), **SHORT)
    swept = nf.sweep(one_run, nf.Grid(rate=[0.02, 0.03], seed=[0]))
    np.testing.assert_allclose(swept["loss"].values[..., -1].ravel(), alone, rtol=1e-12)


def test_a_frozen_layer_and_class_labels(data):
    net = nf.nets.MLP([5, 4, 3], key=jax.random.key(0), activation="tanh")
    labels = nf.Dataset(data.x, jnp.arange(data.samples) % 3)
    trainable = eqx.tree_at(lambda t: t.layers[0].weight, jax.tree.map(eqx.is_inexact_array, net), False)
    run = nf.gradient_flow(
        net, labels, 1.0, dynamics=D.NaturalGradient(0.1), loss="cross_entropy", trainable=trainable, **SHORT
    )
    np.testing.assert_array_equal(run.net.weights[0], net.weights[0])
    assert run.observed["loss"][-1] < run.observed["loss"][0]


@pytest.mark.parametrize(("dtype", "off"), [("float32", 1e-4), ("bfloat16", 3e-2)])
def test_lower_precision_follows_double_precision(net, data, run, dtype, off):
    lower = jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, net)
    found = nf.gradient_flow(lower, data, 1.0, dynamics=ADAM, **SHORT).net
    assert found.weights[0].dtype == dtype
    exact = weights_of(run.net)
    assert jnp.linalg.norm(weights_of(found) - exact) < off * jnp.linalg.norm(exact)


def test_kinks_are_followed_loosely(data):
    net = nf.nets.MLP([5, 4, 1], key=jax.random.key(0), activation="relu")
    run = nf.gradient_flow(net, data, 1.0, dynamics=HEAVY, **SHORT)
    assert run.stats["solver"] == "Tsit5" and "kinks" in run.stats["reason"]


class Normalized(D.AbstractDynamics):
    """That of the documentation of `AbstractDynamics`."""

    epsilon: float = 1e-3

    def velocity(self, objective, parameters, memory):
        g = objective.gradient(parameters)
        size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(g)) + self.epsilon**2)
        return jax.tree.map(lambda leaf: -leaf / size, g), None


class Doubled(D.Gradient):
    """A subclass is a dynamics of its own."""

    def velocity(self, objective, parameters, memory):
        return jax.tree.map(lambda g: -2 * g, objective.gradient(parameters)), None


def test_a_subclass_of_gradient_flow_is_not_taken_for_it(net, data):
    twice = nf.gradient_flow(net, data, 0.5, dynamics=Doubled(), save_at=[0.5], progress=False)
    longer = nf.gradient_flow(net, data, 1.0, save_at=[1.0], progress=False)
    np.testing.assert_allclose(weights_of(twice.net), weights_of(longer.net), rtol=1e-5, atol=1e-6)


class Wrong(D.AbstractDynamics):
    """With velocities that no loop can use."""

    how: str = eqx.field(static=True)

    def velocity(self, objective, parameters, memory):
        g = objective.gradient(parameters)
        return {"no pair": g, "a shape": (jax.tree.map(jnp.sum, g), None), "a memory": (g, jnp.zeros(2))}[self.how]


class Symmetric(D.HeavyBall):
    """A false promise."""

    symmetric = True


@pytest.mark.parametrize("dynamics", [Wrong("no pair"), Wrong("a shape"), Wrong("a memory"), Symmetric(0.1)])
def test_a_dynamics_of_the_user_that_cannot_be_integrated(net, data, dynamics):
    with pytest.raises(ValueError, match="`dynamics` must be one w"):
        nf.gradient_flow(net, data, 0.5, dynamics=dynamics)


def test_dynamics_of_the_user(net, data):
    run = nf.gradient_flow(net, data, 0.5, dynamics=Normalized(), save_at=[0.25, 0.5], progress=False, save_nets=True)
    moved = jnp.linalg.norm(weights_of(run.net_at(1)) - weights_of(run.net_at(0)))
    assert 0.2 < moved <= 0.25 + 1e-6  # with the speed 1, on a path that is nearly straight


@pytest.mark.parametrize("memory", [False, True])
def test_derivatives_with_respect_to_rate_and_start(data, memory):
    net = nf.nets.MLP([5, 4, 1], key=jax.random.key(0), activation="tanh")

    def final(rate, scale):
        dynamics = D.HeavyBall(rate) if memory else D.Modified(rate)
        scaled = eqx.tree_at(lambda net: [layer.weight for layer in net.layers], net, [scale * W for W in net.weights])
        return nf.gradient_flow(scaled, data, 1.0, dynamics=dynamics, rtol=1e-9, **SHORT).observed["loss"][-1]

    found, h = jax.jit(jax.grad(final, argnums=(0, 1)))(0.05, 1.0), 1e-4
    program = jax.jit(final)
    differences = [
        (program(0.05 + h, 1.0) - program(0.05 - h, 1.0)) / (2 * h),
        (program(0.05, 1.0 + h) - program(0.05, 1.0 - h)) / (2 * h),
    ]
    np.testing.assert_allclose(found, differences, rtol=1e-5)


# Bad input.


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: D.Modified(0.0), "learning_rate"),
        (lambda: D.HeavyBall(0.1, 1.0), "momentum"),
        (lambda: D.HeavyBall(0.1, -0.1), "momentum"),
        (lambda: D.Adam(-1.0), "learning_rate"),
        (lambda: D.Adam(0.1, b1=1.5), "b1"),
        (lambda: D.Adam(0.1, eps=0.0), "eps"),
        (lambda: D.AdamW(0.1, weight_decay=-1.0), "weight_decay"),
        (lambda: D.RMSProp(0.1, decay=1.0), "decay"),
        (lambda: D.Sign(0.0), "eps"),
        (lambda: D.Muon(float("nan")), "eps"),
        (lambda: D.NaturalGradient(0.0), "damping"),
    ],
)
def test_numbers_out_of_range(make, argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        make()


def test_what_a_dynamics_cannot_have(net, data):
    def refused(argument, **options):
        with pytest.raises(ValueError, match=f"`{argument}` must be"):
            nf.gradient_flow(net, data, 1.0, **options)

    refused("mobility", dynamics=D.RMSProp(0.1), mobility=[1.0, 2.0, 3.0])
    refused("solver", dynamics=ADAM, solver=nf.flow.TSRKC3())
    refused("net", dynamics=D.Muon(0.1))  # because of its biases
    refused("dynamics", dynamics=D.NaturalGradient(0.1), loss=nf.TotalLoss(nf.measure.loss))
    with pytest.raises(ValueError, match="`mobility` must be given for a network whose muP is meant for SGD"):
        mup = nf.nets.MLP([5, 4, 1], key=jax.random.key(0), parametrization=nf.nets.muP())
        nf.gradient_flow(mup, data, 1.0, dynamics=ADAM)
    with pytest.raises(ValueError, match="`dynamics` must be one with mobilities for a network with those of muP"):
        mup = nf.nets.MLP([5, 4, 1], key=jax.random.key(0), parametrization=nf.nets.muP("adam"))
        nf.gradient_flow(mup, data, 1.0, dynamics=D.RMSProp(0.1))


def test_a_parametrization_for_adam_gives_the_mobilities_of_its_flow(data):
    net = nf.nets.MLP([5, 4, 4, 1], key=jax.random.key(0), parametrization=nf.nets.muP("adam"))
    own = nf.gradient_flow(net, data, 1.0, dynamics=ADAM, **SHORT)
    given = nf.gradient_flow(net, data, 1.0, dynamics=ADAM, mobility=net.mobility, **SHORT)
    np.testing.assert_array_equal(weights_of(own.net), weights_of(given.net))


def test_relu_refuses_solvers_that_locate_kinks_of_gradient_flow(data):
    net = nf.nets.MLP([5, 4, 1], key=jax.random.key(0), activation="relu")
    with pytest.raises(ValueError, match="`solver` must be another one"):
        nf.gradient_flow(net, data, 1.0, dynamics=D.Modified(0.1), solver=nf.flow.Piecewise())
