"""Pieces of the label-noise experiment, on networks and datasets whose scores are known; the study runs it whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import xarray

import nfa_flow as nf
from nfa_flow.data import Dataset
from nfa_flow.studies.intervals import bootstrap
from nfa_flow.studies.nfa import label_noise
from nfa_flow.studies.nfa.label_noise import FIT, GELU, LABEL_NOISE, LINEAR, SCORES, TRAININGS, at_fit, compare

PAIR = label_noise.PAIRS[0]


@pytest.fixture(scope="module")
def data():
    return nf.data.multi_index(40, 6, 2, key=jax.random.key(0))


def gelu_network(first):
    """A GELU network with these weights of the first layer, k × 6."""
    net = nf.nets.MLP([6, len(first), 1], key=jax.random.key(1), activation="gelu")
    return net.with_weights([first, net.weights[1]])


def index_angle(net, data, of):
    return float(label_noise.largest_angle(net, data, of))


@pytest.mark.parametrize("of", ["nfm", "agop"])
def test_a_network_that_sees_the_index_space_only_has_an_angle_of_zero(data, of):
    coordinates = jax.random.normal(jax.random.key(2), (8, 2))
    assert index_angle(gelu_network(coordinates @ data.index.T), data, of) < 1e-6


@pytest.mark.parametrize("of", ["nfm", "agop"])
def test_a_network_that_sees_the_other_directions_only_has_a_right_angle(data, of):
    others = scipy.linalg.null_space(np.asarray(data.index).T)
    coordinates = jax.random.normal(jax.random.key(2), (8, 4))
    assert index_angle(gelu_network(coordinates @ others.T), data, of) == pytest.approx(90, abs=1e-6)


def test_the_angle_is_the_largest_of_those_to_the_leading_eigenvectors(data):
    net = gelu_network(jax.random.normal(jax.random.key(2), (8, 6)))
    leading = np.linalg.eigh(net.weights[0].T @ net.weights[0])[1][:, -2:]
    expected = np.degrees(scipy.linalg.subspace_angles(leading, np.asarray(data.index)).max())
    assert index_angle(net, data, "nfm") == pytest.approx(expected, abs=1e-6)


def test_nothing_is_left_unfitted_by_least_squares_and_all_of_it_by_zero():
    noisy = nf.data.linear_teacher(40, 6, 3, key=jax.random.key(0), noise=1.0)
    best = np.linalg.lstsq(np.asarray(noisy.x), np.asarray(noisy.y))[0].T
    net = nf.nets.MLP([6, 3], key=jax.random.key(1))
    shares = [float(label_noise.unfitted(net.with_weights([c * best]), noisy, is_linear=True)) for c in (0, 0.5, 1)]
    np.testing.assert_allclose(shares, [1, 0.25, 0], atol=1e-12)  # the excess loss is quadratic


def test_what_a_nonlinear_network_leaves_is_measured_from_an_exact_fit(data):
    net = gelu_network(jnp.ones((8, 6)))
    own = Dataset(data.x, jax.vmap(net)(data.x))
    nothing = net.with_weights([net.weights[0], 0 * net.weights[1]])
    assert float(label_noise.unfitted(net, own, is_linear=False)) == pytest.approx(0, abs=1e-12)
    assert float(label_noise.unfitted(nothing, own, is_linear=False)) == pytest.approx(1, abs=1e-12)


def dataset(left, scores, cases):
    """A sweep without its runs: `left` and each score by case × noise × seed × time."""
    dims = ("case", "noise", "seed", "time")
    shape = np.shape(left)
    variables = {"unfitted": (dims, np.array(left, float))}
    variables |= {name: (dims, np.array(scores.get(name, np.zeros(shape)), float)) for name in SCORES}
    variables["status"] = (dims[:3], np.full(shape[:3], "completed"))
    noise = [0.0, 0.5, 1.0][: shape[1]]
    return xarray.Dataset(variables, coords={"case": cases, "noise": noise, "seed": np.arange(shape[2])})


def test_scores_are_taken_where_the_share_is_first_left():
    left = [[[[1, 2 * FIT, 0, 2 * FIT], [1, 0.9, 0.8, 0.7], [1, FIT, 0, 0]]]]
    scores = {"test": [[[[0, 1, 2, 3], [0, 1, 2, 3], [5, 6, 7, 8]]]]}
    found = at_fit(dataset(left, scores, [f"{GELU}: exact flow"]), GELU)["test"]
    assert list(found["training"].values) == list(TRAININGS)
    np.testing.assert_allclose(found.sel(training="exact flow", noise=0), [1.5, np.nan, 6])
    assert found.drop_sel(training="exact flow").isnull().all()


def test_runs_that_ended_early_count_where_they_had_fitted_before():
    left = [[[[1, 0, np.nan], [1, np.nan, np.nan]]]]
    scores = {"test": [[[[4, 4, np.nan], [4, np.nan, np.nan]]]]}
    found = at_fit(dataset(left, scores, [f"{LINEAR}: GD .1"]), LINEAR)["test"].sel(training="GD .1", noise=0)
    np.testing.assert_allclose(found, [4, np.nan])


def test_untrained_scores_are_those_of_gaussian_networks():
    left, score = np.ones((3, 1, 2, 2)), np.arange(12).reshape(3, 1, 2, 2)
    cases = [f"{LINEAR}: exact flow", f"{LINEAR}: {label_noise.UNTRAINED}", f"{GELU}: exact flow"]
    runs = dataset(left, {"test": score}, cases)
    np.testing.assert_array_equal(label_noise.untrained(runs, LINEAR, "test"), [4, 6])
    np.testing.assert_array_equal(label_noise.untrained(runs, GELU, "test"), [8, 10])


def spread(without, change, seeds=12):
    """A score without noise and with it, where its change varies by a tenth over the seeds."""
    return np.stack([np.full(seeds, without), without + change * np.linspace(0.95, 1.05, seeds)])


@pytest.mark.parametrize(
    ("momentum", "adam", "steadier"),
    [(3.0, 1.0, "Adam"), (-3.0, 1.0, "Adam"), (1.0, 3.0, "SGD momentum"), (1.0, -3.0, "SGD momentum")],
)
def test_the_training_under_which_a_score_changes_less_is_the_steadier(momentum, adam, steadier):
    found = compare(PAIR, spread(5.0, momentum), spread(7.0, adam))
    assert found.steadier == steadier
    # |3| − |1| with changes that are a twentieth off at most.
    assert np.median(found.gain) == pytest.approx(np.sign(found.low) * 2, abs=0.1)
    np.testing.assert_allclose(found.levels, [[5, 5 + momentum], [7, 7 + adam]], rtol=1e-12)


def test_trainings_that_take_turns_are_told_apart_by_neither():
    low, high = spread(0.0, 1.0), spread(0.0, 2.0)
    turns = np.arange(12) % 2 == 0
    found = compare(PAIR, np.where(turns, low, high), np.where(turns, high, low))
    assert found.steadier == "neither" and found.low < 0 < found.high


def test_only_seeds_with_both_scores_make_a_pair():
    momentum, adam = np.array([[0, 0, np.nan], [3, 9, 9]]), np.array([[0, 0, 0], [1, np.nan, 1]])
    np.testing.assert_array_equal(compare(PAIR, momentum, adam).gain, [2])
    nothing = compare(PAIR, momentum[:, 1:], adam[:, 1:])
    assert nothing.gain.size == 0 and nothing.steadier == "neither" and np.isnan(nothing.low)


def test_pairs_are_compared_at_the_given_noise():
    score = np.zeros((2, 3, 4, 2))
    score[0, 1:] = 2.0  # SGD momentum: 0 → 2 → 2
    score[1, 1], score[1, 2] = 1.0, 5.0  # Adam: 0 → 1 → 5
    score = np.concatenate([score, score[:1]])
    left = np.broadcast_to([1.0, FIT], score.shape)
    cases = [*(f"{GELU}: {name}" for name in PAIR), f"{LINEAR}: {label_noise.FLOW}"]
    runs = LABEL_NOISE.derive(dataset(left, {"nfm_angle": score}, cases))
    compared = [label_noise.comparisons(runs, GELU, "nfm_angle", noise) for noise in (0.5, 1.0)]
    verdicts = [[each.steadier for each in pairs] for pairs in compared]
    assert verdicts == [["Adam"], ["SGD momentum"]]  # and nothing for the pair without runs


def test_the_bootstrap_interval_is_as_wide_as_the_error_of_a_median():
    values = np.random.default_rng(1).normal(3.0, 1.0, 1_000)
    low, high = bootstrap(values)
    assert low < np.median(values) < high
    # The median of n normal values has a standard deviation of (π/2n)^{1/2}; of its estimate, by the density around the
    # median of a sample, n^{-1/4} is the relative error.
    assert high - low == pytest.approx(2 * 1.96 * (np.pi / 2_000) ** 0.5, rel=2 * 1_000**-0.25)
    assert bootstrap(np.full(5, 2.0)) == (2.0, 2.0)


def test_networks_that_can_fit_any_labels_have_more_parameters_than_samples():
    widths = label_noise.PROBLEMS[GELU].widths
    assert sum(a * b for a, b in zip(widths[1:], widths[:-1], strict=True)) > label_noise._SAMPLES
