import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow.one_step import cancel_output, flow_step, gradient_vector, one_step, two_layer_net
from nfa_flow.theory import gradient_direction, hermite, hermite_series

ETA = 3.0
TEACHER = hermite(hermite_series([0, 1, 0.5**0.5]))
SETTING = {"noise": 0.5, "activation": hermite("relu")}


def problem(samples=30, inputs=5, width=8, activation="softplus", seed=0, outputs=1):
    data_key, net_key = jax.random.split(jax.random.key(seed))
    if outputs == 1:
        data = nf.data.single_index(samples, inputs, key=data_key, noise=0.5)
    else:
        data = nf.data.linear_teacher(samples, inputs, outputs, key=data_key)
    return two_layer_net(inputs, width, activation, key=net_key, outputs=outputs), data


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_step_is_the_gradient_written_out(outputs):
    net, data = problem(outputs=outputs)
    W, a = (np.asarray(each) for each in net.weights)
    z = np.asarray(data.x) @ W.T
    residual = np.asarray(data.y) - (np.logaddexp(0, z) - hermite("softplus").coefficients[0]) @ a.T
    G = ((residual @ a) / (1 + np.exp(-z))).T @ np.asarray(data.x) / data.samples
    after = one_step(net, data, ETA)
    np.testing.assert_allclose(after.weights[0], W + ETA * G, rtol=1e-10, atol=1e-12)
    assert jnp.array_equal(after.weights[1], net.weights[1])


def test_weights_of_samples_count():
    net, data = problem()
    half = nf.Dataset(data.x, data.y, weight=np.repeat([2 / 30, 0], 15))
    first = nf.Dataset(data.x[:15], data.y[:15])
    np.testing.assert_allclose(one_step(net, half, ETA).weights[0], one_step(net, first, ETA).weights[0], atol=1e-12)
    np.testing.assert_allclose(gradient_vector(net, half), gradient_vector(net, first), atol=1e-12)


def test_many_small_steps_tend_to_the_flow():
    net, data = problem()
    exact = flow_step(net, data, ETA, rtol=1e-8)
    assert jnp.array_equal(exact.weights[1], net.weights[1])
    off = [jnp.linalg.norm(one_step(net, data, ETA, steps=k).weights[0] - exact.weights[0]) for k in (100, 200, 400)]
    # Of first order in the step, up to terms of second order, of 1 % here.
    np.testing.assert_allclose(np.divide(off[:-1], off[1:]), 2, rtol=0.05)


def test_steps_in_any_number_share_a_program(compilations):
    net, data = problem()
    one_step(net, data, ETA)
    compilations()
    one_step(net, data, 2 * ETA, steps=7)
    assert compilations() == 0


def test_with_its_output_cancelled_the_residuals_are_the_targets():
    net, data = problem()
    cancelled = cancel_output(net, data)
    np.testing.assert_allclose(gradient_vector(net, cancelled)[:, 0], data.x.T @ data.y[:, 0] / 30, rtol=1e-12)
    np.testing.assert_allclose(nf.measure.loss(net, cancelled), jnp.mean(data.y**2) / 2, rtol=1e-12)


@pytest.fixture(scope="module")
def gradients():
    """For n = 200 and 1800 at one ratio: distances of the gradient from rank one, and lengths, over four draws."""
    found = {}
    for n in (200, 1800):
        draws = []
        for seed in range(4):
            net, data = problem(n, 3 * n // 10, n // 2, "relu", seed)
            (W, a), beta = net.weights, gradient_vector(net, data)[:, 0]
            G = one_step(net, data, 1.0).weights[0] - W
            of_targets = data.x.T @ data.y[:, 0] / n
            rest = G - 0.5 * jnp.outer(a[0], beta)
            size = 0.5 * jnp.linalg.norm(a) * jnp.linalg.norm(beta)
            off = jnp.linalg.norm(rest, 2), jnp.linalg.norm(G - 0.5 * jnp.outer(a[0], of_targets), 2)
            scatter = jnp.linalg.norm(rest) / jnp.linalg.norm(a) / 0.5
            toward = W.T @ a[0] / jnp.linalg.norm(W.T @ a[0])
            cosines = beta @ data.index[:, 0], beta @ toward
            draws.append([off[0] / size, off[1] / size, scatter, jnp.linalg.norm(beta), *cosines])
        found[n] = np.array(draws)
    return found


def test_the_gradient_is_of_rank_one_with_the_residuals_and_not_with_the_targets(gradients):
    own, targets = (np.array([gradients[n][:, i].mean() for n in (200, 1800)]) for i in (0, 1))
    # The distance falls like 1/√n, threefold here. With the targets in the place of the residuals it tends to what the
    # output has in β: c_1 W_0ᵀa and, squared, φ Var σ(Z) of its fluctuations.
    assert 2 < own[0] / own[1] < 4.5
    limit = (0.25 + 0.3 * hermite("relu").variance) ** 0.5 / gradient_direction(TEACHER, 0.3, **SETTING).norm
    # ‖W_0ᵀa‖² is spread by √(2/N + 2/d) of it, so the mean over four draws by 2 %; the rest adds own[1]² in squares.
    np.testing.assert_allclose(targets[1], (limit**2 + own[1] ** 2) ** 0.5, rtol=0.1)


def test_its_direction_and_the_scatter_of_its_rows_are_those_of_the_theory(gradients):
    direction = gradient_direction(TEACHER, 0.3, **SETTING)
    _, _, scatter, norm, along, own = gradients[1800].T
    # Student's t of four draws: the mean is within 5.84 of its standard errors in 99 of 100 cases.
    within = lambda values: 5.84 * values.std(ddof=1) / 2
    assert abs(norm.mean() - direction.norm) < within(norm)
    assert abs((along / norm).mean() - direction.cosine) < within(along / norm)
    assert abs((own / norm).mean() + direction.own) < within(own / norm)
    assert abs((scatter / norm).mean() - direction.scatter) < within(scatter / norm)


def test_bad_arguments_are_refused():
    net, data = problem()
    with pytest.raises(ValueError, match="`eta` must be a positive number"):
        one_step(net, data, 0.0)
    with pytest.raises(ValueError, match="`steps` must be"):
        one_step(net, data, 1.0, steps=0)
    deep = nf.nets.MLP([5, 4, 4, 1], key=jax.random.key(0))
    biased = nf.nets.MLP([5, 4, 1], key=jax.random.key(0), bias=True)
    for other in (deep, biased):
        for function in (one_step, flow_step):
            with pytest.raises(ValueError, match="`net` must be an `MLP` of two layers"):
                function(other, data, 1.0)
    other = nf.Dataset(data.x[:, :3], data.y)
    for function in (cancel_output, gradient_vector, lambda net, data: one_step(net, data, 1.0)):
        with pytest.raises(ValueError, match="`data` must be of 5 inputs and 1 outputs, like the network"):
            function(net, other)


def test_the_flow_moves_the_first_layer_only_under_weight_decay_too():
    net, data = problem()
    after = flow_step(net, data, ETA, weight_decay=0.5)
    np.testing.assert_array_equal(after.weights[1], net.weights[1])
    assert not np.array_equal(after.weights[0], net.weights[0])
