"""A training run inside `jax.jit` and `jax.vmap`, and what compiles when."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nfa_flow as nf

OPTIMIZER = optax.adam(0.01)


@pytest.fixture(scope="module")
def data():
    return nf.data.multi_index(20, 4, 2, key=jax.random.key(0))


def train(key, data, optimizer=OPTIMIZER, **options):
    net_key, batch_key = jax.random.split(key)
    net = nf.nets.MLP([4, 5, 1], key=net_key, activation="tanh")
    options = {"batch_size": 6, "key": batch_key, "time_per_step": 0.01, "progress": False} | options
    return nf.gradient_descent(net, data, optimizer, 25, **options)


def test_lanes_are_the_single_runs(data):
    keys = jax.random.split(jax.random.key(3), 3)
    lanes = jax.jit(jax.vmap(lambda key: train(key, data)))(keys)
    for i, key in enumerate(keys):
        single = train(key, data)
        lane = jax.tree.map(lambda a, i=i: a[i], lanes).reached()
        assert lane.status == single.status
        np.testing.assert_array_equal(lane.steps, single.steps)
        np.testing.assert_allclose(lane.times, single.times, rtol=1e-15)
        np.testing.assert_allclose(lane.observed["loss"], single.observed["loss"], rtol=1e-12)
        for batched, alone in zip(lane.net.weights, single.net.weights, strict=True):
            np.testing.assert_allclose(batched, alone, rtol=1e-11, atol=1e-14)


def test_a_lane_that_diverges_leaves_the_others_alone(data):
    """Under `vmap` nothing is raised: the lane says so itself, and what it did not reach is NaN."""
    rates = jnp.array([0.1, 1e6])
    net = nf.nets.MLP([4, 5, 5, 1], key=jax.random.key(1))
    run = lambda rate: nf.gradient_descent(net, data, optax.sgd(rate), 25, time_per_step=rate, save_at=[0, 5, 25])
    lanes = jax.vmap(run)(rates)
    statuses = [nf.run.status.STATUS[int(code)] for code in lanes.status_code]
    assert statuses == ["completed", "diverged"]
    np.testing.assert_allclose(lanes.times[0], [0.0, 0.5, 2.5])
    assert lanes.counts["steps"][0] == 25 and lanes.counts["steps"][1] < 25
    assert np.isnan(lanes.times[1, -1]) and np.isnan(lanes.observed["loss"][1, -1])
    assert all(np.isfinite(W).all() for W in lanes.net.weights)
    np.testing.assert_allclose(lanes.observed["loss"][0], run(0.1).observed["loss"], rtol=1e-13)
    assert repr(lanes) == "Trajectory((2, 3) times of loss)"


def test_a_second_run_compiles_nothing(data, compilations):
    options = {"weight_decay": 0.1, "observe": {"loss": nf.measure.loss}}
    train(jax.random.key(0), data, **options)
    assert compilations() > 0
    train(jax.random.key(1), data, **options | {"weight_decay": 0.2})
    assert compilations() == 0
    train(jax.random.key(1), data, optimizer=optax.adam(0.01), **options)
    assert compilations() > 0
