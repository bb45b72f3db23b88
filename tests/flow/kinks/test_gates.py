"""A program with gates is the program itself where the gates are those of its signs, and smooth everywhere."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nfa_flow as nf
from nfa_flow.flow.kinks.gates import CannotGate, count_gates, frozen, gated, rounded

W = jax.random.normal(jax.random.key(0), (6, 4))
X = jax.random.normal(jax.random.key(1), (5, 4))
POOL = eqx.nn.MaxPool1d(kernel_size=3, stride=2, padding=1)


def by_sign(h, high, low):
    return frozen(jnp.where(jnp.ravel(h) > 0, 1.0, 0.0))(h, high, low)


def always(side):
    return lambda h, high, low: frozen(jnp.full(h.size, side))(h, high, low)


def of(activation):
    return lambda W, x: activation(W @ x)


KINKED = {
    "relu": (jax.nn.relu, 6),
    "leaky_relu": (jax.nn.leaky_relu, 6),
    "relu6": (lambda z: jax.nn.relu6(8 * z), 12),
    "hard_tanh": (jax.nn.hard_tanh, 12),
    "abs": (jnp.abs, 6),
    "clip": (lambda z: jnp.clip(z, -0.3, 0.4), 12),
    "maximum": (lambda z: jnp.maximum(z, jnp.sin(z[::-1])), 6),
    "minimum": (lambda z: jnp.minimum(z, 0.1 * z), 6),
    "pooling": (lambda z: POOL(z.reshape(2, 3)), 8),
    "max": (lambda z: jnp.max(z), 5),
    "min along an axis": (lambda z: jnp.min(z.reshape(2, 3), axis=1), 4),
    "where": (lambda z: jnp.where(z > 0.2, z, 0.3 * z + 0.14), 6),
    "where in the other direction": (lambda z: jnp.where(0.2 >= z, z, 0.3 * z + 0.14), 6),
    "where broadcast": (lambda z: jnp.where((z > 0)[:, None], z[:, None], jnp.ones(2) * 0.2 * z[:, None]), 12),
    "two layers": (lambda z: jnp.abs(jnp.cumsum(jax.nn.relu(z)) - 1), 12),
    "jitted": (jax.jit(lambda z: jax.nn.relu(jax.nn.relu(z) - 0.5)), 12),
    "checkpointed": (jax.checkpoint(lambda z: jax.nn.relu(z) ** 2 - jax.nn.relu(-z)), 12),
    "a kink that is never reached": (jax.nn.logsumexp, 1),  # |Σ exp z|
    "beside a smooth one": (lambda z: jax.nn.softplus(jax.nn.relu(z)), 6),
}


@pytest.mark.parametrize(("activation", "gates"), KINKED.values(), ids=KINKED.keys())
def test_gates_of_the_signs_give_the_function_and_its_jacobian(activation, gates):
    function = of(activation)
    assert sum(count_gates(function, W, X[0])) == gates
    for x in X:
        value, switches = gated(function, by_sign, W, x)
        assert sum(h.size for h in switches) == gates
        np.testing.assert_allclose(value, function(W, x), rtol=1e-14, atol=1e-14)
    jacobian = jax.jacobian(lambda W: gated(function, by_sign, W, X[0])[0])(W)
    np.testing.assert_allclose(jacobian, jax.jacobian(function)(W, X[0]), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "abs", "clip", "maximum", "minimum", "where"])
def test_rounded_kinks_differ_by_what_softplus_differs_from_relu(name):
    """By at most log 2/β, times the change of slope, at one kink; clipping has two."""
    function = of(KINKED[name][0])
    for beta in (1e2, 1e4):
        error = np.abs(gated(function, rounded(beta), W, X[0])[0] - function(W, X[0]))
        assert np.all(error <= 2 * np.log(2) / beta * (1 + 1e-9))


def test_at_zero_a_rounded_kink_has_the_mean_of_both_slopes():
    slope = jax.grad(lambda w: gated(lambda w, x: jax.nn.relu(w * x), rounded(1e2), w, 2.0)[0])
    np.testing.assert_allclose(slope(0.0), 1, rtol=1e-15)


@pytest.mark.parametrize(
    ("activation", "on_one", "on_zero"),
    [
        (jax.nn.relu, lambda z: z, jnp.zeros_like),
        (jax.nn.leaky_relu, lambda z: z, lambda z: 0.01 * z),
        (jnp.abs, lambda z: z, lambda z: -z),
        (lambda z: jnp.maximum(z, z**2), lambda z: z, lambda z: z**2),
        (lambda z: jnp.where(z > 0, z, jnp.sin(z)), lambda z: z, jnp.sin),
        (lambda z: jnp.clip(z, -0.3, 0.4), lambda z: jnp.full(z.shape, 0.4), lambda z: z),
    ],
    ids=["relu", "leaky_relu", "abs", "maximum", "where", "clip"],
)
def test_frozen_gates_continue_the_piece_beyond_its_kinks(activation, on_one, on_zero):
    z = W @ X[0]
    assert jnp.any(z < 0) and jnp.any(z > 0.4)
    for side, piece in ((0.0, on_zero), (1.0, on_one)):
        np.testing.assert_allclose(gated(of(activation), always(side), W, X[0])[0], piece(z), rtol=1e-14)


@given(st.integers(0, 2**32 - 1))
def test_a_network_is_the_product_of_its_matrices_and_gates(seed):
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=shape) for shape in ((5, 4), (3, 5), (2, 3))]
    s = [jnp.asarray(rng.uniform(size=5)), jnp.asarray(rng.integers(0, 2, size=3) * 1.0)]  # on a slide, and on sides
    forward = lambda weights, x: weights[2] @ jax.nn.relu(weights[1] @ jax.nn.relu(weights[0] @ x))
    value, (first, second) = gated(forward, frozen(jnp.concatenate(s)), weights, X[0])
    np.testing.assert_allclose(first, weights[0] @ X[0], rtol=1e-13)
    np.testing.assert_allclose(second, weights[1] @ (s[0] * first), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(value, weights[2] @ (s[1] * second), rtol=1e-12, atol=1e-13)


def test_the_gates_are_asked_for_layer_by_layer_and_the_loss_comes_last():
    net = nf.nets.MLP([4, 5, 3, 2], key=jax.random.key(0), activation=["abs", "relu"])
    hinge = lambda net, x: jnp.sum(jnp.maximum(0, 1 - net(x)))
    assert count_gates(hinge, net, X[0]) == [5, 3, 2]


def by_hand(z):
    """log Σ exp z, which subtracts the maximum first."""
    largest = jax.lax.stop_gradient(jnp.max(z))
    return largest + jnp.log(jnp.sum(jnp.exp(z - largest)))


@pytest.mark.parametrize(
    "activation",
    [jax.nn.softplus, jax.nn.elu, jax.nn.gelu, jax.nn.log_softmax, jax.nn.silu, by_hand],
    ids=lambda activation: activation.__name__,
)
def test_smooth_functions_have_no_gates(activation):
    assert sum(count_gates(of(activation), W, X[0])) == 0
    value, _ = gated(of(activation), by_sign, W, X[0])
    np.testing.assert_allclose(value, activation(W @ X[0]), rtol=1e-14)


def test_what_depends_on_the_data_alone_is_evaluated_as_it_is():
    function = lambda W, x: jnp.where(x[0] > 0, 1.0, -1.0) * (W @ jax.nn.relu(x)) + jnp.floor(x[1])
    value, switches = gated(function, by_sign, W, X[0])
    assert not switches
    np.testing.assert_array_equal(value, function(W, X[0]))


def scanned(z):
    return jax.lax.scan(lambda total, each: (jax.nn.relu(total + each), each), jnp.zeros(()), z)[0]


REFUSED = [
    ("scan", of(scanned), "loops"),
    ("while", of(lambda z: jax.lax.while_loop(lambda z: z[0] < 1, lambda z: jax.nn.relu(z) + 1, z)), "loops"),
    ("cond", of(lambda z: jax.lax.cond(z[0] > 0, jax.nn.relu, jnp.abs, z)), "loops"),
    ("weights", lambda W, x: jnp.abs(W) @ x, "the weights alone"),
    ("sort", of(jnp.sort), "`sort`"),
    ("floor", of(jnp.floor), "`floor`"),
    ("sign", of(lambda z: z * jnp.sign(z)), "`sign`"),
    ("and", of(lambda z: jnp.where((z > 0) & (z < 1), z, 0.0)), "`and`"),
]


@pytest.mark.parametrize(("function", "words"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_kinks_that_no_gate_describes_are_named(function, words):
    with pytest.raises(CannotGate, match=f"^{words}"):
        count_gates(function, W, X[0])


def test_a_loop_without_kinks_is_no_obstacle():
    smooth = of(lambda z: jax.lax.scan(lambda total, each: (jnp.tanh(total + each), each), jnp.zeros(()), z)[0])
    assert count_gates(lambda W, x: jax.nn.relu(smooth(W, x)), W, X[0]) == [1]


def test_a_side_that_is_not_selected_may_be_infinite():
    function = of(lambda z: jnp.where(z > 0, jnp.log(jnp.where(z > 0, z, 1.0)), z))
    z = W @ X[0]
    value, _ = gated(function, by_sign, W, X[0])
    np.testing.assert_allclose(value, np.where(z > 0, np.log(np.where(z > 0, z, 1)), z), rtol=1e-14)
