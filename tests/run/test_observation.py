"""Observations fill buffers of fixed size, whatever shape an observable returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow.problem.objective import make_objective
from nfa_flow.run.observation import empty_record, make_observer

DATA = nf.data.linear_teacher(10, 3, 2, key=jax.random.key(0))
NET = nf.nets.MLP([3, 4, 2], key=jax.random.key(1))


def observed(observe, *, keep_parameters=False, net=NET):
    theta, objective = make_objective(net, DATA, "mse", 0.0)
    observer = make_observer(observe, DATA, net, keep_parameters=keep_parameters)
    return observer(objective, theta), empty_record(3, jnp.float64, observer, objective, theta)


def test_without_observables_the_loss_is_observed():
    ((loss,), parameters), _ = observed(None)
    assert parameters is None
    np.testing.assert_allclose(loss, nf.measure.loss(NET, DATA), rtol=1e-13)


def test_what_is_not_filled_is_zero_until_it_is_nan_or_cut_off_or_repeats_the_last():
    observe = {
        "scalar": lambda net, data: 1.0,
        "matrix": lambda net, data: net.weights[0],
        "count": lambda net, data: data.samples,
        "flag": lambda net, data: jnp.array(True),
        "tree": lambda net, data: (jnp.ones(2), {"inner": 3}),
    }
    values, record = observed(observe, keep_parameters=True)
    record = record.add(jnp.asarray(0.5), jnp.asarray(7), values)
    assert int(record.count) == 1
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(record))
    np.testing.assert_array_equal(record.cut().times, [0.5])
    np.testing.assert_array_equal(record.padded().times, [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(record.padded().values[1].weights[0], [NET.weights[0]] * 3)
    assert record.undefined_after(2).times.shape == (2,)
    record = record.undefined_after(3)
    np.testing.assert_array_equal(record.times, [0.5, np.nan, np.nan])
    np.testing.assert_array_equal(record.steps, [7, 0, 0])
    (scalar, matrix, count, flag, (vector, inner)), parameters = record.values
    np.testing.assert_array_equal(scalar, [1, np.nan, np.nan])
    np.testing.assert_array_equal(matrix[0], NET.weights[0])
    assert np.isnan(matrix[1:]).all()
    np.testing.assert_array_equal(count, [10, 0, 0])
    np.testing.assert_array_equal(flag, [True, False, False])
    np.testing.assert_array_equal(vector, [[1, 1], [np.nan, np.nan], [np.nan, np.nan]])
    np.testing.assert_array_equal(inner["inner"], [3, 0, 0])
    np.testing.assert_array_equal(parameters.weights[0][0], NET.weights[0])
    assert np.isnan(parameters.weights[0][1:]).all()


def test_observables_see_the_data_in_the_dtype_of_the_network():
    net = nf.nets.MLP([3, 4, 2], key=jax.random.key(1), dtype="float32")
    ((x,), _), _ = observed({"x": lambda net, data: data.x}, net=net)
    assert x.dtype == jnp.float32


@pytest.mark.parametrize("name", ["", ".", "a/b", "a\\b", "a\0", "\ud800", "x" * 201, "net"])
def test_what_no_store_can_hold_is_refused_before_the_run(name):
    with pytest.raises(ValueError, match="`observe` must be a mapping with printable names of 1 to 200 bytes"):
        observed({name: nf.measure.loss})
    if name != "net":
        with pytest.raises(ValueError, match=r'`observe\["tree"\]` must be a function whose result is a tree'):
            observed({"tree": lambda net, data: {name: 1.0}})


def test_keys_are_no_observations():
    with pytest.raises(ValueError, match=r'`observe\["key"\]` must be a function that returns numbers'):
        observed({"key": lambda net, data: jax.random.key(0)})


@pytest.mark.parametrize(
    ("observable", "message"),
    [
        (nf.measure.alignment, "must be a function .net, data. -> array, .* too many positional arguments"),
        (lambda net: 1.0, "must be a function .net, data. -> array, .* too many positional arguments"),
        (nf.measure.Sharpness, "must be a function .net, data. -> array, .* but was <class"),
        (lambda net, data: "high", "must be a function that returns numbers, but was one that returns 'high'"),
    ],
)
def test_what_is_no_observable_is_named(observable, message):
    with pytest.raises(ValueError, match=r'`observe\["it"\]` ' + message):
        observed({"it": observable})
