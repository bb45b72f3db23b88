import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from oracles import relative

from nfa_flow.measure import alignment, balance
from nfa_flow.nets import MLP, Balanced, FanInUniform, Gaussian, LambdaBalanced, Orthogonal

KEY = jax.random.key(0)
EPS = np.finfo(np.float64).eps

# c < d, c > d, c = 1 and d = 1, odd widths, and hidden layers that just hold the rank.
BALANCED = {
    2: [(5, 7, 3), (3, 3, 5), (5, 1, 1), (1, 4, 1)],
    3: [(5, 7, 3, 3), (3, 4, 7, 5)],
    4: [(5, 4, 7, 5, 4), (3, 4, 3, 5, 7)],
    6: [(7, 5, 7, 5, 5, 7, 5)],
}
BALANCED_WIDTHS = [widths for of_depth in BALANCED.values() for widths in of_depth]


def weights(init, widths, key=KEY, dtype=jnp.float64):
    return MLP(widths, key=key, init=init, dtype=dtype).weights


def largest(matrices):
    return max(float(jnp.linalg.norm(M, 2)) for M in matrices)


def product(weights):
    return np.linalg.multi_dot([np.eye(weights[-1].shape[0]), *weights[::-1]])


def assert_deviation(entries, std):
    """The mean square of m normal entries is std² (1 ± √(2/m)); five of these deviations happen once in 10⁶ draws."""
    assert abs(np.mean(np.square(entries)) / std**2 - 1) < 5 * np.sqrt(2 / np.size(entries))


# ── Gaussian ──


def test_gaussian_entries_have_the_scale_over_the_root_of_the_fan_in():
    for W in weights(Gaussian(scale=1.5), (50, 80, 40)):
        assert_deviation(W, 1.5 / np.sqrt(W.shape[1]))
        assert abs(np.mean(W)) < 5 * 1.5 / np.sqrt(W.shape[1] * W.size)


def test_gaussian_layers_of_one_shape_are_independent():
    W_1, W_2 = weights(Gaussian(), (60, 60, 60))
    # The mean of m products of independent entries has the deviation std²/√m.
    assert abs(np.mean(W_1 * W_2)) < 5 / 60 / np.sqrt(W_1.size)


# ── FanInUniform ──


def test_fan_in_uniform_entries_fill_their_bounds_evenly():
    for W in weights(FanInUniform(scale=1.5), (50, 80, 40)):
        bound = 1.5 / np.sqrt(W.shape[1])
        assert np.max(np.abs(W)) <= bound
        # The largest of m entries is within 14/m of the bound but once in 10⁶ draws, as (1 − x)^m < e^{−mx}.
        assert np.max(np.abs(W)) > (1 - 14 / W.size) * bound
        # The square of an entry has the variance 4/45 of bound⁴, less than the 2/9 of a normal one of this deviation.
        assert_deviation(W, bound / np.sqrt(3))
        assert abs(np.mean(W)) < 5 * bound / np.sqrt(3 * W.size)


def test_fan_in_uniform_is_the_law_of_a_linear_layer_of_equinox():
    layer = eqx.nn.Linear(60, 80, key=KEY)
    (W,) = weights(FanInUniform(), (60, 80))
    # Kolmogorov and Smirnov: two samples of m entries are this far apart once in 10⁶ draws.
    apart = scipy.stats.ks_2samp(np.ravel(W), np.ravel(layer.weight), method="asymp")
    assert apart.pvalue > 1e-6


# ── Orthogonal ──


@pytest.mark.parametrize("widths", [(4, 7), (7, 4), (5, 5)], ids=["tall", "wide", "square"])
def test_orthogonal_layers_are_semi_orthogonal_times_the_scale(widths):
    (W,) = weights(Orthogonal(scale=0.3), widths)
    gram = W.T @ W if W.shape[0] >= W.shape[1] else W @ W.T
    np.testing.assert_allclose(gram, 0.09 * np.eye(min(widths)), atol=1e-15)


# ── Balanced ──


@pytest.mark.parametrize("widths", BALANCED_WIDTHS, ids=str)
def test_balanced_layers_are_balanced_to_rounding(widths):
    drawn = weights(Balanced(), widths)
    # Each of W_lᵀW_l and W_lW_lᵀ costs some rounding errors of the largest squared singular value.
    assert largest(balance(MLP(widths, key=KEY, init=Balanced()))) <= 1e-14 * largest(drawn) ** 2


@pytest.mark.parametrize("widths", BALANCED_WIDTHS, ids=str)
def test_the_feature_matrix_of_a_balanced_start_is_the_root_of_the_end_to_end_gram(widths):
    drawn = weights(Balanced(scale=0.7), widths)
    power, P = np.linalg.matrix_power(drawn[0].T @ drawn[0], len(drawn)), product(drawn)
    assert relative(power - P.T @ P, P.T @ P) <= 50 * len(drawn) * EPS


@given(st.integers(0, 2**31), st.floats(-6, 3))
def test_balance_holds_for_every_seed_and_scale(seed, exponent):
    net = MLP((5, 7, 3, 3), key=jax.random.key(seed), init=Balanced(scale=10.0**exponent))
    assert largest(balance(net)) <= 1e-14 * largest(net.weights) ** 2


@pytest.mark.parametrize("widths", [(40, 30, 30), (30, 31, 33, 40)], ids=["c<d", "c>d"])
def test_the_end_to_end_matrix_of_a_balanced_start_has_the_scale_over_the_root_of_the_inputs(widths):
    P = product(weights(Balanced(scale=0.2), widths))
    assert_deviation(P, 0.2 / np.sqrt(widths[0]))


def test_a_single_balanced_layer_is_gaussian():
    (W,) = weights(Balanced(scale=2.0), (40, 30))
    assert_deviation(W, 2.0 / np.sqrt(40))


@pytest.mark.parametrize("depth", [2, 4, 6, 8])
def test_a_balanced_start_satisfies_the_ansatz_in_single_precision(depth):
    # The best that an eigendecomposition of AGOP reaches in float32 is 7e-5, 5e-3, 4e-2, 9e-2 at these depths.
    net = MLP([8, *[9] * (depth - 1), 6], key=KEY, init=Balanced(), dtype=jnp.float32)
    error = alignment(1 / depth, metric="fixed_scale_error")(net, jnp.ones((1, 8), jnp.float32))
    assert error.dtype == jnp.float32
    assert float(error) <= 1e-5


@pytest.mark.parametrize(
    ("widths", "rank"), [((5, 3, 4), 4), ((4, 3, 5), 4), ((6, 9, 2, 9, 3), 3)], ids=["c<d", "c>d", "deep"]
)
def test_a_hidden_layer_narrower_than_the_rank_is_refused(widths, rank):
    with pytest.raises(
        ValueError, match=rf"`widths` must be at least {rank} in every hidden layer.* = {rank}, but was"
    ):
        weights(Balanced(), widths)


# ── LambdaBalanced ──

GROWING = [(5, 3, 3), (4, 3, 5, 5), (5, 3, 4, 4, 7)]
SHRINKING = [widths[::-1] for widths in GROWING]


@pytest.mark.parametrize(
    ("b", "widths"),
    [(b, widths) for b in (0.01, 2.0) for widths in GROWING] + [(-b, w) for b in (0.01, 2.0) for w in SHRINKING],
)
def test_the_balance_of_lambda_balanced_layers_is_b_times_the_identity(b, widths):
    net = MLP(widths, key=KEY, init=LambdaBalanced(b))
    for D in balance(net):
        np.testing.assert_allclose(D, b * np.eye(len(D)), rtol=0, atol=1e-14 * largest(net.weights) ** 2)


@pytest.mark.parametrize(("b", "layer"), [(0.5, 0), (-0.5, -1)])
def test_the_free_layer_of_a_lambda_balanced_start_is_gaussian(b, layer):
    # Drawn from the outputs backwards for b < 0, its standard deviation counts the outputs.
    W = weights(LambdaBalanced(b, scale=0.3), (40, 40, 40))[layer]
    assert_deviation(W, 0.3 / np.sqrt(40))


@pytest.mark.parametrize(
    ("b", "widths", "order"),
    [
        (0.1, (3, 5, 4), "non-decreasing after the input for b > 0"),
        (0.1, (3, 3, 5, 4), "non-decreasing after the input for b > 0"),
        (-0.1, (3, 5, 4), "non-increasing up to the last hidden layer for b < 0"),
    ],
)
def test_widths_that_cannot_hold_a_multiple_of_the_identity_are_refused(b, widths, order):
    with pytest.raises(ValueError, match=f"`widths` must be {order}"):
        weights(LambdaBalanced(b), widths)


# ── All of them ──

INITS = [Gaussian, FanInUniform, Orthogonal, Balanced, lambda scale: LambdaBalanced(0.3, scale)]


@pytest.mark.parametrize("make", INITS)
def test_seeds_and_scales_can_be_batched(make):
    keys, scales = jax.random.split(KEY, 2), jnp.array([0.5, 2.0])
    lanes = jax.vmap(lambda key, scale: weights(make(scale), (4, 5, 5), key))(keys, scales)
    for batch, single in zip(lanes, weights(make(2.0), (4, 5, 5), keys[1]), strict=True):
        np.testing.assert_allclose(batch[1], single, rtol=0, atol=1e-13)


@pytest.mark.parametrize("make", INITS)
def test_the_precision_is_the_one_asked_for(make):
    assert {W.dtype for W in weights(make(jnp.float64(0.5)), (4, 5, 5), dtype=jnp.float32)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("make", INITS)
@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_the_scale_must_be_positive(make, scale):
    with pytest.raises(ValueError, match="`scale` must be a positive number"):
        make(scale)


def test_a_balance_of_zero_is_another_initialization():
    with pytest.raises(ValueError, match="`b` must be non-zero .*`Balanced`"):
        LambdaBalanced(0.0)


@pytest.mark.parametrize("b", [float("nan"), float("-inf")])
def test_the_balance_must_be_finite(b):
    with pytest.raises(ValueError, match="`b` must be a finite number"):
        LambdaBalanced(b)


@pytest.mark.parametrize(("fan_out", "fan_in"), [(5, 5), (7, 3)])
def test_semi_orthogonal_starts_are_the_first_columns_of_the_square_one(fan_out, fan_in):
    (W,) = weights(Orthogonal(), (fan_in, fan_out))
    square = jax.random.orthogonal(jax.random.split(KEY, 1)[0], fan_out)
    np.testing.assert_allclose(W, square[:, :fan_in], atol=10 * EPS)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("init", [Orthogonal(), Balanced(), LambdaBalanced(1.0)])
def test_starts_in_half_precision_are_those_in_single_precision_rounded(init, dtype):
    for half, single in zip(
        weights(init, (3, 4, 5), dtype=dtype), weights(init, (3, 4, 5), dtype=jnp.float32), strict=True
    ):
        assert half.dtype == dtype
        # Gaussian matrices are drawn in single precision for these.
        np.testing.assert_allclose(half.astype(float), single, rtol=2 * float(jnp.finfo(dtype).eps), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "argument"), [({"key": 0}, "key"), ({"init": "gaussian"}, "init"), ({"dtype": int}, "dtype")]
)
def test_a_network_of_wrong_arguments_is_refused(no_type_checks, options, argument):
    with pytest.raises(ValueError, match=f"^`{argument}` must be "):
        MLP((3, 2), **({"key": KEY} | options))
