"""Derivatives through training in steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nfa_flow as nf

QUIET = {"progress": False}
X = jax.random.normal(jax.random.key(0), (12, 3))
DATA = nf.Dataset(X, jnp.sin(X[:, :1]))
NET = nf.nets.MLP([3, 4, 1], key=jax.random.key(3), activation="tanh")


def losses(at, make, **options):
    """At steps 0, 7 and 30."""
    net = NET.with_weights([at["sigma"] * W for W in NET.weights])
    data = nf.Dataset(at["x"], DATA.y)
    options = {"time_per_step": 1.0, "save_at": [0, 7, 30], **QUIET, **options}
    return nf.gradient_descent(net, data, make(at["rate"]), 30, **options).observed["loss"]


def by_hand(at, make):
    """The same in a plain scan, which JAX differentiates by itself."""
    optimizer, data = make(at["rate"]), nf.Dataset(at["x"], DATA.y)
    weights = tuple(at["sigma"] * W for W in NET.weights)
    loss = lambda weights: nf.measure.loss(NET.with_weights(weights), data)

    def step(carry, _):
        weights, state = carry
        updates, state = optimizer.update(jax.grad(loss)(weights), state, weights)
        return (optax.apply_updates(weights, updates), state), loss(weights)

    return jax.lax.scan(step, (weights, optimizer.init(weights)), length=31)[1][jnp.array([0, 7, 30])]


@pytest.mark.parametrize("make", [optax.sgd, optax.adam], ids=["sgd", "adam"])
def test_both_directions_are_those_of_a_plain_scan(make):
    at = {"sigma": 1.2, "rate": 0.05, "x": X}
    run = jax.jit(lambda at: (jax.jacfwd(losses)(at, make), jax.jacrev(losses)(at, make)))
    exact = jax.jit(lambda at: jax.jacrev(by_hand)(at, make))(at)
    for found in run(at):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), found, exact)


def test_minibatches_and_a_batch_of_runs():
    """The value inside `jax.grad` is that of the call, and a lane's derivative that of the lane alone."""
    last = lambda rate: losses({"sigma": 1.0, "rate": rate, "x": X}, optax.sgd, batch_size=5, key=jax.random.key(1))[-1]
    rates = jnp.array([0.01, 0.1])
    values, slopes = jax.vmap(jax.value_and_grad(last))(rates)
    for rate, value, slope in zip(rates, values, slopes, strict=True):
        np.testing.assert_allclose(value, last(float(rate)), rtol=1e-12)
        np.testing.assert_allclose(slope, (last(rate + 1e-5) - last(rate - 1e-5)) / 2e-5, rtol=1e-6)


def test_a_run_that_diverged_has_no_derivative():
    diverges = lambda rate: losses({"sigma": 1.0, "rate": rate, "x": X}, optax.sgd, weight_decay=1.0, throw=False)[0]
    assert np.isfinite(jax.grad(diverges)(0.1))
    assert np.isnan(jax.grad(diverges)(1e30))
