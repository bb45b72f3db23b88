"""NDF follows the gradient flow of networks to its tolerance, cheaply where it is stiff, and counts its work."""

import contextlib

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import balanced_net, relative, scalar_net, whitened_problem

import nfa_flow as nf
from nfa_flow.flow import NDF
from nfa_flow.flow.solvers.newton_cg import NewtonCG
from nfa_flow.run import drive

DATA = nf.data.multi_index(20, 3, 2, key=jax.random.key(0))
NET = nf.nets.MLP([3, 6, 1], key=jax.random.key(1), activation="tanh")


def flow(net=NET, t1=1e3, *, solver=None, rtol=1e-6, **options):
    solver = NDF() if solver is None else solver
    return nf.gradient_flow(net, DATA, t1, solver=solver, rtol=rtol, atol=1e-3 * rtol, progress=False, **options)


def parameters(net):
    return np.concatenate([np.ravel(W) for W in net.weights])


@pytest.fixture(scope="module")
def reference():
    return parameters(flow(solver=diffrax.Dopri8(), rtol=1e-12).net)


@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-9])
def test_the_parameters_of_a_network_are_within_ten_tolerances(rtol, reference):
    run = flow(rtol=rtol)
    assert relative(parameters(run.net) - reference, reference) < 10 * rtol


def test_a_stiff_flow_costs_less_than_a_tenth_of_an_explicit_solver():
    implicit, explicit = flow().stats, flow(solver=diffrax.Tsit5()).stats
    cost = implicit["gradient_evaluations"] + implicit["hessian_vector_products"]
    assert 10 * cost < explicit["gradient_evaluations"]


def test_an_interrupted_flow_goes_on_to_the_same_bits(monkeypatch, tmp_path):
    @contextlib.contextmanager
    def interrupted_at_once(label, progress):
        def show(fraction):
            raise KeyboardInterrupt

        yield show

    with monkeypatch.context() as patch:
        patch.setattr(drive, "_FIRST_BUDGET", 50)
        patch.setattr(drive, "_progress_bar", interrupted_at_once)
        partial = flow(checkpoint=tmp_path / "run", throw=False)
    assert partial.status == "interrupted" and partial.stats["steps"] == 50
    resumed, whole = flow(checkpoint=tmp_path / "run"), flow()
    np.testing.assert_array_equal(parameters(resumed.net), parameters(whole.net))
    np.testing.assert_array_equal(resumed.observed["loss"], whole.observed["loss"])
    assert {**resumed.stats, "seconds": 0} == {**whole.stats, "seconds": 0}


def test_a_network_of_zeros_stays_zero():
    """A saddle of the loss."""
    run = flow(NET.with_weights([np.zeros_like(W) for W in NET.weights]))
    assert run.stats["steps"] < 40
    np.testing.assert_array_equal(parameters(run.net), 0)


def test_float32_networks_follow_their_float64_twins():
    low = nf.nets.MLP([3, 6, 1], key=jax.random.key(1), activation="tanh", dtype="float32")
    twin = NET.with_weights([np.asarray(W, float) for W in low.weights])
    run, exact = flow(low, rtol=1e-4), flow(twin, rtol=1e-8)
    assert run.net.weights[0].dtype == jnp.float32
    assert relative(parameters(run.net) - parameters(exact.net), parameters(exact.net)) < 1e-3


@pytest.fixture(scope="module")
def counted():
    """For finite differences and exact products: a flow with rejected steps, and how often it took a gradient."""
    one_sample = nf.Dataset(np.ones((1, 2)), np.ones((1, 1)))
    net = nf.nets.MLP([2, 3, 1], key=jax.random.key(0), activation="tanh")
    runs = {}
    for exact in (False, True):
        calls = []

        def counting_loss(prediction, target, calls=calls):
            jax.debug.callback(lambda: calls.append(1))
            return 0.5 * jnp.sum((prediction - target) ** 2)

        run = nf.gradient_flow(
            net,
            one_sample,
            20.0,
            loss=counting_loss,
            solver=NDF(root_finder=diffrax.with_stepsize_controller_tols(NewtonCG)(exact_products=exact)),  # pyright: ignore
            rtol=1e-5,
            dt0=3.0,  # far too long, so that steps are rejected before and after the first accepted one
            observe={"weight": lambda net, data: net.weights[0]},
            progress=False,
        )
        jax.effects_barrier()
        runs[exact] = run, len(calls)
    return runs


@pytest.mark.parametrize("exact_products", [False, True])
def test_work_is_counted_as_it_is_spent(counted, exact_products):
    run, gradients = counted[exact_products]
    assert run.stats["rejected"] > 0
    assert run.stats["gradient_evaluations"] + run.stats["hessian_vector_products"] == gradients


def test_exact_products_and_finite_differences_lead_to_the_same_end(counted):
    by_differences, exact = (parameters(run.net) for run, _ in counted.values())
    assert relative(by_differences - exact, exact) < 1e-5


# --- The physics of deep linear networks.

LINEAR_DATA = nf.data.linear_teacher(50, 6, 3, key=jax.random.key(1), noise=0.3)
WIDTHS, DECAY, TIMES = [6, 7, 5, 3], 0.05, np.linspace(0, 20, 11)


def linear_flow(net, solver):
    observe = {"error": nf.measure.alignment(1 / 3, metric="fixed_scale_error"), "balance": nf.measure.balance}
    options = {"weight_decay": DECAY, "observe": observe, "save_at": TIMES, "progress": False}
    return nf.gradient_flow(net, LINEAR_DATA, 20.0, solver=solver, rtol=1e-10, atol=1e-13, **options)


def test_balanced_networks_satisfy_the_ansatz_all_along():
    run = linear_flow(balanced_net(WIDTHS), NDF())
    assert np.max(run.observed["error"]) < 1e-7


def test_balance_decays_at_twice_the_weight_decay_and_the_end_is_that_of_an_explicit_solver():
    net = nf.nets.MLP(WIDTHS, key=jax.random.key(1), init=nf.nets.Gaussian(1.0))
    run, explicit = linear_flow(net, NDF()), linear_flow(net, diffrax.Dopri8())
    for D in map(np.asarray, run.observed["balance"]):
        law = nf.theory.balance_decay(TIMES, DECAY)[:, None, None] * D[0]
        assert relative(D - law, law) < 1e-8
    ours, theirs = parameters(run.net), parameters(explicit.net)
    assert relative(ours - theirs, theirs) < 1e-8


def test_a_scalar_mode_lies_on_its_closed_form():
    s0, sigma, times = 0.05, 1.7, np.linspace(0, 6, 31)
    net = scalar_net(s0, 3)
    data = whitened_problem(net.weights[0], np.array([[sigma]]))
    observe = {"s": lambda net, data: net.affine()[0]}
    options = {"observe": observe, "save_at": times, "rtol": 1e-11, "atol": 1e-14, "progress": False}
    run = nf.gradient_flow(net, data, 6.0, solver=NDF(), **options)
    np.testing.assert_allclose(run.observed["s"].ravel(), nf.theory.scalar_mode(times, s0, sigma, 3), rtol=1e-8)
