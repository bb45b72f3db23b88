"""The two-layer linear muP network, against the flow of its weights at finite width and against its limit."""

import jax
import numpy as np
import pytest
from scipy.integrate import quad

import nfa_flow as nf
from nfa_flow.theory import infinite_linear_mup, infinite_width_nfm, linear_mup

TIMES = np.array([0.0, 0.1, 0.5, 2.0, 10.0])


@pytest.fixture
def moments(rng):
    """(S_xx, S_yx) of 3 outputs and 4 inputs of unequal variances."""
    X = rng.normal(size=(30, 4)) * [2.0, 1.0, 0.5, 0.3]
    Y = X @ rng.normal(size=(4, 3)) + 0.1 * rng.normal(size=(30, 3))
    return X.T @ X / 30, Y.T @ X / 30


def kernels(net, data):
    """A, P and C as they are defined."""
    W_1, W_2 = net.weights
    n = len(W_1)
    return W_1.T @ W_1 / n, W_2 @ W_1, n * W_2 @ W_2.T


def test_the_equations_are_closed_at_every_width():
    data = nf.data.linear_teacher(30, 4, 3, key=jax.random.key(0), noise=0.1)
    net = nf.nets.MLP([4, 2, 3], key=jax.random.key(1), parametrization="muP")
    run = nf.gradient_flow(net, data, TIMES[-1], save_at=TIMES, observe={"all": kernels}, rtol=1e-9, progress=False)
    theory = linear_mup(TIMES, *net.weights, data.S_xx, data.S_xy.T)
    for ours, theirs in zip(theory[:3], run.observed["all"], strict=True):
        np.testing.assert_allclose(theirs, ours, atol=10 * 1e-9 * np.max(np.abs(ours)))
    np.testing.assert_allclose(theory.agop, theory.end_to_end.mT @ theory.end_to_end, rtol=1e-14)


@pytest.mark.parametrize("alpha, beta", [(0.25, 1.0), (2.0, 0.3)])
def test_the_limit_is_the_plain_flow_of_a_network_as_wide_as_its_inputs_and_outputs(
    agrees, weights_flow, moments, alpha, beta
):
    S_xx, S_yx = moments
    u, v = np.eye(7)[:, :4] * np.sqrt(alpha), np.eye(7)[4:] * np.sqrt(beta)
    path = weights_flow(TIMES, [u, v], S_xx, S_yx)
    limit = infinite_linear_mup(TIMES, S_xx, S_yx, alpha=alpha, beta=beta)
    agrees(limit.nfm, [u.T @ u for u, _ in path])
    agrees(limit.end_to_end, [v @ u for u, v in path])
    agrees(limit.readout, [v @ v.T for _, v in path])


def test_the_limit_starts_as_networks_of_this_parametrization_do(moments):
    limit, n = infinite_linear_mup([0.0], *moments), 10_000
    net = nf.nets.MLP([4, n, 3], key=jax.random.key(0), parametrization="muP")
    for ours, theirs in zip(limit[:3], kernels(net, None), strict=True):
        np.testing.assert_allclose(
            theirs, ours[0], atol=5 * (2 / n) ** 0.5
        )  # five times the largest standard deviation


@pytest.mark.parametrize("alpha, beta", [(0.25, 1.0), (2.0, 0.3)])
def test_nfm_and_agop_are_tied_at_all_times_for_any_data(moments, alpha, beta):
    limit = infinite_linear_mup(TIMES, *moments, alpha=alpha, beta=beta)
    tied = [infinite_width_nfm(P, alpha=alpha, beta=beta) for P in limit.end_to_end]
    np.testing.assert_allclose(limit.nfm, tied, atol=1e3 * 1e-12 * np.max(np.abs(tied)))


def test_the_tie_bends_from_affine_to_the_square_root():
    small, large = (infinite_width_nfm(np.diag([s, 0.0]), alpha=1.0, beta=1.0) for s in (1e-3, 1e3))
    np.testing.assert_allclose(small, np.diag([1 + 1e-6 / 2, 1]), atol=1e-12)
    np.testing.assert_allclose(large, np.diag([1e3, 1]), rtol=1e-5)


def test_each_mode_of_whitened_data_arrives_when_its_integral_says():
    """b' = (σ − b)(κ² + 4b²)^{1/2} for a singular value b of P, with κ = α + β."""
    sigma, alpha, beta = np.array([2.0, 0.5]), 0.5, 1.0
    times = np.array([0.1, 0.4, 1.5])
    P = infinite_linear_mup(times, np.eye(2), np.diag(sigma)).end_to_end
    np.testing.assert_allclose(P * (1 - np.eye(2)), 0, atol=1e-15)
    for mode in range(2):
        slowness = lambda b, mode=mode: 1 / ((sigma[mode] - b) * np.hypot(alpha + beta, 2 * b))
        arrival = [quad(slowness, 0, P[i, mode, mode], epsabs=1e-12, epsrel=1e-12)[0] for i in range(3)]
        np.testing.assert_allclose(arrival, times, rtol=1e-9)


def test_finite_widths_come_to_the_limit_as_one_over_the_root_of_the_width(rng, moments):
    """The root mean square deviation of the NFM over seeds falls like n^{−1/2}."""
    limit, widths, seeds = infinite_linear_mup([2.0], *moments), np.array([64, 512, 4096]), 40

    def deviation(n):
        W_1, W_2 = rng.normal(size=(n, 4)) / 2, rng.normal(size=(3, n)) / n
        return np.sum((linear_mup([2.0], W_1, W_2, *moments).nfm - limit.nfm) ** 2)

    squares = [np.mean([deviation(n) for _ in range(seeds)]) for n in widths]
    slope = np.polyfit(np.log(widths), np.log(squares), 1)[0] / 2
    # Were one direction to decide, a mean of 40 squares would have the relative error (2/40)^{1/2}, and the slope
    # through three points a factor 8 apart that over √2 log 8, halved as it is of squares: four of these.
    assert abs(slope + 0.5) < 4 * 0.5 * np.sqrt(2 / seeds) / (np.sqrt(2) * np.log(8))


def test_a_late_network_fits(moments):
    S_xx, S_yx = moments
    fitted = S_yx @ np.linalg.inv(S_xx)
    np.testing.assert_allclose(infinite_linear_mup([1e3], S_xx, S_yx).end_to_end[0], fitted, atol=1e-9)


@pytest.mark.parametrize(
    "argument, changed",
    [
        ("times", [1.0, 0.5]),
        ("times", [-1.0]),
        ("S_xx", np.eye(3)),
        ("S_yx", [1.0]),
        ("alpha", 0.0),
        ("beta", -1.0),
    ],
)
def test_wrong_argument_is_named(argument, changed):
    arguments = {"times": [1.0], "S_xx": np.eye(2), "S_yx": np.eye(2)}
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        infinite_linear_mup(**(arguments | {argument: changed}))


def test_weights_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"`W_2` must be an array of shape \(c, 5\)"):
        linear_mup([1.0], np.ones((5, 2)), np.ones((2, 4)), np.eye(2), np.eye(2))
    with pytest.raises(ValueError, match="`P` must be"):
        infinite_width_nfm([1.0])
