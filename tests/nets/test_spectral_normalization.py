"""Normalized updates have the spectral norm √(fan_out/fan_in) times the learning rate, in the gradient's direction."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nfa_flow as nf

normalized = jax.jit(lambda G: nf.nets.normalize_by_spectral_norm().update(G, optax.EmptyState())[0])


def matrix(singular_values, shape, seed=0):
    random = np.random.default_rng(seed)
    U, V = (np.linalg.qr(random.normal(size=(size, len(singular_values))))[0] for size in shape)
    return (U * np.asarray(singular_values)) @ V.T


@given(st.sampled_from([(6, 6), (9, 4), (4, 9)]), st.integers(0, 2**32 - 1), st.floats(-100, 100))
def test_the_norm_is_that_of_the_shape_whatever_the_gradient(shape, seed, log_size):
    random = np.random.default_rng(seed)
    s = np.append(1.0, random.uniform(0, 1, 3))
    norm = np.linalg.norm(normalized(jnp.asarray(np.exp(log_size) * matrix(s, shape, seed))), 2)
    # Singular values may crowd at the top: the squared norm is then known to 1e-5, the norm to half of that.
    assert norm == pytest.approx((shape[0] / shape[1]) ** 0.5, rel=5.1e-6)


def test_the_norm_is_exact_where_the_largest_singular_value_is_alone():
    G = jnp.asarray(matrix([3.0, 1.0, 0.5], (9, 4)))
    np.testing.assert_allclose(normalized(G), 1.5 / 3.0 * G, rtol=1e-9, atol=1e-12)


def test_orthogonal_gradients_and_vectors_have_closed_forms():
    Q = jnp.asarray(matrix(np.ones(4), (4, 4)))
    np.testing.assert_allclose(normalized(5 * Q), Q, rtol=1e-12, atol=1e-14)
    # A bias of four is a 4 × 1 matrix.
    np.testing.assert_allclose(normalized(jnp.array([3.0, 0.0, 4.0, 0.0])), [1.2, 0, 1.6, 0], rtol=1e-14)


def test_zero_stays_zero_and_tiny_is_not_zero():
    np.testing.assert_array_equal(normalized(jnp.zeros((9, 4))), np.zeros((9, 4)))
    G = jnp.asarray(matrix([3.0, 1.0, 0.5], (9, 4)))
    # Squares of the entries would underflow.
    np.testing.assert_allclose(normalized(1e-250 * G), normalized(G), rtol=1e-12)


def test_a_step_moves_each_layer_by_the_learning_rate_times_its_norm():
    net = nf.nets.MLP([3, 8, 2], key=jax.random.key(0), activation="tanh", bias=True)
    data = nf.data.linear_teacher(20, 3, 2, key=jax.random.key(1))
    optimizer = optax.chain(nf.nets.normalize_by_spectral_norm(), optax.sgd(0.1))
    run = nf.gradient_descent(net, data, optimizer, 1, time_per_step=1.0, progress=False)
    for before, after in zip(net.layers, run.net.layers, strict=True):
        fan_out, fan_in = before.weight.shape
        moved = np.linalg.norm(after.weight - before.weight, 2)
        assert moved == pytest.approx(0.1 * (fan_out / fan_in) ** 0.5, rel=5.1e-6)
        assert np.linalg.norm(after.bias - before.bias) == pytest.approx(0.1 * fan_out**0.5, rel=1e-12)


def test_other_arrays_are_refused():
    with pytest.raises(ValueError, match=r"`net` must be of matrices and vectors.*\(2, 3, 4\)"):
        normalized(jnp.zeros((2, 3, 4)))
