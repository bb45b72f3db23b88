"""The network at any time of a run, on the interpolant of the solver."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow.flow import dense

SAVED = [0.0, 0.37, 1.0, 2.9, 4.0]
NET = nf.nets.MLP([1, 1, 1], key=jax.random.key(0)).with_weights([0.1 * jnp.ones((1, 1))] * 2)
DATA = nf.Dataset(jnp.ones((1, 1)), jnp.ones((1, 1)))


def run(**options):
    settings = {"rtol": 1e-8, "save_at": SAVED, "save_nets": True, "dense": True, "progress": False} | options
    return nf.gradient_flow(NET, DATA, 4.0, **settings)


def product(net):
    return float((net.weights[1] @ net.weights[0]).squeeze())


def logistic(t):
    """s = w₂w₁ with ds/dt = 2s(1 − s) from 0.01."""
    return 1 / (1 + 99 * np.exp(-2 * np.asarray(t)))


@pytest.mark.parametrize("marks", [1024, 16])
@pytest.mark.parametrize("solver", [nf.flow.NDF(), diffrax.Tsit5()], ids=["NDF", "Tsit5"])
def test_it_is_the_exact_flow_at_all_times_and_the_run_at_saved_ones(solver, marks, monkeypatch):
    """With few marks most steps are computed again."""
    monkeypatch.setattr(dense, "_MOST", marks)
    flow = run(solver=solver)
    assert flow.stats["steps"] > 2 * 16
    for t in np.linspace(0, 4, 23):
        np.testing.assert_allclose(product(flow.net_at_time(t)), logistic(t), rtol=1e-7)
    for i, t in enumerate(SAVED):
        np.testing.assert_allclose(product(flow.net_at_time(t)), product(flow.net_at(i)), rtol=1e-13)


def test_a_run_that_was_stopped_and_a_second_call():
    stopped = run(stop=nf.LossBelow(0.02))
    assert product(stopped.net_at_time(float(stopped.end_time))) == pytest.approx(0.8, rel=1e-7)
    with pytest.raises(ValueError, match="`time` must be within the run, from 0 to 2.99"):
        stopped.net_at_time(3.5)


def test_evaluations_compile_once(compilations):
    flow = run()
    flow.net_at_time(1.5)
    compilations()
    flow.net_at_time(2.5)
    run(rtol=1e-7).net_at_time(0.5)
    assert compilations() == 0


def test_the_observations_are_those_of_the_same_run_without_it():
    np.testing.assert_array_equal(run().observed["loss"], run(dense=False).observed["loss"])


def test_misuse():
    with pytest.raises(ValueError, match="`net_at_time` needs a run"):
        run(dense=False).net_at_time(1.0)
    with pytest.raises(ValueError, match="`time` must be"):
        run().net_at_time(float("nan"))
    with pytest.raises(ValueError, match="`dense` must be False inside"):
        jax.jit(lambda t1: nf.gradient_flow(NET, DATA, t1, save_at=[1.0], dense=True).observed["loss"])(2.0)


def test_across_kinks():
    net = nf.nets.MLP([3, 4, 1], key=jax.random.key(3), activation="relu")
    x = jax.random.normal(jax.random.key(0), (12, 3))
    data = nf.Dataset(x, jnp.sin(x[:, :1]) + 0.3 * x[:, 1:2])
    times = np.linspace(0, 1, 9)
    flow = nf.gradient_flow(net, data, 1.0, save_at=times, save_nets=True, dense=True, progress=False)
    assert flow.stats["crossings"] > 0
    for i, t in enumerate(times):
        np.testing.assert_allclose(flow.net_at_time(t).weights[0], flow.net_at(i).weights[0], rtol=1e-12)
