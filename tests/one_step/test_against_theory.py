"""Simulated steps against the theory, at sizes where a run takes a fraction of a second."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow.one_step import (
    cancel_output,
    feature_spectrum,
    features,
    gaussian_features,
    gradient_vector,
    observed_spikes,
    one_step,
    powers,
    ridge_fit,
    sizes,
    spike_overlap,
    two_layer_net,
)
from nfa_flow.theory import (
    feature_outliers,
    finite_ridge_losses,
    gradient_direction,
    hermite,
    hermite_series,
    linear_losses,
    resolvent_traces,
    ridge_losses,
    spike_matrix,
    spike_orders,
)

SIZES = sizes(800, 0.3, 0.6)
LINK = hermite_series([0, 1, 0.5**0.5])
TEACHER, NOISE, PENALTY = hermite(LINK), 0.5, 0.01
ENERGY = 2 + NOISE**2  # E[y²]


def draw(seed, activation, own_output, *, test_samples=0):
    """A network, the batch of its step, and fresh samples, of which the last are for testing."""
    data_key, net_key = jax.random.split(jax.random.key(seed))
    n = SIZES.samples
    data = nf.data.single_index(2 * n + test_samples, SIZES.inputs, key=data_key, noise=NOISE, link=LINK)
    net = two_layer_net(SIZES.inputs, SIZES.width, activation, key=net_key)
    batch, x, y = nf.Dataset(data.x[:n], data.y[:n]), data.x[n:], data.y[n:, 0]
    return net, batch if own_output else cancel_output(net, batch), x, y


def of_this_draw(direction, beta, a):
    """The direction with the length that β has, and ‖a‖ beside it, in place of the limits 1."""
    longer = float(jnp.linalg.norm(beta)) / direction.norm
    size = direction.norm * longer * float(jnp.linalg.norm(a))
    return direction._replace(norm=size, own=direction.own / longer, scatter=direction.scatter / longer)


class Steps:
    """Six draws of a step η = n^α: singular values seen and predicted, counts, overlaps."""

    def __init__(self, name, alpha, own_output):
        activation, eta = hermite(name), SIZES.samples**alpha
        limit = gradient_direction(TEACHER, 0.3, noise=NOISE, activation=activation, own_output=own_output)
        self.seen, self.predicted, self.counts, self.in_powers, self.in_smoothed = [], [], [], [], []
        for seed in range(6):
            net, batch, x, _ = draw(seed, name, own_output)
            beta = gradient_vector(net, batch)[:, 0]
            direction = of_this_draw(limit, beta, net.weights[1])
            S = spike_matrix(name, eta, direction, SIZES.width)
            self.predicted.append(feature_outliers(S, 0.3, 0.6, activation, own=direction.own))
            spectrum = feature_spectrum(features(one_step(net, batch, eta), x), vectors=2)
            self.counts.append(observed_spikes(spectrum.singular_values))
            self.seen.append(spectrum.singular_values)
            u = powers(x, beta, (1, 2))
            self.in_powers.append(spike_overlap(spectrum.left, u))
            self.in_smoothed.append(spike_overlap(spectrum.left, u.at[:, 1].add(direction.scatter**2)))

    def ratios(self, k):
        """Of the k-th spike as seen to its prediction, the median over the draws."""
        return np.median([seen[k] / predicted[k] for seen, predicted in zip(self.seen, self.predicted, strict=True)])


steps = functools.cache(Steps)


@pytest.mark.parametrize(
    "setting, count",
    [
        (("relu", 0.36, True), 2),
        (("softplus", 0.42, False), 2),
        (("softplus", 0.2, False), 1),
        (("tanh", 0.36, True), 1),
    ],
)
def test_as_many_spikes_are_seen_as_predicted_where_they_are_predicted(setting, count):
    found = steps(*setting)
    assert [len(predicted) for predicted in found.predicted] == found.counts == [count] * 6
    for k in range(count):
        assert abs(found.ratios(k) - 1) < 0.08


@pytest.mark.parametrize("name", ["relu", "softplus"])
def test_activations_without_third_order_have_no_third_spike(name):
    # α = 0.36 is in the window of three spikes.
    assert spike_orders(0.36, hermite(name)) == (1, 2)
    assert max(steps(name, 0.36, name == "relu").counts) <= 2


def test_the_spikes_consist_of_powers_of_the_projection_smoothed_by_the_scatter():
    found = steps("relu", 0.36, True)
    first, second = np.mean(found.in_powers, axis=0)
    assert first > 0.95 and second > 0.6
    # The second is not u² itself but u² + s².
    assert all(smoothed[1] > plain[1] for smoothed, plain in zip(found.in_smoothed, found.in_powers, strict=True))


def test_traces_of_random_features_are_those_of_the_theory():
    activation = hermite("softplus")
    expected = np.array(resolvent_traces(PENALTY, 0.3, 0.6, activation)[:2])
    real, normal = [], []
    for seed in range(8):
        net, batch, x, _ = draw(seed, "softplus", True)
        for F, traces in (
            (features(net, x), real),
            (gaussian_features(net, x, activation, key=jax.random.key(seed)), normal),
        ):
            R = jnp.linalg.inv(F @ F.T + PENALTY * SIZES.samples * jnp.eye(SIZES.samples))
            traces.append([jnp.trace(R), jnp.sum(x * (R @ x)) / SIZES.inputs])
    off = np.mean(real, axis=0) / expected - 1
    assert abs(off[0]) < 0.002
    # t_2 is the mean of d quadratic forms, each spread by about √2 t_2/√n; by 8 draws, times three.
    assert abs(np.mean(normal, axis=0)[1] / expected[1] - 1) < 3 * (2 / SIZES.inputs / 8) ** 0.5
    # Of real features it is off by O(1/n) more.
    assert abs(off[1]) < 3 * (2 / SIZES.inputs / 8) ** 0.5 + 4 / SIZES.samples


@pytest.fixture(scope="module")
def ridge():
    """Losses of 14 draws with free spikes beside relu features, draw × orders × (train, test), and of the inputs."""
    sets = ((), (1,), (1, 2))
    by_spikes, of_inputs = [], []
    for seed in range(14):
        net, batch, x, y = draw(seed, "relu", False, test_samples=3000)
        beta, n = gradient_vector(net, batch)[:, 0], SIZES.samples
        F = features(net, x)
        # Most of the spread is that of mean y², whose expectation is known.
        scale = ENERGY / np.array([jnp.mean(y[:n] ** 2), jnp.mean(y[n:] ** 2)])
        rows = []
        for orders in sets:
            U = powers(x, beta, orders) if orders else jnp.zeros((len(x), 0))
            fit = ridge_fit(F[:n], y[:n], PENALTY, free=U[:n])
            rows.append(scale * [fit.train, fit.test(F[n:], y[n:], free=U[n:])])
        by_spikes.append(rows)
        fit = ridge_fit(x[:n], y[:n], PENALTY)
        of_inputs.append(scale * [fit.train, fit.test(x[n:], y[n:])])
    return sets, np.array(by_spikes), np.array(of_inputs)


def agree(draws, expected):
    """Within three standard errors, and 2/d for what is left of the limit at this size."""
    off = np.abs(draws.mean(axis=0) - expected)
    return np.all(off < 3 * draws.std(axis=0, ddof=1) / len(draws) ** 0.5 + 2 / SIZES.inputs * np.asarray(expected))


def test_losses_with_free_spikes_are_the_limits(ridge):
    sets, by_spikes, _ = ridge
    for i, orders in enumerate(sets):
        limit = ridge_losses(PENALTY, 0.3, 0.6, hermite("relu"), TEACHER, noise=NOISE, orders=orders)
        assert agree(by_spikes[:, i], limit)


def test_losses_on_the_inputs_are_the_linear_baseline(ridge):
    assert agree(ridge[2], linear_losses(PENALTY, 0.3, TEACHER, noise=NOISE))


@pytest.mark.parametrize("own_output", [False, True])
def test_losses_with_spikes_of_finite_size_are_those_of_the_features_plus_the_low_rank(own_output):
    activation, eta, K, n = hermite("relu"), 10.0, 3, SIZES.samples
    direction = gradient_direction(TEACHER, 0.3, noise=NOISE, activation=activation, own_output=own_output)
    S = spike_matrix("relu", eta, direction, SIZES.width, max_order=K)
    h = lambda z: jnp.stack([jnp.ones_like(z), z, (z**2 - 1) / 2**0.5, (z**3 - 3 * z) / 6**0.5], axis=1)
    draws = []
    for seed in range(10):
        net, batch, x, y = draw(seed, "relu", own_output, test_samples=3000)
        beta, a = gradient_vector(net, batch)[:, 0], net.weights[1][0]
        U, V = h(x @ beta / jnp.linalg.norm(beta)), h(SIZES.width**0.5 * a) / SIZES.width**0.5
        F = features(net, x) + U @ S @ V.T
        fit = ridge_fit(F[:n], y[:n], PENALTY)
        scale = ENERGY / np.array([jnp.mean(y[:n] ** 2), jnp.mean(y[n:] ** 2)])
        draws.append(scale * [fit.train, fit.test(F[n:], y[n:])])
    expected = finite_ridge_losses(PENALTY, 0.3, 0.6, activation, TEACHER, S, direction, noise=NOISE)
    without = ridge_losses(PENALTY, 0.3, 0.6, activation, TEACHER, noise=NOISE)
    assert agree(np.array(draws), expected) and not agree(np.array(draws), without)


def test_a_teacher_without_linear_part_is_not_learned_by_a_step():
    link = hermite_series([0, 0, 1])
    gains = []
    for seed in range(4):
        data = nf.data.single_index(4 * SIZES.samples, SIZES.inputs, key=jax.random.key(seed), link=link)
        n, (x, y) = SIZES.samples, (data.x, data.y)
        net = two_layer_net(SIZES.inputs, SIZES.width, "relu", key=jax.random.key(100 + seed))
        after = one_step(net, nf.Dataset(x[:n], y[:n]), n**0.3)
        test = [
            ridge_fit(F[n : 2 * n], y[n : 2 * n, 0], PENALTY).test(F[2 * n :], y[2 * n :, 0])
            for F in (features(net, x), features(after, x))
        ]
        gains.append((test[0] - test[1]) / test[0])
    # For the teacher with a linear part the step gains a fifth.
    assert abs(np.mean(gains)) < 0.05
