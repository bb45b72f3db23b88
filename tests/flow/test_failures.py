"""Bad arguments are named; a flow that fails gives back what it had."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfa_flow as nf


@pytest.fixture(scope="module")
def net():
    return nf.nets.MLP([3, 4, 2], key=jax.random.key(1))


@pytest.fixture(scope="module")
def data():
    return nf.data.linear_teacher(20, 3, 2, key=jax.random.key(0))


def runaway(prediction, target):
    return -jnp.sum(prediction**4)


BAD = [
    ({"t1": 0.0}, "`t1` must be after `t0` = 0, but was 0"),
    ({"t1": -1.0}, "`t1` must be after"),
    ({"t1": float("nan")}, "`t1` must be a finite number"),
    ({"t0": float("inf")}, "`t0` must be a finite number"),
    ({"weight_decay": -0.1}, "`weight_decay` must be a non-negative number, but was -0.1"),
    ({"weight_decay": float("nan")}, "`weight_decay` must be a non-negative number, but was nan"),
    ({"rtol": 0.0}, "`rtol` must be a positive number"),
    ({"atol": -1e-9}, "`atol` must be a positive number"),
    ({"max_steps": 0}, "`max_steps` must be a whole number of at least 1"),
    ({"max_steps": 2**31}, "`max_steps` must be a whole number below"),
    ({"save_at": [2.0, 1.0]}, "`save_at` must be strictly increasing, but was 2 followed by 1"),
    ({"save_at": [1.0, 1.0]}, "`save_at` must be strictly increasing"),
    ({"save_at": "log"}, "`save_at` must be a non-empty sequence of times, but was 'log'"),
    ({"data": (1, 2)}, "`data` must be a `Dataset`, but was a tuple"),
    ({"save_at": []}, "`save_at` must be a non-empty sequence"),
    ({"save_at": [-1.0, 1.0]}, r"`save_at` must be within \[t0, t1\] = \[0, 3\]"),
    ({"save_at": [1.0, 4.0]}, "`save_at` must be within"),
    ({"save_at": [1.0, float("nan")]}, "`save_at` must be strictly increasing"),
    ({"loss": "hinge"}, '`loss` must be one of "mse", "cross_entropy"'),
    ({"loss": lambda p, t: p - t}, "`loss` must be a function with one scalar per sample"),
    ({"observe": {"loss": 3.0}}, "`observe.*` must be a function"),
    ({"observe": [nf.measure.loss]}, "`observe` must be a mapping"),
    ({"solver": "tsit5"}, "`solver` must be a diffrax solver such as"),
    ({"solver": diffrax.Tsit5}, "`solver` must be a diffrax solver such as"),
    ({"solver": diffrax.LeapfrogMidpoint()}, "`solver` must be a one-step solver of a single ODE term"),
    ({"solver": diffrax.SemiImplicitEuler()}, "`solver` must be a one-step solver of a single ODE term"),
    ({"loss": "cross_entropy"}, "`data` must be of one-hot or probability targets"),
    ({"observe": {"net": nf.measure.nfm}}, "`observe` must be a mapping with .* other than .*"),
    ({"solver": diffrax.Euler()}, "`dt0` must be given for Euler"),
    ({"solver": diffrax.Euler(), "dt0": -1.0}, "`dt0` must be a positive number"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_are_named(net, data, arguments, message, no_type_checks):
    with pytest.raises(ValueError, match=message):
        nf.gradient_flow(**({"net": net, "data": data, "t1": 3.0, "progress": False} | arguments))


def test_a_network_of_other_inputs_or_outputs_than_the_data_is_refused(data):
    with pytest.raises(ValueError, match="`data` must be of 5 inputs"):
        nf.gradient_flow(nf.nets.MLP([5, 2], key=jax.random.key(0)), data, 1.0)
    with pytest.raises(ValueError, match="`net` must be a map to 2 outputs"):
        nf.gradient_flow(nf.nets.MLP([3, 4], key=jax.random.key(0)), data, 1.0)


def test_networks_without_parameters_or_with_nan_are_refused(net, data):
    with pytest.raises(ValueError, match="`net` must be an Equinox module with floating-point parameters"):
        nf.gradient_flow(eqx.nn.Lambda(jnp.tanh), data, 1.0)
    with pytest.raises(ValueError, match="`net` must be finite everywhere"):
        nf.gradient_flow(net.with_weights([np.nan * W for W in net.weights]), data, 1.0)


def test_a_flow_that_blows_up_says_when(net, data):
    with pytest.raises(nf.RunError, match="ended at t = .* step size fell below") as raised:
        nf.gradient_flow(net, data, 1e3, loss=runaway, progress=False)
    run = raised.value.trajectory
    assert run.status == "step_underflow" and not run.succeeded
    assert 0 < float(run.end_time) < 1e3
    assert np.all(np.isfinite(run.observed["loss"]))
    assert float(run.times[-1]) == float(run.end_time)


def test_a_failed_flow_is_returned_when_asked_for(net, data):
    run = nf.gradient_flow(net, data, 1e3, loss=runaway, throw=False, progress=False)
    assert run.status == "step_underflow"
    assert "ended at t =" in repr(run)


def test_a_fixed_step_that_is_too_long_diverges(net, data):
    run = nf.gradient_flow(net, data, 1e5, solver=diffrax.Euler(), dt0=10.0, throw=False, progress=False)
    assert run.status == "diverged"
    assert np.all(np.isfinite(jax.tree.leaves(eqx.filter(run.net, eqx.is_array))[0]))


def test_a_gradient_that_is_nan_from_the_start_ends_at_once(data):
    """√ has no derivative at the zero residual of a zero network on zero targets."""
    net = nf.nets.MLP([3, 2], key=jax.random.key(0)).with_weights([np.zeros((2, 3))])
    still = nf.Dataset(data.x, jnp.zeros((20, 2)))
    cusp = lambda p, t: jnp.sqrt(jnp.sum((p - t) ** 2))
    run = nf.gradient_flow(net, still, 1.0, loss=cusp, throw=False, progress=False)
    assert "kinks in the loss" in run.stats["reason"]
    assert run.status == "no_gradient" and "the gradient of the loss is NaN" in run.what_happened
    assert run.stats["steps"] == 1 and len(run.times) == 1


def test_the_end_of_a_flow_that_outlives_its_save_times_is_observed(net, data):
    run = nf.gradient_flow(net, data, 100.0, save_at=[0.0, 0.5], max_steps=80, throw=False, progress=False)
    assert run.status == "max_steps"
    assert len(run.times) == 3 and float(run.times[-1]) == float(run.end_time) > 0.5
    np.testing.assert_allclose(run.observed["loss"][-1], nf.measure.loss(run.net, data), rtol=1e-10)


def test_max_steps_ends_a_flow_with_everything_up_to_there(net, data):
    with pytest.raises(nf.RunError, match="maximum number of steps"):
        nf.gradient_flow(net, data, 100.0, max_steps=10, progress=False)
    run = nf.gradient_flow(net, data, 100.0, max_steps=10, throw=False, progress=False)
    assert run.status == "max_steps" and run.stats["steps"] == 10
    assert 1 < len(run.times) < 61
    whole = nf.gradient_flow(net, data, 100.0, progress=False)
    np.testing.assert_array_equal(run.observed["loss"][:-1], whole.observed["loss"][: len(run.times) - 1])
    np.testing.assert_allclose(run.observed["loss"][-1], nf.measure.loss(run.net, data), rtol=1e-10)


def test_a_zero_network_stays_zero(data):
    """Zero is a critical point of a linear net: the flow rests there, and the alignment is undefined."""
    net = nf.nets.MLP([3, 4, 2], key=jax.random.key(1)).with_weights([np.zeros((4, 3)), np.zeros((2, 4))])
    run = nf.gradient_flow(net, data, 10.0, observe={"alignment": nf.measure.alignment(1 / 2)}, progress=False)
    assert run.status == "completed"
    assert np.all(np.isnan(run.observed["alignment"]))
    np.testing.assert_array_equal(run.net.weights[0], 0)


def test_times_that_single_precision_cannot_tell_apart_or_hold_are_refused():
    with jax.enable_x64(False):
        data = nf.Dataset(np.ones((3, 2), np.float32), np.ones((3, 1), np.float32))
        net = nf.nets.MLP([2, 1], key=jax.random.key(0))
        flow = lambda t1, **options: nf.gradient_flow(net, data, t1, progress=False, **options)
        with pytest.raises(ValueError, match=r"`t1` must be after `t0` = 1e\+08 in float32, but was 1e\+08"):
            flow(1e8 + 1, t0=1e8)
        with pytest.raises(ValueError, match=r"`t1` must be a time that float32 holds, but was 1e\+39"):
            flow(1e39)
        with pytest.raises(ValueError, match="`save_at` must be strictly increasing"):
            flow(1e8, save_at=[5e7, 5e7 + 1])
        run = flow(1e8 + 64, t0=1e8)  # the default times are those that it can tell apart
    assert run.succeeded and np.all(np.diff(run.times) > 0) and run.times[-1] == 1e8 + 64
