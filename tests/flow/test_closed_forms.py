"""Computed flows lie on the closed forms, all along the trajectory."""

import diffrax
import jax
import numpy as np
import pytest
from oracles import counterexample_net, linear_net, relative, scalar_net, whitened_problem

import nfa_flow as nf

# The flow is integrated at 1e-12; the closed forms hold to 1e-8, room for errors that grow by e^{2σt} at first.
TIGHT = {"rtol": 1e-12, "atol": 1e-15, "progress": False}


def end_to_end(net, data):
    return net.affine()[0]


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_scalar_mode(depth):
    s0, sigma, times = 0.05, 1.7, np.linspace(0, 6, 31)
    net = scalar_net(s0, depth)
    data = whitened_problem(net.weights[0], np.array([[sigma]]))
    observe = {"s": end_to_end, "nfm": nf.measure.nfm, "agop": lambda net, data: nf.measure.agop(net, data)}
    run = nf.gradient_flow(net, data, times[-1], observe=observe, save_at=times, **TIGHT)
    s = nf.theory.scalar_mode(times, s0, sigma, depth)
    np.testing.assert_allclose(run.observed["s"].ravel(), s, rtol=1e-8)
    np.testing.assert_allclose(run.observed["agop"].ravel(), s**2, rtol=1e-8)
    np.testing.assert_allclose(run.observed["nfm"].ravel(), s ** (2 / depth), rtol=1e-8)


@pytest.mark.parametrize(
    ("solver", "rtol"),
    [(nf.flow.TSRKC3(), 1e-11), (nf.flow.RKC2(), 1e-8), (diffrax.Tsit5(), 1e-11), (diffrax.Dopri8(), 1e-11)],
)
def test_the_scalar_mode_by_every_solver(solver, rtol):
    """As above, where the default is NDF."""
    s0, sigma, times = 0.3, 1.7, np.linspace(0, 4, 9)
    net = scalar_net(s0, 3)
    data = whitened_problem(net.weights[0], np.array([[sigma]]))
    settings = {"save_at": times, "solver": solver, "rtol": rtol, "progress": False}
    run = nf.gradient_flow(net, data, times[-1], observe={"s": end_to_end}, **settings)
    np.testing.assert_allclose(run.observed["s"].ravel(), nf.theory.scalar_mode(times, s0, sigma, 3), rtol=1e-8)


@pytest.mark.parametrize("rtol", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize(
    "solver",
    [nf.flow.NDF(), nf.flow.TSRKC3(), nf.flow.RKC2(), diffrax.Tsit5(), diffrax.Bosh3(), diffrax.Kvaerno3()],
    ids=lambda solver: type(solver).__name__,
)
def test_every_solver_keeps_the_promise_of_rtol(solver, rtol):
    """dw/dt = −w: at t = 1 within 10 rtol of 1/e."""
    net = nf.nets.MLP([1, 1], key=jax.random.key(0)).with_weights([np.ones((1, 1))])
    data = nf.Dataset(np.ones((1, 1)), np.zeros((1, 1)))
    run = nf.gradient_flow(net, data, 1.0, solver=solver, rtol=rtol, save_at=[1.0], progress=False)
    np.testing.assert_allclose(run.net.weights[0], np.exp(-1), rtol=10 * rtol)


@pytest.mark.parametrize(("depth", "sigma", "decay"), [(2, 1.7, 0.3), (2, 0.2, 0.3), (3, 2.0, 0.3)])
def test_scalar_mode_with_weight_decay(depth, sigma, decay):
    times = np.linspace(0, 6, 31)
    net = scalar_net(0.5, depth)
    data = whitened_problem(net.weights[0], np.array([[sigma]]))
    run = nf.gradient_flow(net, data, times[-1], weight_decay=decay, observe={"s": end_to_end}, save_at=times, **TIGHT)
    s = nf.theory.scalar_mode(times, 0.5, sigma, depth, weight_decay=decay)
    np.testing.assert_allclose(run.observed["s"].ravel(), s, rtol=1e-8)


@pytest.mark.parametrize(
    ("shape", "b"),
    [((4, 4, 4), 0.0), ((5, 3, 3), 0.0), ((3, 4, 5), 0.0), ((4, 4, 4), 0.6), ((4, 3, 5), 0.6), ((5, 3, 4), -0.6)],
)
def test_two_layer_riccati_solution(shape, b):
    times = np.linspace(0, 5, 21)
    init = nf.nets.Balanced(0.5) if b == 0 else nf.nets.LambdaBalanced(b, 0.5)
    net = nf.nets.MLP(shape, key=jax.random.key(3), init=init)
    W_1, W_2 = (np.asarray(W) for W in net.weights)
    S_yx = np.random.default_rng(0).normal(size=(shape[2], shape[0]))
    if shape[0] == shape[2] and np.linalg.det(S_yx) * np.linalg.det(W_2 @ W_1) < 0:
        S_yx[
            0
        ] *= -1  # Balanced flow keeps the sign of det P; across it lies a saddle that only exact arithmetic holds.
    data = whitened_problem(W_1, S_yx)
    observe = {"nfm": nf.measure.nfm, "P": end_to_end, "agop": lambda net, data: nf.measure.agop(net, data)}
    run = nf.gradient_flow(net, data, times[-1], observe=observe, save_at=times, **TIGHT)
    exact = nf.theory.two_layer(times, W_1, W_2, S_yx)
    assert relative(run.observed["nfm"] - exact.nfm, exact.nfm) < 1e-8
    assert relative(run.observed["P"] - exact.end_to_end, exact.end_to_end) < 1e-8
    assert relative(run.observed["agop"] - exact.agop, exact.agop) < 1e-8
    for computed, P in zip(run.observed["nfm"], np.asarray(run.observed["P"]), strict=True):
        identity = nf.theory.lambda_balanced_nfm(P, b, width=shape[1])
        assert relative(computed - identity, identity) < 1e-10


def test_two_layers_with_weight_decay():
    times = np.linspace(0, 10, 11)
    net = nf.nets.MLP([5, 4, 3], key=jax.random.key(3), init=nf.nets.Balanced(0.5))
    S_yx = np.random.default_rng(1).normal(size=(3, 5))
    data = whitened_problem(net.weights[0], S_yx)
    run = nf.gradient_flow(net, data, 10.0, weight_decay=0.2, observe={"nfm": nf.measure.nfm}, save_at=times, **TIGHT)
    exact = nf.theory.two_layer(times, *net.weights, S_yx, weight_decay=0.2)
    assert relative(run.observed["nfm"] - exact.nfm, exact.nfm) < 1e-8


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_end_to_end_flow_of_balanced_nets_on_correlated_inputs(depth):
    data = nf.data.linear_teacher(50, 5, 3, key=jax.random.key(0), noise=0.1)
    net = nf.nets.MLP([5, *[4] * (depth - 1), 3], key=jax.random.key(1), init=nf.nets.Balanced(0.5))
    times = np.linspace(0, 3, 13)
    run = nf.gradient_flow(net, data, 3.0, weight_decay=0.1, observe={"P": end_to_end}, save_at=times, **TIGHT)
    P0 = np.asarray(net.affine()[0])
    P = nf.theory.end_to_end_flow(times, P0, data.S_xx, data.S_xy.T, depth, weight_decay=0.1)
    assert relative(run.observed["P"] - P, P) < 1e-8


@pytest.mark.parametrize(("epsilon", "cosine"), [(1e-1, 0.39), (1e-2, 0.11)])
def test_counterexample_reaches_its_small_cosine_at_zero_loss(epsilon, cosine):
    """A nonlinear network that fits perfectly and violates the ansatz: reached by the flow, not only by formula."""
    data, s0, times = nf.data.vanishing_alignment(epsilon), 0.01, nf.log_times(1.0, 1e6, 25)
    net = counterexample_net(2, s0)
    observe = {"loss": nf.measure.loss, "cosine": nf.measure.alignment(1 / 2), "nfm": nf.measure.nfm}
    run = nf.gradient_flow(net, data, 1e6, observe=observe, save_at=times, rtol=1e-8, atol=1e-11, progress=False)
    assert run.stats["solver"] == "Piecewise"
    assert run.observed["loss"][-1] < 1e-10
    assert round(float(run.observed["cosine"][-1]), 2) == cosine
    exact = nf.theory.orthogonal_support(times, [s0, s0], data.y[:, 0], data.weight)
    np.testing.assert_allclose(np.diagonal(run.observed["nfm"], axis1=1, axis2=2), exact.nfm, rtol=1e-6)
    along = nf.theory.diagonal_cosine(exact.nfm, exact.agop, 1 / 2)
    np.testing.assert_allclose(run.observed["cosine"], along, rtol=1e-6)


def test_counterexample_follows_its_closed_form_to_ten_digits():
    data, s0, times = nf.data.vanishing_alignment(0.1), 0.01, nf.log_times(1.0, 1e4, 25)
    observe = {"loss": nf.measure.loss, "cosine": nf.measure.alignment(1 / 2), "nfm": nf.measure.nfm}
    run = nf.gradient_flow(counterexample_net(2, s0), data, 1e4, observe=observe, save_at=times, **TIGHT)
    assert run.stats["solver"] == "Piecewise"
    exact = nf.theory.orthogonal_support(times, [s0, s0], data.y[:, 0], data.weight)
    np.testing.assert_allclose(np.diagonal(run.observed["nfm"], axis1=1, axis2=2), exact.nfm, rtol=1e-10)


@pytest.mark.parametrize(("epsilon", "cosine"), [(1e-3, 0.033), (1e-4, 0.010)])
def test_counterexample_over_twelve_decades_of_time(epsilon, cosine):
    """Rates down to 1e-10 beside a rate of 1. Every neuron stays on its side of its kink, so the flow is smooth."""
    data, s0, times = nf.data.vanishing_alignment(epsilon), 0.01, nf.log_times(1.0, 1e12, 25)
    observe = {"loss": nf.measure.loss, "cosine": nf.measure.alignment(1 / 2), "nfm": nf.measure.nfm}
    settings = {"observe": observe, "save_at": times, "rtol": 1e-8, "progress": False}
    with pytest.warns(UserWarning, match="kinks"):
        run = nf.gradient_flow(counterexample_net(2, s0), data, times[-1], solver=nf.flow.NDF(), **settings)
    assert round(float(run.observed["cosine"][-1]), 3) == cosine and run.observed["loss"][-1] < 1e-20
    assert run.stats["gradient_evaluations"] + run.stats["hessian_vector_products"] < 5_000
    exact = nf.theory.orthogonal_support(times, [s0, s0], data.y[:, 0], data.weight)
    np.testing.assert_allclose(np.diagonal(run.observed["nfm"], axis1=1, axis2=2), exact.nfm, rtol=1e-6)


def test_lambda_balanced_start_keeps_its_identity_along_a_long_flow():
    net = nf.nets.MLP([4, 3, 6], key=jax.random.key(0), init=nf.nets.LambdaBalanced(1.5, 0.3))
    data = nf.data.linear_teacher(80, 4, 6, key=jax.random.key(1), noise=0.5)
    run = nf.gradient_flow(net, data, 50.0, observe={"nfm": nf.measure.nfm, "P": end_to_end}, **TIGHT)
    for computed, P in zip(run.observed["nfm"], np.asarray(run.observed["P"]), strict=True):
        identity = nf.theory.lambda_balanced_nfm(P, 1.5)
        assert relative(computed - identity, identity) < 1e-10


def test_the_linear_net_of_the_oracles_multiplies_its_weights():
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(4, 3)), rng.normal(size=(2, 4))]
    np.testing.assert_allclose(linear_net(weights).affine()[0], weights[1] @ weights[0], rtol=1e-14)
