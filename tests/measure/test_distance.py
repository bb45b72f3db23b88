"""The distance of two runs, from their networks and from random projections of these."""

import jax
import numpy as np
import optax
import pytest
from oracles import linear_net, parameters, whitened_problem

import nfa_flow as nf

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def runs():
    """One weight w with w' = 1 − w, and its descent w ← w + r(1 − w)."""
    net, data = linear_net([np.zeros((1, 1))]), whitened_problem(np.eye(1), np.eye(1))
    descent = nf.gradient_descent(net, data, optax.sgd(0.1), 30, save_at=range(31), save_nets=True, **QUIET)
    options = {"save_nets": True, "save_at": np.append(descent.times, 10.0), "rtol": 1e-8} | QUIET
    return nf.gradient_flow(net, data, 10.0, **options), descent


def test_the_distance_of_flow_and_descent_is_that_of_the_closed_forms(runs):
    flow, descent = runs
    steps = np.arange(31)
    found = nf.measure.distance(flow, descent)
    np.testing.assert_allclose(found[:-1], np.abs(np.exp(-0.1 * steps) - 0.9**steps), atol=1e-7)
    assert len(found) == 32 and np.isnan(found[-1])  # which the descent does not have
    np.testing.assert_array_equal(nf.measure.distance(descent, flow), found[:-1])


def test_both_must_have_kept_their_networks_which_must_have_the_same_arrays(runs, no_type_checks):
    flow, _ = runs
    net, data = nf.nets.MLP([1, 2, 1], key=jax.random.key(0)), whitened_problem(np.eye(1), np.eye(1))
    larger = nf.gradient_descent(net, data, optax.sgd(0.1), 2, save_nets=True, **QUIET)
    with pytest.raises(ValueError, match=r"`other` must be of networks of arrays \[\(1, 1\)\]"):
        nf.measure.distance(flow, larger)
    with pytest.raises(ValueError, match="`other` must be a run with `save_nets=True`"):
        nf.measure.distance(flow, nf.gradient_descent(net, data, optax.sgd(0.1), 2, **QUIET))
    with pytest.raises(ValueError, match="`run` must be a `Trajectory`"):
        nf.measure.distance(net, flow)


def test_random_projections_are_linear_and_keep_the_norm():
    nets = [nf.nets.MLP([3, 5, 2], key=jax.random.key(seed), bias=True) for seed in (0, 1)]
    count = 4000
    projection = nf.measure.RandomProjection(count, key=jax.random.key(2))
    difference = jax.tree.map(lambda a, b: a - b, *nets)
    projected = projection(nets[0]) - projection(nets[1])
    np.testing.assert_allclose(projected, projection(difference), atol=1e-12)
    square = np.sum(parameters(difference) ** 2)
    assert abs(np.sum(projected**2) / square - 1) < 4 * np.sqrt(2 / count)


def test_random_projections_are_observables_of_runs_and_sweeps():
    data, projection = (
        nf.data.linear_teacher(10, 3, 2, key=jax.random.key(0)),
        nf.measure.RandomProjection(2, key=jax.random.key(1)),
    )

    def one_run(key, weight_decay):
        net = nf.nets.MLP([3, 2], key=key)
        options = {"observe": {"projection": projection}, "save_at": [0.0, 1.0]} | QUIET
        return nf.gradient_flow(net, data, 1.0, weight_decay=weight_decay, **options)

    run = one_run(jax.random.key(0), 0.1)
    np.testing.assert_allclose(run.observed["projection"][-1], projection(run.net), rtol=1e-12)
    swept = nf.sweep(one_run, nf.Grid(weight_decay=[0.1, 0.2], seed=[0]), progress=False)
    np.testing.assert_allclose(swept["projection"][0, 0].values, run.observed["projection"], rtol=1e-10)


@pytest.mark.parametrize("count", [0, 1.5])
def test_there_must_be_a_direction(count, no_type_checks):
    with pytest.raises(ValueError, match="`count` must be a whole number of at least 1"):
        nf.measure.RandomProjection(count, key=jax.random.key(0))
