import diffrax
import jax
import numpy as np
import pytest
from oracles import scalar_net, whitened_problem

import nfa_flow as nf
from nfa_flow.flow.choice import choose_solver


def choose(rtol=1e-6, size=1000, *, dtype="float64", has_kinks=False, stiffness=100.0):
    return choose_solver(rtol, dtype, size, has_kinks=has_kinks, stiffness=lambda: stiffness)


def test_smooth_networks_get_ndf_unless_they_are_huge():
    assert isinstance(choose()[0], nf.flow.NDF)
    solver, reason = choose(size=2**30)
    assert isinstance(solver, nf.flow.TSRKC3) and "too large" in reason


def test_half_precision_gets_an_explicit_pair():
    assert isinstance(choose(dtype="bfloat16")[0], diffrax.Tsit5)


@pytest.mark.parametrize(
    ("rtol", "stiffness", "solver"),
    [
        (1e-2, 10.0, nf.flow.TSRKC3),
        (1e-3, 1e4, nf.flow.TSRKC3),
        (1e-3, 1e3, diffrax.Tsit5),
        (1e-4, 1e4, diffrax.Tsit5),
        (1e-3, None, diffrax.Tsit5),
    ],
)
def test_kinked_networks_get_a_stabilised_method_where_it_is_loose_or_long(rtol, stiffness, solver):
    chosen, reason = choose(rtol, has_kinks=True, stiffness=stiffness)
    assert isinstance(chosen, solver)
    assert "not certified across kinks" in reason


def test_the_choice_and_its_reason_are_in_the_run_and_in_what_it_prints():
    data = nf.data.linear_teacher(jax.random.key(0), 20, 3, 1)
    for activation, words in (("tanh", "smooth"), ("relu", "sharpness * horizon")):
        net = nf.nets.MLP([3, 4, 1], key=jax.random.key(1), activation=activation)
        run = nf.gradient_flow(net, data, 1.0, rtol=1e-3, progress=False)
        assert words in run.stats["reason"] and words in repr(run) and run.stats["solver"] in repr(run)


@pytest.mark.parametrize("w0", [1e-2, 1e-5, 1e-8])
def test_the_default_gets_out_of_a_small_initialisation_on_time(w0):
    """Half way at t = ½ ln(1/s0 − 1), where errors made at the start have grown as much as the solution."""
    net = scalar_net(w0**2, 2)
    data = whitened_problem(net.weights[0], np.array([[1.0]]))
    half_way = 0.5 * np.log(w0**-2 - 1)
    run = nf.gradient_flow(net, data, half_way, progress=False)
    np.testing.assert_allclose(run.net.affine()[0].item(), 0.5, rtol=100 * 1e-6)


def test_in_float32_a_tolerance_at_the_resolution_does_not_cost_more_with_time():
    net = nf.nets.MLP([10, 16, 16, 1], key=jax.random.key(0), activation="tanh", dtype="float32")
    data = nf.data.linear_teacher(jax.random.key(1), 30, 10, 1)
    steps = [nf.gradient_flow(net, data, t1, rtol=1e-6, progress=False).stats["steps"] for t1 in (1e3, 1e4)]
    assert steps[1] < 1.2 * steps[0]
