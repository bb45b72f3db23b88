"""What of a network is trained: every floating-point array that the loss has a gradient with respect to."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import relative

import nfa_flow as nf
from nfa_flow.problem.trained import trained_arrays

KEY = jax.random.key(0)
DATA = nf.data.linear_teacher(10, 3, 2, key=KEY)
SGD = optax.sgd(0.1)
QUIET = {"observe": {}, "progress": False}
stop = jax.lax.stop_gradient

WAYS = {
    "plainly": lambda f, p, x: f(p, x),
    "jit": lambda f, p, x: jax.jit(f)(p, x),
    "checkpoint": lambda f, p, x: jax.checkpoint(f)(p, x),
    "scan": lambda f, p, x: jax.lax.scan(lambda c, _: (f(p, c), None), x, None, length=2)[0],
    "cond": lambda f, p, x: jax.lax.cond(x[0] > 0, f, lambda p, x: p[0] * x, p, x),
    "vmap": lambda f, p, x: jax.vmap(lambda x: f(p, x))(jnp.stack([x, x])),
}


@pytest.mark.parametrize("way", WAYS)
def test_arrays_behind_a_stop_and_unused_arrays_have_no_gradient(way):
    f = lambda p, x: p[0] * stop(p[1]) * x + stop(p[0] * p[3])
    loss = lambda p: jnp.sum(WAYS[way](f, p, jnp.ones(3)))
    assert trained_arrays(loss, [jnp.ones(3)] * 4) == (True, False, False, False)


def test_a_gradient_that_happens_to_vanish_is_one():
    assert trained_arrays(lambda p: jnp.sum(0.0 * p[0] + jax.nn.relu(p[1])), [jnp.zeros(3), -jnp.ones(3)]) == (
        True,
        True,
    )


class Frozen(eqx.Module):
    """(W + V) x with a V that stays."""

    W: jax.Array
    V: jax.Array

    def __call__(self, x):
        return (self.W + stop(self.V)) @ x


FROZEN = Frozen(jnp.ones((2, 3)), jnp.full((2, 3), 2.0))


@pytest.mark.parametrize(
    "train",
    [
        lambda: nf.gradient_flow(FROZEN, DATA, 1.0, weight_decay=0.5, **QUIET),
        lambda: nf.gradient_descent(FROZEN, DATA, SGD, 1, weight_decay=0.5, **QUIET),
        lambda: nf.gradient_descent(FROZEN, DATA, optax.adamw(0.1, weight_decay=0.5), 1, time_per_step=0.1, **QUIET),
    ],
)
def test_weight_decay_leaves_a_frozen_array_alone(train):
    net = train().net
    np.testing.assert_array_equal(net.V, FROZEN.V)
    assert np.abs(net.W - FROZEN.W).min() > 0


def test_the_decay_of_the_other_arrays_is_that_of_the_objective():
    """A step from W is W − η(∇ℒ + λW)."""
    net = nf.gradient_descent(FROZEN, DATA, SGD, 1, weight_decay=0.5, **QUIET).net
    residual = DATA.x @ (FROZEN.W + FROZEN.V).T - DATA.y
    expected = FROZEN.W - 0.1 * (residual.T @ DATA.x / 10 + 0.5 * FROZEN.W)
    np.testing.assert_allclose(net.W, expected, rtol=1e-14)


class Tied(eqx.Module):
    """W tanh(W x), with one W in two layers."""

    shared: eqx.nn.Shared

    def __init__(self, key):
        layers = eqx.nn.Linear(3, 3, use_bias=False, key=key), eqx.nn.Linear(3, 3, use_bias=False, key=key)
        self.shared = eqx.nn.Shared(layers, lambda pair: pair[1].weight, lambda pair: pair[0].weight)

    def __call__(self, x):
        first, second = self.shared()
        return second(jnp.tanh(first(x)))


def test_tied_weights_move_by_the_sum_of_their_gradients():
    data = nf.data.linear_teacher(10, 3, 3, key=KEY)
    tied = Tied(jax.random.key(1))
    W = tied.shared()[0].weight
    free = nf.nets.MLP([3, 3, 3], key=KEY, activation="tanh").with_weights([W, W])
    after = nf.gradient_descent(tied, data, SGD, 1, **QUIET).net.shared()
    both = nf.gradient_descent(free, data, SGD, 1, **QUIET).net.weights
    np.testing.assert_array_equal(after[0].weight, after[1].weight)
    assert relative(after[0].weight - W - sum(new - W for new in both), W) < 1e-15


def normalized():
    return eqx.nn.make_with_state(
        lambda: eqx.nn.Sequential([eqx.nn.Linear(3, 2, key=KEY), eqx.nn.BatchNorm(2, "batch", mode="ema")])
    )()


class WithState(eqx.Module):
    net: eqx.Module
    state: eqx.nn.State
    stop: bool

    def __call__(self, x):
        return eqx.nn.inference_mode(self.net)(x, stop(self.state) if self.stop else self.state)[0]


def test_running_statistics_stay_where_the_sentence_says_how():
    net, state = normalized()
    with pytest.raises(ValueError, match=r"`net` must be a map from one sample of shape \(3,\).*`nf.nets.WithState"):
        nf.gradient_flow(net, DATA, 1.0, **QUIET)
    for stops in (True, False):
        run = nf.gradient_descent(WithState(net, state, stops), DATA, SGD, 1, weight_decay=0.1, **QUIET)
        assert jax.tree.all(jax.tree.map(np.array_equal, run.net.state, state))
        assert not np.array_equal(run.net.net.layers[0].weight, net.layers[0].weight)
        assert run.stats["frozen"] == "state"


def test_dropout_is_refused_by_the_sentence_that_switches_it_off():
    linear = eqx.nn.Linear(3, 2, key=KEY)
    net = eqx.nn.Sequential([linear, eqx.nn.Dropout(0.5)])
    with pytest.raises(ValueError, match=r"`net` must be .* by `eqx.nn.inference_mode\(net\)`"):
        nf.gradient_descent(net, DATA, SGD, 1, **QUIET)
    after = nf.gradient_descent(eqx.nn.inference_mode(net), DATA, SGD, 1, **QUIET).net.layers[0].weight
    np.testing.assert_array_equal(after, nf.gradient_descent(linear, DATA, SGD, 1, **QUIET).net.weight)


def test_a_network_that_does_not_take_the_samples_is_named():
    with pytest.raises(ValueError, match=r"`net` must be a map from one sample of shape \(3,\) to a prediction"):
        nf.gradient_flow(eqx.nn.Linear(4, 2, key=KEY), DATA, 1.0, **QUIET)
