import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import with_random_biases

from nfa_flow.nets import MLP, Balanced, Gaussian

KEY = jax.random.key(0)
WIDTHS = (3, 5, 4, 2)
X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))


def net(widths=WIDTHS, **options):
    return MLP(widths, key=KEY, **options)


def biased(widths=WIDTHS, **options):
    return with_random_biases(net(widths, bias=True, **options))


def matrices(network):
    return [np.asarray(layer.weight) for layer in network.layers], [np.asarray(layer.bias) for layer in network.layers]


def test_forward_is_the_product_of_the_weights():
    network = net()
    W_1, W_2, W_3 = network.weights
    np.testing.assert_allclose(jax.vmap(network)(X), X @ W_1.T @ W_2.T @ W_3.T, rtol=1e-13, atol=1e-14)


def test_forward_with_biases_and_one_activation_per_hidden_layer():
    network = biased(activation=["tanh", "relu"])
    (W_1, W_2, W_3), (b_1, b_2, b_3) = matrices(network)
    formula = [W_3 @ np.maximum(W_2 @ np.tanh(W_1 @ x + b_1) + b_2, 0) + b_3 for x in X]
    np.testing.assert_allclose(jax.vmap(network)(X), formula, rtol=1e-13, atol=1e-14)


def test_activations_may_be_functions_of_the_user():
    network = net(activation=[jnp.sin, "quadratic"])
    W_1, W_2, W_3 = network.weights
    np.testing.assert_allclose(jax.vmap(network)(X), (np.sin(X @ W_1.T) @ W_2.T) ** 2 @ W_3.T, rtol=1e-13, atol=1e-14)
    one_for_all = net(activation=jnp.sin)
    np.testing.assert_array_equal(jax.vmap(one_for_all)(X), jax.vmap(net(activation=[jnp.sin, jnp.sin]))(X))


def test_every_layer_splits_the_network_at_its_preactivation():
    network = biased(activation="tanh")
    for layer, linear in enumerate(network.layers, start=1):
        inputs = jax.vmap(functools.partial(network.to_layer, layer))(X)
        split = jax.vmap(functools.partial(network.from_preactivation, layer))(jax.vmap(linear)(inputs))
        np.testing.assert_array_equal(split, jax.vmap(network)(X))


def test_the_first_layer_sees_the_sample_and_the_last_preactivation_is_the_prediction():
    network = biased(activation="tanh")
    np.testing.assert_array_equal(network.to_layer(1, X[0]), X[0])
    np.testing.assert_array_equal(network.from_preactivation(3, jnp.ones(2)), np.ones(2))


@pytest.mark.parametrize("widths", [(5, 4, 2), (2, 4, 5), (3, 2, 3)], ids=["c<d", "c>d", "bottleneck"])
@pytest.mark.parametrize("make", [net, biased])
def test_affine_is_the_linear_network(widths, make):
    network = make(widths)
    x = jax.random.normal(KEY, (4, widths[0]))
    A, c = network.affine()
    assert A.shape == (widths[-1], widths[0])
    assert (c is None) == (make is net)
    np.testing.assert_allclose(jax.vmap(network)(x), x @ A.T + (0 if c is None else c), rtol=1e-13, atol=1e-14)


def test_without_a_hidden_layer_the_network_is_one_affine_map():
    network = biased((3, 2))
    (W,), (b,) = matrices(network)
    assert network.is_linear and not network.has_kinks and network.depth == 1
    np.testing.assert_allclose(jax.vmap(network)(X), X @ W.T + b, rtol=1e-13, atol=1e-14)
    np.testing.assert_array_equal(network.affine()[0], W)
    assert repr(network) == "MLP(3-2, no hidden layer, bias, float64)"


def test_affine_of_a_nonlinear_network_is_refused():
    with pytest.raises(ValueError, match="`affine` needs a linear network"):
        net(activation=["identity", "tanh"]).affine()


@pytest.mark.parametrize(
    ("activation", "is_linear", "has_kinks"),
    [
        ("identity", True, False),
        (jax.nn.identity, True, False),
        ("tanh", False, False),
        ("relu", False, True),
        (jax.nn.relu, False, True),
        (["identity", "leaky_relu"], False, True),
        (["identity", "silu"], False, False),
    ],
)
def test_linearity_and_kinks_are_those_of_the_activations(activation, is_linear, has_kinks):
    network = net(activation=activation)
    assert network.is_linear == is_linear
    assert network.has_kinks == has_kinks


def test_biases_start_at_zero_and_are_absent_unless_asked_for():
    assert all(not layer.bias.any() for layer in net(bias=True).layers)
    assert all(layer.bias is None for layer in net().layers)


def test_widths_and_depth_are_those_of_the_weights():
    network = net()
    assert network.widths == WIDTHS
    assert network.depth == 3
    assert [W.shape for W in network.weights] == [(5, 3), (4, 5), (2, 4)]


def test_the_key_decides_the_weights():
    for W, same, other in zip(net().weights, net().weights, MLP(WIDTHS, key=jax.random.key(1)).weights, strict=True):
        np.testing.assert_array_equal(W, same)
        assert np.all(W != other)


@pytest.mark.parametrize("init", [Gaussian(), Balanced()])
def test_single_precision_is_single_throughout(init):
    network = net(init=init, bias=True, dtype=jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(network)} == {jnp.dtype("float32")}
    assert network(jnp.ones(3, jnp.float32)).dtype == jnp.float32


def test_the_default_precision_is_that_of_jax():
    assert net().weights[0].dtype == jnp.zeros(()).dtype


def test_with_weights_replaces_them_and_nothing_else():
    network = biased(activation="tanh")
    other = network.with_weights([2 * np.asarray(W, np.float32) for W in network.weights])
    for old, new in zip(network.layers, other.layers, strict=True):
        np.testing.assert_array_equal(new.weight, 2 * np.asarray(old.weight, np.float32))
        assert new.weight.dtype == old.weight.dtype
        np.testing.assert_array_equal(new.bias, old.bias)
    assert other.activations == network.activations


def test_many_networks_are_one_network_with_leading_axes():
    keys = jax.random.split(KEY, 3)
    lanes = eqx.filter_vmap(lambda key: MLP(WIDTHS, key=key, activation="tanh"))(keys)
    assert lanes.widths == WIDTHS
    predictions = eqx.filter_vmap(lambda network: network(X[0]))(lanes)
    np.testing.assert_allclose(predictions[1], MLP(WIDTHS, key=keys[1], activation="tanh")(X[0]), rtol=1e-13)


def test_the_parameters_are_the_only_leaves_so_that_it_can_be_an_argument_of_jit():
    network = biased(activation=[jnp.sin, "relu"])
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(network))
    np.testing.assert_allclose(jax.jit(lambda net, x: net(x))(network, X[0]), network(X[0]), rtol=1e-13)


def test_repr_tells_the_architecture_on_one_line():
    assert repr(net()) == "MLP(3-5-4-2, identity, float64)"
    assert repr(net(activation=[jnp.sin, "relu"], bias=True)) == "MLP(3-5-4-2, sin, relu, bias, float64)"


def test_repr_of_a_network_without_arrays_falls_back_to_its_fields():
    assert "weight=None" in repr(eqx.filter(net(), eqx.is_inexact_array, inverse=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(widths=(3,)), r"`widths` must be a sequence \(inputs, .*, outputs\), but was \[3\]"),
        (dict(widths=()), r"`widths` must be a sequence .* but was \[\]"),
        (dict(widths=(3, 0, 2)), "`widths` must be a whole number of at least 1, but was 0"),
        (dict(widths=(3, -4, 2)), "`widths` must be a whole number of at least 1, but was -4"),
        (dict(widths=(3, True, 2)), "`widths` must be a whole number of at least 1, but was True"),
        (dict(activation="swish"), "`activation` must be one of .* but was 'swish'"),
        (dict(activation=["tanh", "swish"]), "`activation` must be one of .* but was 'swish'"),
        (dict(activation=["tanh"]), r"`activation` must be .* each of the 2 hidden layers, but was \['tanh'\]"),
        (dict(activation=3), "`activation` must be one name or function, .* but was 3"),
        (dict(activation=["tanh"] * 3), "`activation` must be .* each of the 2 hidden layers"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message, no_type_checks):
    with pytest.raises(ValueError, match=message):
        MLP(**({"widths": WIDTHS, "key": KEY} | arguments))


def test_weights_of_other_shapes_are_refused():
    network = net()
    with pytest.raises(ValueError, match=r"`weights` must be matrices of shapes .*\(5, 3\).* but was .*\(3, 5\)"):
        network.with_weights([W.T for W in network.weights])
    with pytest.raises(ValueError, match="`weights` must be matrices of shapes"):
        network.with_weights(network.weights[:2])


@pytest.mark.parametrize("layer", [-1, 0, 4])
def test_a_layer_that_does_not_exist_is_refused(layer):
    with pytest.raises(ValueError, match="`layer` must be"):
        net().to_layer(layer, jnp.ones(3))
    with pytest.raises(ValueError, match="`layer` must be"):
        net().from_preactivation(layer, jnp.ones(3))
