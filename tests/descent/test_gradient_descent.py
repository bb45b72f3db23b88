"""What the steps are: the closed form of linear regression, optax by hand, and the flow in the limit of small steps."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import linear_net, relative, with_random_biases

import nfa_flow as nf

SGD = optax.sgd(0.1)


@pytest.fixture(scope="module")
def data():
    data = nf.data.linear_teacher(30, 4, 3, key=jax.random.key(0), noise=0.3)
    weight = np.random.default_rng(0).uniform(0.2, 1.0, size=30)
    return nf.Dataset(data.x, data.y, weight / weight.sum())


@pytest.fixture(scope="module")
def net():
    net = nf.nets.MLP([4, 5, 3], key=jax.random.key(1), activation="tanh", bias=True)
    return with_random_biases(net)


def parameters(net):
    return eqx.filter(net, eqx.is_inexact_array)


def vector(net):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(parameters(net))])


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_linear_regression_contracts_by_one_minus_rate_times_curvature(data, weight_decay):
    """W_k − W* = (W_0 − W*)(I − η(S_xx + λI))^k with W* = S_yx (S_xx + λI)⁻¹."""
    W_0, rate, steps = np.random.default_rng(1).normal(size=(3, 4)), 0.3, np.arange(41)
    run = nf.gradient_descent(
        linear_net([W_0]),
        data,
        optax.sgd(rate),
        40,
        weight_decay=weight_decay,
        save_at=steps,
        save_nets=True,
        progress=False,
    )
    curvature = np.asarray(data.S_xx) + weight_decay * np.eye(4)
    best = np.linalg.solve(curvature, data.S_xy).T
    contraction = np.eye(4) - rate * curvature
    exact = np.stack([best + (W_0 - best) @ np.linalg.matrix_power(contraction, k) for k in steps])
    assert relative(run.nets.weights[0] - exact, exact) < 1e-12
    np.testing.assert_array_equal(run.steps, steps)
    np.testing.assert_allclose(run.times, rate * steps, rtol=1e-15)


OPTIMIZERS = {
    "sgd": SGD,
    "momentum": optax.sgd(0.05, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.01),
    "adamw": optax.adamw(optax.cosine_decay_schedule(0.01, 30), weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_makes_the_steps_of_a_loop_by_hand(name, net, data):
    optimizer, decay, steps = OPTIMIZERS[name], 0.05, 30

    def objective(theta):
        outputs = jax.vmap(eqx.combine(theta, net))(data.x)
        losses = 0.5 * jnp.sum((outputs - data.y) ** 2, axis=1)
        return jnp.sum(data.weight * losses) + 0.5 * decay * sum(jnp.sum(p**2) for p in jax.tree.leaves(theta))

    theta, gradient = parameters(net), jax.jit(jax.grad(objective))
    state, path = optimizer.init(theta), [vector(net)]
    for _ in range(steps):
        updates, state = optimizer.update(gradient(theta), state, theta)
        theta = optax.apply_updates(theta, updates)
        path.append(vector(theta))

    options = {"save_at": range(steps + 1), "save_nets": True, "progress": False, "time_per_step": 1.0}
    run = nf.gradient_descent(net, data, optimizer, steps, weight_decay=decay, **options)
    computed = [vector(run.net_at(k)) for k in range(steps + 1)]
    assert relative(np.subtract(computed, path), path) < 1e-12
    np.testing.assert_array_equal(vector(run.net), computed[-1])


@pytest.mark.parametrize("activation", ["identity", "tanh"])
def test_small_steps_follow_the_flow_to_first_order(activation, data):
    """The error at a fixed time is c η + O(η²), so half the rate halves it; c η/c(η/2) = 2 (1 + O(η))."""
    net = nf.nets.MLP([4, 5, 3], key=jax.random.key(1), activation=activation)
    flow = nf.gradient_flow(net, data, 2.0, rtol=1e-11, atol=1e-14, save_at=[2.0], progress=False)

    def error(rate):
        run = nf.gradient_descent(net, data, optax.sgd(rate), round(2 / rate), save_at=[0], progress=False)
        assert run.end_time == pytest.approx(2.0, rel=1e-12)
        return relative(vector(run.net) - vector(flow.net), vector(flow.net))

    errors = [error(rate) for rate in (0.02, 0.01, 0.005)]
    assert errors[0] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


def test_linear_networks_descend_alike_through_moments_and_samples(data):
    net = with_random_biases(nf.nets.MLP([4, 5, 3], key=jax.random.key(1), bias=True))
    through_moments = nf.gradient_descent(net, data, SGD, 50, progress=False)
    through_samples = nf.gradient_descent(net, data, SGD, 50, batch_size=30, key=jax.random.key(0), progress=False)
    difference = vector(through_moments.net) - vector(through_samples.net)
    assert relative(difference, vector(through_moments.net)) < 1e-12
    np.testing.assert_allclose(through_moments.observed["loss"], through_samples.observed["loss"], rtol=1e-12)


def test_observables_are_recorded_at_exactly_the_steps_asked_for(net, data):
    observe = {"loss": nf.measure.loss, "first": lambda net, data: net.weights[0], "n": lambda net, data: data.samples}
    steps = [0, 1, 7, 8, 20]
    options = {"save_at": steps, "save_nets": True, "progress": False, "time_per_step": 0.01}
    run = nf.gradient_descent(net, data, optax.adam(0.01), 20, observe=observe, **options)
    assert run.status == "completed"
    assert run.stats["steps"] == run.stats["gradient_evaluations"] == 20
    np.testing.assert_array_equal(run.steps, steps)
    np.testing.assert_array_equal(run.observed["first"], run.nets.weights[0])
    np.testing.assert_array_equal(run.observed["n"], [30] * 5)
    for i in range(5):
        assert run.observed["loss"][i] == pytest.approx(float(nf.measure.loss(run.net_at(i), data)), rel=1e-13)


def test_a_run_goes_on_behind_the_last_observation(net, data):
    early = nf.gradient_descent(net, data, SGD, 20, save_at=[3], progress=False)
    full = nf.gradient_descent(net, data, SGD, 20, save_at=[20], progress=False)
    np.testing.assert_array_equal(early.steps, [3])
    assert early.end_time == full.end_time == pytest.approx(2.0)
    np.testing.assert_array_equal(vector(early.net), vector(full.net))


def test_by_default_the_loss_is_observed_at_log_spaced_steps_from_the_first_to_the_last(net, data):
    run = nf.gradient_descent(net, data, SGD, 1000, progress=False)
    assert list(run.observed) == ["loss"]
    assert run.nets is None
    assert run.steps[0] == 0 and run.steps[1] == 1 and run.steps[-1] == 1000
    assert 40 < len(run.steps) < 62
    assert np.all(np.diff(run.steps) > 0)


def test_a_diverging_run_ends_at_its_last_finite_step(data):
    """Three linear layers at a rate far beyond stability grow like a tower of cubes and overflow after a few steps."""
    net = nf.nets.MLP([4, 5, 5, 3], key=jax.random.key(1))
    options = {"save_at": [0, 2, 500, 1000], "save_nets": True, "progress": False}
    with pytest.raises(nf.RunError, match="stopped being finite") as raised:
        nf.gradient_descent(net, data, optax.sgd(50.0), 1000, **options)
    run = nf.gradient_descent(net, data, optax.sgd(50.0), 1000, throw=False, **options)
    assert run.status == raised.value.trajectory.status == "diverged"
    assert not run.succeeded
    last = run.stats["steps"]
    assert 2 < last < 100
    assert run.end_time == pytest.approx(50.0 * last)
    np.testing.assert_array_equal(run.steps, [0, 2, last])
    np.testing.assert_array_equal(raised.value.trajectory.steps, [0, 2, last])
    assert np.isfinite(vector(run.net)).all()
    np.testing.assert_array_equal(vector(run.net_at(-1)), vector(run.net))


def test_float32_networks_are_trained_in_float32(data):
    net = nf.nets.MLP([4, 5, 3], key=jax.random.key(1), dtype="float32")
    train = lambda net: nf.gradient_descent(net, data, optax.adam(0.01), 20, weight_decay=0.1, time_per_step=0.01)
    shapes = eqx.filter_eval_shape(train, net)
    assert shapes.net.layers[0].weight.dtype == shapes.observed["loss"].dtype == jnp.float32


def test_a_gradient_that_is_nan_from_the_start_is_told_from_a_divergence(data):
    """√ has no derivative at the zero residual of a zero network on zero targets."""
    net = nf.nets.MLP([4, 3], key=jax.random.key(0)).with_weights([np.zeros((3, 4))])
    still = nf.Dataset(data.x, jnp.zeros_like(data.y))
    cusp = lambda p, t: jnp.sqrt(jnp.sum((p - t) ** 2))
    run = nf.gradient_descent(net, still, optax.sgd(0.1), 10, loss=cusp, throw=False, progress=False)
    assert run.status == "no_gradient" and "the gradient of the loss is NaN" in run.what_happened
    assert run.stats["steps"] == 0 and len(run.times) == 1
