import equinox as eqx
import jax
import numpy as np
import pytest

from nfa_flow import Dataset
from nfa_flow.measure import nfm
from nfa_flow.nets import MLP

KEY = jax.random.key(0)
NET = MLP((3, 5, 4, 2), key=KEY, activation="tanh", bias=True)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_nfm_is_the_gram_of_the_weights_of_its_layer(layer):
    W = np.asarray(NET.layers[layer - 1].weight)
    np.testing.assert_allclose(nfm(NET, layer=layer), W.T @ W, rtol=1e-14, atol=1e-15)


def test_nfm_is_an_observable_of_the_first_layer_that_needs_no_data():
    np.testing.assert_array_equal(nfm(NET, Dataset(np.ones((2, 3)), np.ones(2))), nfm(NET, layer=1))


def test_nfm_of_an_equinox_mlp_counts_its_linear_layers():
    theirs = eqx.nn.MLP(3, 2, 5, 2, key=KEY)
    for layer, linear in enumerate(theirs.layers, start=1):
        np.testing.assert_allclose(nfm(theirs, layer=layer), linear.weight.T @ linear.weight, rtol=1e-14)


def test_layers_that_are_not_linear_are_not_counted():
    theirs = eqx.nn.Sequential([NET.layers[0], eqx.nn.Lambda(jax.nn.relu), NET.layers[1]])
    np.testing.assert_array_equal(nfm(theirs, layer=2), nfm(NET, layer=2))


@pytest.mark.parametrize(
    ("net", "layer", "message"),
    [
        (NET, 0, "`layer` must be a whole number of at least 1, but was 0"),
        (NET, -1, "`layer` must be a whole number of at least 1, but was -1"),
        (NET, 4, "`layer` must be at most the number of layers, 3, but was 4"),
        (eqx.nn.Lambda(jax.nn.relu), 1, "`net` must be a network with an .* but was Lambda"),
        (
            eqx.nn.Sequential([eqx.nn.Lambda(jax.nn.relu)]),
            1,
            "`net` must be a network with an `equinox.nn.Linear` or `Conv`, but was Sequential",
        ),
    ],
)
def test_a_wrong_argument_is_named(net, layer, message):
    with pytest.raises(ValueError, match=message):
        nfm(net, layer=layer)
