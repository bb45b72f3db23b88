import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfa_flow.one_step import (
    feature_spectrum,
    features,
    gaussian_features,
    observed_spikes,
    powers,
    spike_overlap,
    two_layer_net,
)
from nfa_flow.theory import hermite


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (15, 15)])
def test_spectrum_is_the_singular_value_decomposition(shape):
    F = jax.random.normal(jax.random.key(0), shape)
    U, s, _ = np.linalg.svd(F, full_matrices=False)
    found = feature_spectrum(F, vectors=3)
    # Through the Gram matrix: the rounding is that of the squares.
    np.testing.assert_allclose(found.singular_values**2, s**2 / shape[0], atol=1e-13 * s[0] ** 2)
    np.testing.assert_allclose(np.abs(np.sum(found.left * U[:, :3], axis=0)), 1, rtol=1e-10)
    alone = feature_spectrum(F)
    np.testing.assert_allclose(alone.singular_values, found.singular_values, atol=1e-6)
    assert alone.left.shape == (shape[0], 0)


def test_a_bulk_has_no_spikes():
    counts = []
    for seed in range(40):
        net = two_layer_net(60, 100, "softplus", key=jax.random.key(seed))
        x = jax.random.normal(jax.random.key(1000 + seed), (200, 60))
        counts.append(observed_spikes(feature_spectrum(features(net, x)).singular_values))
    assert counts == [0] * 40


@pytest.mark.parametrize("planted", [(5.0,), (5.0, 4.9), (9.0, 5.0, 3.0)])
def test_planted_spikes_are_counted_also_where_they_are_close(planted):
    noise = np.linalg.svd(np.random.default_rng(0).normal(size=(300, 150)) / 300**0.5, compute_uv=False)
    assert observed_spikes(np.concatenate([planted, noise])) == len(planted)


def test_short_and_empty_spectra_have_no_gaps():
    assert observed_spikes(np.array([1.0])) == observed_spikes(np.array([])) == 0


def test_overlap_is_the_share_within_the_span():
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 3)))[0]
    left = np.stack([Q[:, 0], (Q[:, 1] + Q[:, 2]) / 2**0.5], axis=1)
    np.testing.assert_allclose(spike_overlap(jnp.array(left), jnp.array(Q[:, :2]) * 7.0), [1, 0.5], atol=1e-12)


def test_features_are_the_hidden_layer():
    net = two_layer_net(3, 4, "relu", key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (5, 3))
    expected = np.maximum(x @ net.weights[0].T, 0) - (2 * np.pi) ** -0.5
    np.testing.assert_allclose(features(net, x), expected, atol=1e-12)


def test_gaussian_features_have_the_moments_of_the_features():
    net, n = two_layer_net(40, 30, "relu", key=jax.random.key(0)), 20_000
    x = jax.random.normal(jax.random.key(1), (n, 40))
    other = gaussian_features(net, x, hermite("relu"), key=jax.random.key(2))
    covariance = [np.asarray(F.T @ F) / n for F in (features(net, x), other)]
    # The normal equivalent keeps c_1² WWᵀ and the variance; c_2² (w_iᵀw_j)²·2 ~ .08/40 off the diagonal is left out.
    np.testing.assert_allclose(np.diag(covariance[0]), np.diag(covariance[1]), atol=5 * 0.35 * (4 / n) ** 0.5)
    np.testing.assert_allclose(*covariance, atol=0.08 * 16 / 40)


def test_powers_are_those_of_the_normalized_projection():
    x, beta = jax.random.normal(jax.random.key(0), (4, 2)), jnp.array([3.0, 4.0])
    u = x @ (beta / 5)
    np.testing.assert_allclose(powers(x, beta, (1, 3)), jnp.stack([u, u**3], axis=1), rtol=1e-12)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="`vectors` must be"):
        feature_spectrum(jnp.eye(3), vectors=-1)
    with pytest.raises(ValueError, match="`orders` must be"):
        powers(jnp.eye(3), jnp.ones(3), (0,))


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (2000, 600)])
def test_rounding_is_no_spike(shape):
    spectrum = feature_spectrum(jnp.ones(shape), vectors=2)
    np.testing.assert_allclose(spectrum.singular_values, [shape[1] ** 0.5, *[0] * (min(shape) - 1)], rtol=1e-12)
    assert observed_spikes(spectrum.singular_values) == 1
    np.testing.assert_allclose(jnp.linalg.norm(spectrum.left, axis=0), [1, 0], rtol=1e-12)
    np.testing.assert_array_equal(feature_spectrum(jnp.zeros(shape), vectors=2).left, 0)
    assert observed_spikes(feature_spectrum(jnp.ones(shape, "float32")).singular_values) == 1


def test_the_rank_of_features_is_no_number_of_spikes():
    net = two_layer_net(10, 100, "identity", key=jax.random.key(0))
    F = features(net, jax.random.normal(jax.random.key(1), (300, 10)))
    assert jnp.linalg.matrix_rank(F) == 10
    assert observed_spikes(feature_spectrum(F).singular_values) == 0
    rounded = jnp.linalg.svd(F, compute_uv=False)  # with rounding errors in place of zeros
    assert observed_spikes(rounded) == 0
    assert observed_spikes(jnp.concatenate([jnp.array([50 * rounded[0]]), rounded])) == 1


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_spectra_and_powers_in_single_precision_do_not_depend_on_the_scale(scale):
    F = jax.random.normal(jax.random.key(0), (20, 8), jnp.float32)
    spectrum, scaled = feature_spectrum(F, vectors=1), feature_spectrum(scale * F, vectors=1)
    np.testing.assert_allclose(scaled.singular_values / scale, spectrum.singular_values, rtol=1e-5)
    np.testing.assert_allclose(powers(F, scale * F[0], [1, 2]), powers(F, F[0], [1, 2]), rtol=1e-4, atol=1e-6)
