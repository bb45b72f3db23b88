import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import above, agop_by_definition, balanced_net, linear_net, relative, with_random_biases

from nfa_flow import Dataset
from nfa_flow.measure import agop, alignment, nfm
from nfa_flow.measure.alignment import METRICS
from nfa_flow.nets import MLP, Gaussian

KEY = jax.random.key(0)
N, D = 8, 4
X = jax.random.normal(jax.random.key(1), (N, D))
WEIGHT = jnp.arange(N) / 28
EPS = np.finfo(np.float64).eps

DEFINITIONS = {
    "cosine": lambda N, A: np.sum(N * A) / np.linalg.norm(N) / np.linalg.norm(A),
    "pearson": lambda N, A: np.corrcoef(N.ravel(), A.ravel())[0, 1],
    "relative_error": lambda N, A: np.linalg.norm(N - np.sum(N * A) / np.sum(A * A) * A) / np.linalg.norm(N),
    "fixed_scale_error": lambda N, A: np.linalg.norm(N - A) / np.linalg.norm(N),
    "pearson_off_diagonal": lambda N, A: np.corrcoef(off_diagonal(N), off_diagonal(A))[0, 1],
    "pearson_zero_diagonal": lambda N, A: np.corrcoef(zero_diagonal(N).ravel(), zero_diagonal(A).ravel())[0, 1],
}


def off_diagonal(M):
    return M[~np.eye(len(M), dtype=bool)]


def zero_diagonal(M):
    return M - np.diag(np.diag(M))


def measured(net, x, power, layer=1):
    """Every metric at once, compiled once for all powers and all networks of one shape."""
    return _measured(net, x, jnp.asarray(power), layer)


@eqx.filter_jit
def _measured(net, x, power, layer):
    return {metric: alignment(power, metric=metric, layer=layer)(net, x) for metric in METRICS}


def smooth(width, outputs=2, key=KEY, **options):
    return with_random_biases(MLP((D, width, outputs), key=key, activation="silu", bias=True, **options))


def eigh_power(A, power, rank):
    """A^power through its eigenvalues, and the ratio of the largest to the smallest of the `rank` that are kept."""
    eigenvalues, V = np.linalg.eigh(A)
    eigenvalues, V = eigenvalues[-rank:], V[:, -rank:]
    return (V * eigenvalues**power) @ V.T, eigenvalues[-1] / eigenvalues[0]


# ── What the metrics are ──


@pytest.mark.parametrize("power", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("width", [3, 4, 6], ids=["h<d", "h=d", "h>d"])
def test_every_metric_is_its_definition_on_the_assembled_matrices(width, power):
    net = smooth(width)
    W = np.asarray(net.weights[0])
    brute = np.asarray(agop_by_definition(above(net, 1), X, WEIGHT))
    A, condition = eigh_power(brute, power, min(width, D))
    # An eigenvalue that is κ times smaller than the largest has a relative error of κ rounding errors.
    assert condition < 1e5
    values = measured(net, Dataset(X, X, WEIGHT), power)
    for metric, definition in DEFINITIONS.items():
        np.testing.assert_allclose(values[metric], definition(W.T @ W, A), rtol=0, atol=1e6 * EPS, err_msg=metric)
    power_up = relative(eigh_power(W.T @ W, 1 / power, min(width, D))[0] - brute, brute)
    np.testing.assert_allclose(values["power_up_error"], power_up, rtol=1e6 * EPS)
    assert values.keys() == DEFINITIONS.keys() | {"power_up_error"}


def test_a_deeper_layer_is_the_first_layer_of_what_follows_it():
    net = with_random_biases(MLP((D, 5, D, 2), key=KEY, activation=["tanh", "silu"], bias=True))
    rest = MLP((5, D, 2), key=KEY, activation="silu", bias=True)
    rest = eqx.tree_at(lambda net: net.layers, rest, net.layers[1:])
    deep, first = measured(net, X, 0.5, 2), measured(rest, jax.vmap(lambda x: net.to_layer(2, x))(X), 0.5)
    for metric in METRICS:
        np.testing.assert_allclose(deep[metric], first[metric], rtol=1e-11)


def test_an_equinox_mlp_is_measured_like_ours_with_the_same_weights():
    theirs = eqx.nn.MLP(D, 2, 6, 1, activation=jax.nn.silu, key=KEY)
    ours = eqx.tree_at(lambda net: net.layers, smooth(6), theirs.layers)
    same = measured(ours, X, 0.5)
    for metric, value in measured(theirs, X, 0.5).items():
        np.testing.assert_allclose(value, same[metric], rtol=1e-11)


@given(st.integers(0, 2**31), st.floats(-3, 3), st.floats(0.05, 3))
def test_every_metric_keeps_its_range_and_cosine_and_error_are_the_legs_of_one_triangle(seed, exponent, power):
    net = smooth(6, key=jax.random.key(seed))
    values = measured(net.with_weights([10.0**exponent * W for W in net.weights]), X, power)
    rounding = 100 * EPS
    assert 0 <= values["cosine"] <= 1 + rounding
    assert -1 - rounding <= values["pearson"] <= 1 + rounding
    assert 0 <= values["relative_error"] <= 1 + rounding
    assert values["fixed_scale_error"] >= values["relative_error"] * (1 - rounding)
    np.testing.assert_allclose(values["cosine"] ** 2 + values["relative_error"] ** 2, 1, rtol=rounding)


# ── What they do not see ──


def test_a_rotation_of_the_inputs_changes_only_the_correlation_of_entries():
    net = smooth(6)
    R = jnp.linalg.qr(jax.random.normal(KEY, (D, D)))[0]
    before = measured(net, X, 0.5)
    after = measured(net.with_weights([net.weights[0] @ R.T, net.weights[1]]), X @ R.T, 0.5)
    for metric in ["cosine", "relative_error", "fixed_scale_error"]:
        np.testing.assert_allclose(after[metric], before[metric], rtol=1e-11)
    assert abs(after["pearson"] - before["pearson"]) > 1e-3


@pytest.mark.parametrize("factor", [1e-4, 0.7, 1e3])
def test_the_scale_of_the_output_changes_only_the_error_at_fixed_scale(factor):
    net = smooth(6)
    before = measured(net, X, 0.5)
    after = measured(net.with_weights([net.weights[0], factor * net.weights[1]]), X, 0.5)
    for metric in ["cosine", "pearson", "relative_error"]:
        np.testing.assert_allclose(after[metric], before[metric], rtol=1e-11)
    # A = AGOP^{1/2} is multiplied by the factor.
    A, _ = eigh_power(np.asarray(agop(net, X)), 0.5, D)
    error = DEFINITIONS["fixed_scale_error"](np.asarray(nfm(net)), factor * A)
    np.testing.assert_allclose(after["fixed_scale_error"], error, rtol=1e-9)


# ── The ansatz ──


@pytest.mark.parametrize("depth", [2, 3, 4, 6, 8])
def test_balanced_linear_networks_satisfy_the_ansatz_with_the_inverse_of_their_depth(depth):
    # One layer multiplied on costs some rounding errors; nothing depends on the condition of AGOP.
    net = balanced_net([D, *[5] * (depth - 1), 3])
    values = measured(net, X, 1 / depth)
    assert values["fixed_scale_error"] <= 1e-13
    assert values["relative_error"] <= 1e-13
    np.testing.assert_allclose([values["cosine"], values["pearson"]], 1, rtol=1e-13)


@pytest.mark.parametrize("depth", range(2, 9))
def test_single_precision_satisfies_it_to_single_precision(depth):
    # A product of L matrices is known to some L rounding errors of 6e-8.
    net = balanced_net([D, *[5] * (depth - 1), 3], dtype="float32")
    assert measured(net, X.astype("float32"), np.float32(1 / depth))["fixed_scale_error"] <= 1e-6


def test_the_root_of_an_assembled_agop_would_not_show_it():
    # Zero eigenvalues come out as 1e-17, and their eighth root is 0.8 %: why a factor of AGOP is kept instead.
    net = balanced_net([D, *[5] * 7, 3])
    eigenvalues, V = np.linalg.eigh(agop(net, X))
    root = (V * np.abs(eigenvalues) ** (1 / 8)) @ V.T
    assert relative(root - nfm(net), nfm(net)) > 1e-4


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_layer_of_a_balanced_network_has_the_exponent_of_the_depth_above_it(layer):
    net = balanced_net([D, 5, 5, 3])
    assert measured(net, X, 1 / (4 - layer), layer)["fixed_scale_error"] <= 1e-13


@pytest.mark.parametrize(("epsilon", "cosine"), [(1e-1, 0.39), (1e-2, 0.11), (1e-3, 0.033), (1e-4, 0.010)])
def test_a_relu_network_that_fits_perfectly_can_be_as_far_from_the_ansatz_as_one_likes(epsilon, cosine):
    # f = Σ √y_i relu(√y_i x_i) fits targets y_i at inputs e_i of probability p_i: NFM = diag(y), AGOP = diag(p y²).
    y, p = np.array([epsilon**-0.5, 1.0]), np.array([epsilon**3, 1 - epsilon**3])
    net = MLP((2, 2, 1), key=KEY, activation="relu").with_weights([np.diag(np.sqrt(y)), np.sqrt(y)[None]])
    data = Dataset(np.eye(2), y, p)
    assert jnp.max(jnp.abs(jax.vmap(net)(data.x) - data.y)) <= 4 * EPS * y[0]
    value = measured(net, data, 0.5)["cosine"]
    np.testing.assert_allclose(value, DEFINITIONS["cosine"](np.diag(y), np.diag(np.sqrt(p) * y)), rtol=1e-13)
    assert abs(value - cosine) <= 0.05 * cosine


# ── Its derivative ──


@pytest.mark.parametrize(
    ("net", "power"),
    [
        (smooth(3), 0.3),
        (smooth(6), 0.3),
        (balanced_net([D, 3, 5, 2], seed=3), 1.0),
        (balanced_net([D, 6, 2], seed=4), 0.4),  # at 1/2 the errors vanish, and norms have no derivative at zero
    ],
    ids=["h<d", "h>d", "rank two of three", "rank two of four"],
)
def test_the_derivative_is_that_of_the_value_also_where_eigenvalues_vanish(net, power):
    keys = jax.random.split(KEY, net.depth)
    direction = [0.1 * jax.random.normal(key, W.shape) for key, W in zip(keys, net.weights, strict=True)]
    if power < 1 and jnp.linalg.matrix_rank(net.weights[0]) < min(net.weights[0].shape):
        direction = net.weights  # a root is differentiable only along changes that keep the rank
    moved = lambda t: net.with_weights([W + t * V for W, V in zip(net.weights, direction, strict=True)])
    scores = jax.jit(lambda t, power: measured(moved(t), X, power))
    step = lambda dt, dpower: scores(1e-5 * dt, power + 1e-5 * dpower)
    by_rule = jax.jit(jax.jacrev(scores, argnums=(0, 1)))(0.0, power)
    for argument, along in enumerate([(1, 0), (0, 1)]):
        ahead, behind = step(*along), step(*(-each for each in along))
        for metric in METRICS:
            slope = (ahead[metric] - behind[metric]) / 2e-5
            np.testing.assert_allclose(by_rule[metric][argument], slope, rtol=1e-5, atol=1e-5, err_msg=metric)


# ── Where there is nothing to compare ──


def dead_relu():
    """NFM ≠ 0 but AGOP = 0: no sample reaches a neuron."""
    net = MLP((D, 6, 2), key=KEY, activation="relu", bias=True)
    return eqx.tree_at(lambda net: net.layers[0].bias, net, jnp.full(6, -1e3))


UNDEFINED = {
    "zero weights": linear_net([np.zeros((6, D)), np.zeros((2, 6))]),
    "zero output layer": linear_net([np.ones((6, D)), np.zeros((2, 6))]),
    "vanishing input layer": linear_net([np.full((6, D), 1e-17), np.full((2, 6), 1e10)]),
    "collapsed": linear_net([np.full((6, D), 1e-10), np.full((2, 6), 1e-10)]),
    "dead neurons": dead_relu(),
}


@pytest.mark.parametrize("case", UNDEFINED)
def test_a_relation_between_vanishing_matrices_is_undefined(case):
    assert all(np.isnan(value) for value in measured(UNDEFINED[case], X, 0.5).values())


def test_a_centered_agop_that_vanishes_makes_every_metric_undefined():
    weight = np.random.default_rng(0).uniform(size=len(X))
    data = Dataset(X, jnp.zeros(len(X)), jnp.asarray(weight / weight.sum()))
    for metric in METRICS:  # behind the last layer comes nothing: its Jacobian is the same for all samples
        assert np.isnan(alignment(0.5, metric=metric, layer=2, centered=True)(smooth(6), data)), metric


def test_the_correlation_with_equal_entries_is_undefined_but_the_cosine_is_not():
    # .7 · .7 = .48999… is not representable, so the variance of these entries is not exactly zero.
    values = measured(linear_net([np.full((1, D), 0.7), np.full((1, 1), 0.3)]), X, 0.5)
    assert np.isnan(values["pearson"])
    np.testing.assert_allclose(values["cosine"], 1, rtol=1e-14)


# ── As an observable ──


def test_lanes_of_networks_and_powers_agree_with_one_at_a_time_also_beside_an_undefined_one():
    nets = [smooth(6), smooth(6, key=jax.random.key(5)), jax.tree.map(jnp.zeros_like, smooth(6))]
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
    powers = jnp.array([0.5, 0.3, 0.5])
    batch = eqx.filter_jit(eqx.filter_vmap(lambda net, power: measured(net, X, power)))(lanes, powers)
    for lane in (0, 1):
        single = measured(nets[lane], X, powers[lane])
        for metric in METRICS:
            np.testing.assert_allclose(batch[metric][lane], single[metric], rtol=1e-11)
    assert all(np.isnan(values[2]) for values in batch.values())


def test_compiled_and_not_compiled_agree():
    observable = alignment(0.5, metric="relative_error")
    np.testing.assert_allclose(eqx.filter_jit(observable)(smooth(6), X), observable(smooth(6), X), rtol=1e-11)


def test_large_powers_neither_overflow_nor_underflow_the_scale_free_metrics():
    # AGOP = diag(1e-12, 1e-16) to the power 40 is below the smallest number; only its first direction is left.
    net = linear_net([np.diag([1e-2, 1e-4]), np.diag([1e-4, 1e-4])])
    np.testing.assert_allclose(measured(net, X[:, :2], 40.0)["cosine"], 1, rtol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(power=0.0), "`power` must be a positive number, but was 0"),
        (dict(power=-0.5), "`power` must be a positive number, but was -0.5"),
        (dict(power=float("nan")), "`power` must be a positive number, but was nan"),
        (dict(power=float("inf")), "`power` must be a positive number, but was inf"),
        (dict(metric="cosin"), '`metric` must be one of "cosine", "pearson", .* but was \'cosin\''),
        (dict(layer=0), "`layer` must be a whole number of at least 1, but was 0"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        alignment(**({"power": 0.5} | arguments))


@pytest.mark.parametrize(
    ("net", "layer", "message"),
    [
        (smooth(6), 3, "`layer` must be at most the number of layers, 2, but was 3"),
        (eqx.nn.MLP(D, 2, 6, 1, key=KEY), 3, "`layer` must be at most the number of layers, 2, but was 3"),
        (eqx.nn.Lambda(jax.nn.relu), 1, "`net` must be a network with an `equinox.nn.Linear` or `Conv`"),
    ],
)
def test_a_network_without_that_layer_is_refused(net, layer, message):
    with pytest.raises(ValueError, match=message):
        alignment(0.5, layer=layer)(net, X)


def test_small_networks_are_not_undefined():
    """Six float32 layers of a small start have a Jacobian below machine epsilon, and relations as good as any."""
    low = MLP([4] * 7, key=jax.random.key(0), init=Gaussian(0.05), dtype="float32")
    high = MLP([4] * 7, key=jax.random.key(0)).with_weights([np.asarray(W, float) for W in low.weights])
    x = jnp.zeros((1, 4))
    assert jnp.linalg.norm(low.affine()[0]) < jnp.finfo("float32").eps
    np.testing.assert_allclose(alignment(1 / 2)(low, x), alignment(1 / 2)(high, x), rtol=1e-4)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_vanishing_layer_makes_the_alignment_undefined(layer):
    """Where one layer is zero, so is AGOP: whatever the other layers are."""
    network = MLP([3, 4, 4, 2], key=jax.random.key(0))
    weights = [0 * W if i == layer - 1 else W for i, W in enumerate(network.weights)]
    assert jnp.isnan(alignment(1 / 3)(network.with_weights(weights), jnp.zeros((1, 3))))
