import diffrax
import jax
import pytest

import nfa_flow as nf
from nfa_flow.flow.choice import choose_solver


def choose(rtol=1e-6, size=1000, *, has_kinks=False, stiffness=100.0):
    return choose_solver(rtol, size, has_kinks=has_kinks, stiffness=lambda: stiffness)


def test_smooth_networks_get_ndf_unless_they_are_huge():
    assert isinstance(choose()[0], nf.flow.NDF)
    solver, reason = choose(size=2**30)
    assert isinstance(solver, nf.flow.TSRKC3) and "too large" in reason


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
    for activation, words in (("tanh", "smooth"), ("relu", "sharpness × horizon")):
        net = nf.nets.MLP([3, 4, 1], key=jax.random.key(1), activation=activation)
        run = nf.gradient_flow(net, data, 1.0, rtol=1e-3, progress=False)
        assert words in run.stats["reason"] and words in repr(run) and run.stats["solver"] in repr(run)
