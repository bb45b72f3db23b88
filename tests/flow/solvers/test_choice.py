from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flow.kinks.two_layers import Problem
from oracles import scalar_net, whitened_problem

import nfa_flow as nf
from nfa_flow.flow.solvers.choice import choose_solver


def test_smooth_networks_get_ndf_unless_they_are_huge():
    assert isinstance(choose_solver("float64", 1000, None)[0], nf.flow.NDF)
    solver, reason = choose_solver("float64", 2**30, None)
    assert isinstance(solver, nf.flow.TSRKC3) and "too large" in reason


def test_half_precision_gets_an_explicit_pair():
    assert isinstance(choose_solver("bfloat16", 1000, None)[0], diffrax.Tsit5)


@pytest.mark.parametrize("where", ["network", "loss"])
def test_kinks_are_located_where_they_can_be_and_are_not_too_many(where):
    solver, reason = choose_solver("float64", 1000, where, gates=50_000)
    assert isinstance(solver, nf.flow.Piecewise) and reason == f"kinks in the {where}, each of which is located"
    in_loops = "kinks in loops"
    too_many = f"50001 kinks in the {where}, so many that `Piecewise` would take long"
    cusps = f"kinks in the {where} that are not those of a selection"
    for gates, words in (("loops", in_loops), (50_001, too_many), (0, cusps)):
        solver, reason = choose_solver("float64", 1000, where, gates=gates)
        assert isinstance(solver, nf.flow.TSRKC3)
        assert reason.startswith(words) and "not certified across them" in reason


DATA = nf.data.linear_teacher(12, 3, 1, key=jax.random.key(0))


def flow(activation="tanh", **options):
    net = nf.nets.MLP([3, 4, 1], key=jax.random.key(1), activation=activation)
    return nf.gradient_flow(net, DATA, 1.0, progress=False, **options)


def across_kinks(**options):
    """In the program of the tests of kinks, which takes eight times as long to compile as that of `flow`."""
    return Problem(0).flow(1.0, **{"rtol": None} | options)


def test_the_choice_and_its_reason_are_in_the_run_and_in_what_it_prints():
    for run, words in ((flow(), "smooth"), (across_kinks(), "kinks in the network")):
        assert words in run.stats["reason"] and words in repr(run) and run.stats["solver"] in repr(run)


def absolute(prediction, target):
    return jnp.sum(jnp.abs(prediction - target))


def cusp(prediction, target):
    return jnp.sqrt(jnp.sum((prediction - target) ** 2))


def test_the_default_tolerance_knows_kinks_that_are_not_located_and_warns_of_nothing(recwarn):
    for run, rtol in [
        (flow, 1e-6),
        (across_kinks, 1e-6),
        (partial(flow, loss=absolute), 1e-6),
        (partial(flow, loss=cusp), 1e-3),
    ]:
        by_default, given = run(), run(rtol=rtol)
        assert by_default.stats["steps"] == given.stats["steps"]
        np.testing.assert_array_equal(by_default.observed["loss"], given.observed["loss"])
    assert not recwarn


def test_a_tolerance_that_is_given_is_warned_about_where_it_costs_too_much():
    with pytest.warns(UserWarning, match="`rtol` = 1e-05 with kinks in the network"):
        flow("relu", rtol=1e-5, solver=diffrax.Tsit5(), max_steps=1, throw=False)
    with pytest.warns(UserWarning, match="`rtol` = 1e-17 is finer than float64"):
        flow(rtol=1e-17, max_steps=1, throw=False)


def test_a_batch_gets_the_solver_and_the_reason_of_its_members():
    """With kinks it does too, see `kinks/test_transforms.py`; those programs take six times as long to compile."""

    def one(key, weight_decay):
        net = eqx.nn.MLP(3, 1, 4, 1, activation=jnp.tanh, key=key)
        return nf.gradient_flow(net, DATA, 1.0, weight_decay=weight_decay, save_at=[1.0], progress=False)

    keys = jax.random.split(jax.random.key(0), 2)
    batch, alone = eqx.filter_vmap(one)(keys, jnp.array([0.0, 0.1])), one(keys[1], 0.1)
    assert dict(batch.notes) == dict(alone.notes) and alone.stats["solver"] == "NDF"
    for name in ("steps", "gradient_evaluations", "hessian_vector_products"):
        assert batch.counts[name][1] == alone.counts[name]


@pytest.mark.parametrize("w0", [1e-2, 1e-5, 1e-8])
def test_the_default_gets_out_of_a_small_initialization_on_time(w0):
    """Half way at t = ½ ln(1/s0 − 1), where errors made at the start have grown as much as the solution."""
    net = scalar_net(w0**2, 2)
    data = whitened_problem(net.weights[0], np.array([[1.0]]))
    half_way = 0.5 * np.log(w0**-2 - 1)
    run = nf.gradient_flow(net, data, half_way, progress=False)
    np.testing.assert_allclose(run.net.affine()[0].item(), 0.5, rtol=100 * 1e-6)


def test_in_float32_a_tolerance_at_the_resolution_does_not_cost_more_with_time():
    net = nf.nets.MLP([10, 16, 16, 1], key=jax.random.key(0), activation="tanh", dtype="float32")
    data = nf.data.linear_teacher(30, 10, 1, key=jax.random.key(1))
    steps = [nf.gradient_flow(net, data, t1, rtol=1e-6, progress=False).stats["steps"] for t1 in (1e3, 1e4)]
    assert steps[1] < 1.2 * steps[0]
