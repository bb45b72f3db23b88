"""Kinks are found in any module and any loss, and under any trace."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nfa_flow as nf
from nfa_flow.flow.kinks.find import find_kinks

DATA = nf.data.linear_teacher(50, 5, 2, key=jax.random.key(0))
KEY = jax.random.key(1)


def of_activation(activation):
    return find_kinks(nf.nets.MLP([5, 16, 2], key=KEY, activation=activation), DATA)


@pytest.mark.parametrize(
    "activation", [jnp.tanh, jax.nn.gelu, jax.nn.softplus, jax.nn.elu, jax.nn.mish, jnp.square, lambda x: x]
)
def test_smooth_functions_have_none(activation):
    assert of_activation(activation) is None


@pytest.mark.parametrize(
    "activation",
    [jax.nn.relu6, jax.nn.hard_tanh, jnp.abs, lambda x: jnp.maximum(x, 0.1 * x), lambda x: jnp.clip(x, -10, 10)],
)
def test_kinks_of_functions_without_a_name_are_found(activation):
    assert of_activation(activation) == "network"


class OnImages(eqx.Module):
    """A convolution, a nonlinearity, pooling and a linear layer, on flattened images."""

    convolution: eqx.nn.Conv2d
    pool: eqx.nn.Pool
    head: eqx.nn.Linear

    def __call__(self, x):
        return self.head(jnp.ravel(self.pool(jnp.tanh(self.convolution(x.reshape(1, 6, 6))))))


class OfWeights(eqx.Module):
    """x → f(W) x."""

    W: jax.Array
    function: Callable = eqx.field(static=True)

    def __call__(self, x):
        return self.function(self.W) @ x


@pytest.mark.parametrize(("pool", "where"), [(eqx.nn.MaxPool2d(2), "network"), (eqx.nn.AvgPool2d(2), None)])
def test_kinks_of_max_pooling_are_found(pool, where):
    net = OnImages(eqx.nn.Conv2d(1, 2, 3, key=KEY), pool, eqx.nn.Linear(18, 2, key=KEY))
    images = nf.Dataset(np.ones((3, 36)), np.ones((3, 2)))
    assert find_kinks(net, images) == where


@pytest.mark.parametrize(("function", "where"), [(jnp.abs, "network"), (lambda W: W / jnp.linalg.norm(W), None)])
def test_kinks_in_the_weights_alone_are_found(function, where):
    assert find_kinks(OfWeights(jnp.ones((2, 5)), function), DATA) == where


@pytest.mark.parametrize(("activation", "where"), [(jax.nn.relu, "network"), (jnp.tanh, None)])
def test_sequences_of_layers_are_one_network(activation, where):
    layers = [
        eqx.nn.Linear(5, 8, key=KEY),
        eqx.nn.LayerNorm(8),
        eqx.nn.Lambda(activation),
        eqx.nn.Linear(8, 2, key=KEY),
    ]
    assert find_kinks(eqx.nn.Sequential(layers), DATA) == where


@pytest.mark.parametrize(
    ("loss", "where"),
    [
        (lambda p, y: jnp.sum(jnp.abs(p - y)), "loss"),
        (lambda p, y: jnp.sum(jnp.maximum(0, 1 - p * y)), "loss"),
        (lambda p, y: jnp.linalg.norm(p - y), "loss"),
        (lambda p, y: jnp.sum((p - y) ** 4), None),
        (lambda p, y: jnp.sum(optax.huber_loss(p, y)), None),
        (optax.softmax_cross_entropy, None),
    ],
)
def test_kinks_of_a_loss_are_found_and_are_those_of_the_loss(loss, where):
    net = nf.nets.MLP([5, 16, 2], key=KEY, activation="tanh")
    assert find_kinks(net, DATA, loss) == where


def test_looking_again_compiles_nothing(compilations):
    find = lambda: find_kinks(eqx.nn.MLP(5, 2, 33, 2, key=KEY), DATA, lambda p, y: jnp.sum(jnp.abs(p - y)))
    find()
    assert compilations() > 0
    find()
    assert compilations() == 0


@pytest.mark.parametrize(("activation", "where"), [(jax.nn.relu, "network"), (jax.nn.elu, None)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_kinks_of_wide_networks_are_found_though_many_lie_close_together(activation, where, dtype):
    net = eqx.nn.MLP(5, 2, 256, 3, activation=activation, key=KEY, dtype=dtype)
    assert find_kinks(net, DATA.astype(dtype)) == where


def test_the_verdict_is_the_same_inside_any_trace_with_anything_closed_over():
    verdicts = []

    def look(key, factor):
        """The factor is traced, and closed over by an activation and two losses."""
        relu = eqx.nn.MLP(5, 2, 8, 1, key=key)
        kinked = eqx.nn.MLP(5, 2, 8, 1, activation=lambda x: jnp.maximum(factor * x, x), key=key)
        smooth = eqx.nn.MLP(5, 2, 8, 1, activation=lambda x: jax.nn.softplus(factor * x), key=key)
        verdicts[:] = [
            find_kinks(relu, DATA),
            find_kinks(kinked, DATA),
            find_kinks(smooth, DATA, lambda p, y: factor * jnp.sum(jnp.abs(p - y))),
            find_kinks(smooth, DATA, lambda p, y: factor * jnp.sum((p - y) ** 2)),
        ]
        return factor

    keys, factors = jax.random.split(KEY, 2), jnp.arange(2.0, 4.0)
    for transformed, arguments in [
        (look, (KEY, 2.0)),
        (jax.jit(look), (KEY, 2.0)),
        (jax.grad(look, argnums=1), (KEY, 2.0)),
        (jax.vmap(look), (keys, factors)),
        (jax.jit(jax.vmap(look)), (keys, factors)),
    ]:
        verdicts.clear()
        transformed(*arguments)
        assert verdicts == ["network", "network", "loss", None]


def test_the_verdict_does_not_depend_on_switches_of_jax():
    net = eqx.nn.MLP(5, 2, 8, 1, key=KEY)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"), jax.debug_nans(True):
        assert find_kinks(net, DATA) == "network"
