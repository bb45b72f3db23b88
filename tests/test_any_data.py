"""Images, tokens, class labels and samples of several arrays give what the same data as vectors gives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nfa_flow as nf

KEYS = jax.random.split(jax.random.key(0), 3)
P = 5
PAIRS = nf.data.modular(P)


class Convolutional(eqx.Module):
    """Images 1 × 8 × 8 → 10 classes."""

    conv: eqx.nn.Conv2d
    linear: eqx.nn.Linear

    def __init__(self):
        self.conv = eqx.nn.Conv2d(1, 2, 3, stride=2, key=KEYS[0])
        self.linear = eqx.nn.Linear(18, 10, key=KEYS[1])

    def __call__(self, x):
        return self.linear(jnp.tanh(self.conv(x)).ravel())


class Embedded(eqx.Module):
    """Two tokens → P classes, through one table of vectors."""

    table: jax.Array
    linear: eqx.nn.Linear

    def __init__(self):
        self.table = jax.random.normal(KEYS[0], (P, 4))
        self.linear = eqx.nn.Linear(4, P, key=KEYS[1])

    def __call__(self, tokens):
        return self.linear(jnp.tanh(self.table[tokens].sum(0)))


class OfOneHot(Embedded):
    """The same function of two one-hot vectors in one."""

    def __call__(self, x):
        return self.linear(jnp.tanh((x.reshape(2, P) @ self.table).sum(0)))


class OfColumns(Embedded):
    """The same function of tokens by name."""

    def __call__(self, x):
        return super().__call__(jnp.concatenate([x["a"], x["b"]]))


ONE_HOT = nf.Dataset(np.eye(P)[np.asarray(PAIRS.x)].reshape(P * P, -1), PAIRS.one_hot().y)
COLUMNS = nf.Dataset({"a": PAIRS.x[:, :1], "b": PAIRS.x[:, 1:]}, PAIRS.y)
FORMS = {"tokens": (Embedded(), PAIRS), "several arrays": (OfColumns(), COLUMNS)}
OPTIONS = {"loss": "cross_entropy", "weight_decay": 0.01, "progress": False}


def close(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.allclose(a, b, rtol=1e-9, atol=1e-11) for a, b in pairs)


@pytest.mark.parametrize("form", FORMS)
def test_tokens_with_labels_are_one_hot_vectors_with_one_hot_targets(form):
    net, data = FORMS[form]
    flow = nf.gradient_flow(net, data, 0.5, observe={"loss": nf.measure.loss}, **OPTIONS)
    same = nf.gradient_flow(OfOneHot(), ONE_HOT, 0.5, observe={"loss": nf.measure.loss}, **OPTIONS)
    assert close(flow.net, same.net) and close(flow.observed["loss"], same.observed["loss"])
    for measure in (nf.measure.ntk, lambda net, data: nf.measure.agop(net, data, layer=lambda net: net.linear)):
        assert close(measure(net, data), measure(OfOneHot(), ONE_HOT))
    descent = nf.gradient_descent(net, data, optax.sgd(0.1), 5, **OPTIONS)
    assert close(descent.net, nf.gradient_descent(OfOneHot(), ONE_HOT, optax.sgd(0.1), 5, **OPTIONS).net)
    minibatches = {"batch_size": 4, "key": jax.random.key(1)} | OPTIONS
    descent = nf.gradient_descent(net, data, optax.sgd(0.1), 5, **minibatches)
    assert close(descent.net, nf.gradient_descent(OfOneHot(), ONE_HOT, optax.sgd(0.1), 5, **minibatches).net)
    with pytest.raises(ValueError, match="`data` must be an array of floating-point numbers, to be differentiated"):
        nf.measure.agop(net, data)


def test_images_with_labels_go_through_a_convolutional_network():
    data = nf.data.digits(images=True)[:20]
    one_hot = data.one_hot(10)
    runs = [nf.gradient_flow(Convolutional(), each, 0.1, **OPTIONS) for each in (data, one_hot)]
    assert close(runs[0].net, runs[1].net)
    flat = nf.data.digits()[:20]
    np.testing.assert_allclose(data.x.reshape(20, 64), flat.x, rtol=1e-13)
    np.testing.assert_array_equal(one_hot.y, flat.y)
    whole, patch = (nf.measure.agop(runs[0].net, data, layer=layer) for layer in (None, lambda net: net.conv))
    reshaped = nf.measure.agop(lambda x: runs[0].net(x.reshape(1, 8, 8)), flat)
    np.testing.assert_allclose(whole, reshaped, rtol=1e-12, atol=1e-14)
    assert patch.shape == (9, 9)
    layer = lambda net: net.linear
    of_labels, of_targets = (
        nf.measure.fact(runs[0].net, d, layer=layer, loss="cross_entropy", weight_decay=0.01) for d in (data, one_hot)
    )
    np.testing.assert_allclose(of_labels, of_targets, rtol=1e-12, atol=1e-14)


def test_integers_enter_a_network_of_layers_as_numbers():
    net = nf.nets.MLP([2, 3, 1], key=KEYS[2], activation="tanh")
    integers, y = np.arange(12).reshape(6, 2), np.ones(6)
    runs = [nf.gradient_flow(net, nf.Dataset(x, y), 0.1, progress=False) for x in (integers, integers.astype(float))]
    assert close(runs[0].net, runs[1].net)
    both = [nf.measure.agop(net, nf.Dataset(x, y)) for x in (integers, integers.astype(float))]
    np.testing.assert_allclose(*both, rtol=1e-13)
    both = [nf.data.standardize(nf.Dataset(x, y)).x for x in (integers, integers.astype(float))]
    np.testing.assert_array_equal(*both)
