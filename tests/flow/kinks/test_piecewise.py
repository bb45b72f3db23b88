"""The flow across kinks is the exact one: other means, closed forms and equal problems give the same."""

import jax
import numpy as np
import pytest
from flow.kinks.two_layers import INPUTS, NEURONS, SAMPLES, Problem, TwoLayers, distance

import nfa_flow as nf

RTOL = 1e-9
ERROR = 10 * RTOL  # of all parameters at the end of a run, as `gradient_flow` promises


def weights(rng):
    weight = rng.uniform(0.5, 1, SAMPLES)
    return weight / weight.sum()


def test_the_flow_is_that_of_an_independent_solver_on_20_problems():
    """Of relu, leaky relu, abs and a bent line, with decay, mobilities and sample weights."""
    counts = dict.fromkeys(("crossings", "slides", "releases"), 0)
    for seed in range(20):
        rng, low = np.random.default_rng(seed), [0.0, 0.01, -1.0, 0.3][seed % 4]
        options = {"low": low, "decay": rng.uniform(0, 0.03), "mobility": rng.uniform(0.5, 2, 2)}
        problem = Problem(seed, weight=weights(rng), **options)
        run = problem.flow(6.0, rtol=RTOL)
        assert distance(run.net.theta, problem.box(6.0)) < ERROR
        sliding = run.stats["slides"] - run.stats["releases"]
        assert np.sum(np.abs(problem.x @ run.net.W.T) < 1e-12) == sliding
        counts = {name: count + run.stats[name] for name, count in counts.items()}
    assert counts["crossings"] > 60 and counts["slides"] > 15 and counts["releases"] > 8


@pytest.mark.parametrize("low", [0.0, 0.01, -1.0], ids=["relu", "leaky_relu", "abs"])
def test_repeated_samples_are_one_with_their_mean_target_and_the_sum_of_their_weights(low):
    rng = np.random.default_rng(0)
    x, y, weight = rng.normal(size=(SAMPLES // 2, INPUTS)), rng.normal(size=(SAMPLES, 1)), weights(rng)
    total, weighted = weight.reshape(2, -1).sum(0), (weight[:, None] * y).reshape(2, -1).sum(0)
    repeated = Problem(0, x=np.tile(x, (2, 1)), y=y, weight=weight, decay=0.02, low=low)
    once = Problem(0, x=x, y=(weighted / total)[:, None], weight=total, decay=0.02, low=low)
    run = repeated.flow(6.0, rtol=RTOL)
    assert run.stats["slides"] >= 1
    assert distance(run.net.theta, once.box(6.0)) < ERROR

    # Samples of no weight make no difference, though the flow crosses their surfaces.
    beside = np.concatenate([x, rng.normal(size=x.shape)])
    y, weight = np.concatenate([once.y, y[: len(x)]]), np.concatenate([total, np.zeros(len(x))])
    unweighted = Problem(0, x=beside, y=y, weight=weight, decay=0.02, low=low).flow(6.0, rtol=RTOL)
    assert distance(unweighted.net.theta, run.net.theta) < 2 * ERROR

    if low == -1:  # for |z| a sample and its negative are the same
        opposite = Problem(0, x=np.concatenate([x, -x]), y=repeated.y, weight=repeated.weight, decay=0.02, low=low)
        assert distance(opposite.flow(6.0, rtol=RTOL).net.theta, run.net.theta) < 2 * ERROR


def test_opposite_samples_share_their_surfaces():
    """For relu no smaller problem is equal; the error falls with the tolerance as that of any other flow."""
    x = np.random.default_rng(1).normal(size=(SAMPLES // 2, INPUTS))
    problem = Problem(1, x=np.concatenate([x, -x]), decay=0.02)
    exact, run = problem.flow(6.0, rtol=1e-10), problem.flow(6.0, rtol=1e-7)
    assert exact.stats["slides"] >= 2
    assert all(exact.stats[name] == run.stats[name] for name in ("crossings", "slides", "releases"))
    assert distance(run.net.theta, exact.net.theta) < 1e-6


def test_samples_and_inputs_that_are_zero_do_not_matter():
    x = np.random.default_rng(0).normal(size=(SAMPLES, INPUTS))
    x[:5], x[:, 2] = 0, 0
    problem = Problem(1, x=x, decay=0.1)
    run = problem.flow(6.0, rtol=RTOL)
    assert run.stats["slides"] >= 1
    assert distance(run.net.theta, problem.box(6.0)) < ERROR
    np.testing.assert_allclose(run.net.W[:, 2], problem.net.W[:, 2] * np.exp(-0.1 * 6.0), rtol=ERROR)


def test_dead_neurons_only_decay():
    rng = np.random.default_rng(0)
    x, W = np.abs(rng.normal(size=(SAMPLES, INPUTS))), -np.abs(rng.normal(size=(NEURONS, INPUTS)))
    problem = Problem(0, x=x, W=W, decay=0.3, mobility=(2.0, 0.5))
    run = problem.flow(6.0, rtol=RTOL)
    assert run.stats["crossings"] == run.stats["slides"] == 0
    np.testing.assert_allclose(run.net.W, problem.net.W * np.exp(-2.0 * 0.3 * 6.0), rtol=10 * ERROR)
    np.testing.assert_allclose(run.net.a, problem.net.a * np.exp(-0.5 * 0.3 * 6.0), rtol=10 * ERROR)


def test_a_zero_output_layer_is_left():
    problem = Problem(1, a=np.zeros(NEURONS))
    run = problem.flow(6.0, rtol=RTOL)
    assert np.all(np.abs(run.net.a) > 1e-3)
    assert distance(run.net.theta, problem.box(6.0)) < ERROR


def logistic(s_0, rate, target, decay, t):
    """s(t) of s' = 2s(rate·(target − s) − decay)."""
    A, B = 2 * (rate * target - decay), 2 * rate
    return A / (B + (A / s_0 - B) * np.exp(-A * t))


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_neurons_of_orthonormal_samples_follow_the_logistic_curve(decay):
    """Each neuron is active on one unit vector e_k and balanced, a_k = w_kk; every sample is there four times."""
    x, y = np.tile(np.eye(INPUTS), (4, 1)), np.random.default_rng(0).uniform(0.5, 2, (SAMPLES, 1))
    start, inactive = np.array([0.1, 0.3, 0.7]), -0.2
    problem = Problem(0, x=x, y=y, decay=decay)
    W = np.full((NEURONS, INPUTS), inactive)
    W[np.diag_indices(INPUTS)] = start
    problem.net = TwoLayers(W, [*start, 0.4])
    for t in (1.0, 20.0):
        net = problem.flow(t, rtol=1e-12).net
        s = logistic(start**2, 1 / INPUTS, y.reshape(4, -1).mean(0), decay, t)
        np.testing.assert_allclose(np.diag(net.W[:INPUTS]), np.sqrt(s), rtol=1e-10)
        np.testing.assert_allclose(net.a, [*np.sqrt(s), 0.4 * np.exp(-decay * t)], rtol=1e-10)
        np.testing.assert_allclose(net.W[INPUTS], inactive * np.exp(-decay * t), rtol=1e-10)


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_a_neuron_that_slides_follows_the_logistic_curve(decay):
    """w = ρ e_2 stays orthogonal to e_1, which pulls it to its negative side; (c, s) pulls it to the positive one.

    With a = ρ the prediction sρ² of the second sample follows a logistic curve, as if there were no other sample.
    """
    cos, sin = 0.6, 0.8
    x = np.tile([[1.0, 0, 0], [cos, sin, 0]], (SAMPLES // 2, 1))
    y = np.tile([[-3.0], [1.5]], (SAMPLES // 2, 1))
    problem = Problem(0, x=x, y=y, decay=decay)
    W = np.array([[0, 0.4, 0], [-1, -1, 0], [-1, -2, 0], [-2, -1, 0]])
    problem.net = TwoLayers(W, [0.4, 0, 0, 0])
    run = problem.flow(3.0, rtol=1e-12)
    assert run.stats["slides"] == 1 and run.stats["releases"] == run.stats["crossings"] == 0
    # The share λ of the positive side decreases to where the pull of the second sample alone vanishes.
    assert 0 <= run.stats["lowest_share"] < run.stats["highest_share"] < 1
    rho = np.sqrt(logistic(sin * 0.4**2, sin / 2, 1.5, decay, 3.0) / sin)
    np.testing.assert_allclose(run.net.W[0], [0, rho, 0], atol=1e-10)
    np.testing.assert_allclose(run.net.a[0], rho, rtol=1e-10)


def test_a_kink_that_other_slides_depend_on_may_be_crossed_after_it_slid():
    """What lies beyond it is then not known before one is there."""
    data_key, label_key, net_key, _ = jax.random.split(jax.random.key(15), 4)
    x = nf.data.single_index(8, 3, key=data_key, link="relu").x
    data = nf.Dataset(x, jax.random.normal(label_key, (8, 1)))
    net = nf.nets.MLP([3, 32, 32, 1], key=net_key, activation="relu", init=nf.nets.Gaussian(0.3))
    run = nf.gradient_flow(net, data, 24.0, save_at=[24.0], certify=True, progress=False)
    assert run.stats["slides"] > 70 and run.stats["most_slides"] > 30
    for name in ("parameter_error", "loss_identity_error", "balance_error"):
        assert run.observed[name][-1] < 1e-5


def test_single_precision_gives_the_same_flow_to_its_digits():
    problem = Problem(0)
    single = lambda tree: jax.tree.map(lambda leaf: leaf.astype(np.float32), tree)
    run = nf.gradient_flow(single(problem.net), single(problem.data), 6.0, rtol=1e-5, progress=False)
    exact = problem.flow(6.0, rtol=RTOL)
    assert all(run.stats[name] == exact.stats[name] for name in ("crossings", "slides", "releases"))
    assert run.net.theta.dtype == np.float32 and distance(run.net.theta, exact.net.theta) < 1e-4
    assert run.stats["largest_h"] < 1e-5


def test_max_steps_ends_a_flow_within_its_pieces():
    run = Problem(4).flow(6.0, rtol=RTOL, max_steps=20, throw=False)
    assert run.status == "max_steps" and 0 < run.end_time < 6
    assert run.stats["steps"] == 20


def test_a_horizon_that_outlives_all_events_is_reached():
    run = Problem(4).flow(1e4, rtol=1e-6)
    assert run.stats["slides"] >= 10 and run.stats["gradient_evaluations"] < 30_000
    assert 0 <= run.stats["lowest_share"] <= run.stats["highest_share"] <= 1
    assert run.stats["largest_h"] < 1e-10


def test_at_a_loose_tolerance_a_stiff_flow_meets_the_same_kinks():
    """Its slides do not end by errors in stiff directions, which are small in the parameters but not in velocities."""
    loose, exact = (Problem(7).flow(1e3, rtol=rtol, max_steps=5_000).stats for rtol in (1e-4, 1e-6))
    assert exact["slides"] >= 7
    assert all(loose[name] == exact[name] for name in ("crossings", "slides", "releases"))


def test_flows_of_one_shape_share_their_compiled_programs(compilations):
    Problem(0, low=0.2, weight=weights(np.random.default_rng(0))).flow(0.1)
    compilations()
    Problem(1, low=-0.5, decay=0.1, mobility=(0.3, 3.0)).flow(0.2, rtol=1e-5)
    assert compilations() == 0
