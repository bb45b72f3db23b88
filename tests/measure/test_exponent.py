import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import balanced_net, linear_net, with_random_biases

from nfa_flow import Dataset
from nfa_flow.measure import agop, fit_exponent, nfm
from nfa_flow.nets import MLP
from nfa_flow.theory import lambda_balanced_nfm

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (8, 4))
fit = eqx.filter_jit(fit_exponent)


def orthonormal(size, seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def balanced_with(singular, depth):
    """A balanced network whose end-to-end matrix has these singular values."""
    bases = [orthonormal(len(singular), seed) for seed in range(depth + 1)]
    root = np.asarray(singular) ** (1 / depth)
    return linear_net([(after * root) @ before.T for before, after in zip(bases[:-1], bases[1:], strict=True)])


@pytest.mark.parametrize(
    ("depth", "widths"), [(2, (4, 5, 3)), (3, (3, 4, 5, 4)), (4, (4, 3, 3, 5, 3)), (8, (4, *[5] * 7, 3))]
)
def test_balanced_linear_networks_have_the_inverse_of_their_depth_with_constant_one(depth, widths):
    # Logarithms of eigenvalues with some rounding errors, over a range of about one.
    exponent, log_constant, residual, directions, *_ = fit(balanced_net(widths), X[:, : widths[0]])
    np.testing.assert_allclose(exponent, 1 / depth, rtol=1e-12)
    np.testing.assert_allclose([log_constant, residual], 0, atol=1e-12)
    assert directions == 3 == min(widths[0], widths[-1])


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_layer_of_a_balanced_network_has_the_inverse_of_the_depth_above_it(layer):
    np.testing.assert_allclose(fit_exponent(balanced_net((4, 5, 5, 3)), X, layer=layer)[0], 1 / (4 - layer), rtol=1e-12)


@pytest.mark.parametrize("k", [0.0, 0.5, 3.0])
def test_a_power_law_between_diagonal_layers_is_found_with_its_constant(k):
    # W_1 = diag(a), W_2 = 2 diag(a^k): NFM = a² and AGOP = 4a^{2+2k}, so NFM = (AGOP/4)^{1/(1+k)}.
    a = np.array([0.3, 1.0, 1.7, 4.0])
    exponent, log_constant, residual, directions, *_ = fit(linear_net([np.diag(a), 2 * np.diag(a**k)]), X)
    np.testing.assert_allclose(exponent, 1 / (1 + k), rtol=1e-13)
    np.testing.assert_allclose(log_constant, -np.log(4) / (1 + k), rtol=1e-13)
    np.testing.assert_allclose(residual, 0, atol=1e-13)
    assert directions == 4


@pytest.mark.parametrize("b", [1e-9, 0.1, 1.0, 10.0, 1e9])
def test_lambda_balanced_layers_bend_the_law_as_theory_says(b):
    a = np.array([0.3, 1.0, 1.7, 4.0])
    W_1, W_2 = np.diag(a), np.diag(np.sqrt(a**2 + b))
    exponent, log_constant, residual, *_ = fit(linear_net([W_1, W_2]), X)
    log_agop, log_nfm = np.log(np.diag(W_2 @ W_1) ** 2), np.log(np.diag(lambda_balanced_nfm(W_2 @ W_1, b)))
    line = np.polyfit(log_agop, log_nfm, 1)
    # At b = 1e9 theory subtracts b from √(b² + …): the reference, not the fit, is known to a few 1e-13.
    np.testing.assert_allclose([exponent, log_constant], line, rtol=1e-11, atol=1e-11)
    distance = np.sqrt(np.mean((log_nfm - np.polyval(line, log_agop)) ** 2))
    np.testing.assert_allclose(residual, distance, atol=1e-11)
    if b in (1e-9, 1e9):  # the two limits of the exponent, reached to 1e-8
        np.testing.assert_allclose(exponent, 0.5 if b < 1 else 1.0, atol=1e-7)
    else:
        assert 0.5 < exponent < 1


def test_a_network_that_reverses_the_order_has_a_negative_exponent():
    # f = Σ √y_i relu(√y_i x_i) at inputs e_i of probability p_i: NFM = diag(y) and AGOP = diag(p y²).
    y, p = np.array([2.0, 1.0]), np.array([0.1, 0.9])
    net = MLP((2, 2, 1), key=KEY, activation="relu").with_weights([np.diag(np.sqrt(y)), np.sqrt(y)[None]])
    np.testing.assert_allclose(fit(net, Dataset(np.eye(2), y, p))[0], np.log(2) / np.log(0.4 / 0.9), rtol=1e-13)


def test_the_fit_is_the_regression_over_the_eigenvectors_of_agop():
    net = with_random_biases(MLP((4, 6, 3), key=KEY, activation="silu", bias=True))
    eigenvalues, V = np.linalg.eigh(agop(net, X))
    assert eigenvalues[-1] / eigenvalues[0] < 1e5  # so that eigh knows all of them to 1e5 rounding errors
    line = np.polyfit(np.log(eigenvalues), np.log(np.diag(V.T @ nfm(net) @ V)), 1)
    np.testing.assert_allclose(fit(net, X)[:2], line, rtol=1e-9)


# ── Directions that count, and those that do not ──


def test_eigenvalues_four_decades_below_rounding_are_still_used():
    # AGOP has the eigenvalues 1 … 1e-20. A singular value of 1e-10 is known to 1e-16/1e-10 = 1e-6 of itself, times a
    # factor of order ten for three products, and the logarithms range over 46.
    exponent, _, _, directions, *_ = fit(balanced_with([1.0, 1e-3, 1e-6, 1e-10], 3), X)
    assert directions == 4
    np.testing.assert_allclose(exponent, 1 / 3, atol=1e-5 / 46)


def test_singular_values_at_rounding_level_are_left_out():
    exponent, _, _, directions, *_ = fit(balanced_with([1.0, 1e-2, 1e-4, 1e-15], 3), X)
    assert directions == 3
    np.testing.assert_allclose(exponent, 1 / 3, rtol=1e-11)


@pytest.mark.parametrize(
    ("net", "directions"),
    [
        (balanced_net((4, 5, 1)), 1),
        (linear_net([np.eye(4), 2 * np.eye(4)]), 4),
        (balanced_with([0.7] * 4, 3), 4),
        (linear_net([np.zeros((5, 4)), np.zeros((3, 5))]), 0),
        (linear_net([np.ones((5, 4)), np.zeros((3, 5))]), 0),
        (linear_net([np.full((5, 4), 1e-10), np.full((3, 5), 1e-10)]), 0),
    ],
    ids=["rank one", "one eigenvalue", "one eigenvalue with rounding", "zero", "zero output layer", "collapsed"],
)
def test_a_slope_through_less_than_two_eigenvalues_is_undefined(net, directions):
    result = fit(net, X)
    assert np.isnan(result.exponent) and np.isnan(result.log_constant) and np.isnan(result.residual)
    assert result.directions == directions


# ── As an observable ──


def test_lanes_agree_with_one_at_a_time_also_beside_an_undefined_one():
    nets = [MLP((4, 6, 3), key=jax.random.key(seed), activation="silu") for seed in (0, 1)]
    nets.append(jax.tree.map(jnp.zeros_like, nets[0]))
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
    batch = eqx.filter_jit(eqx.filter_vmap(lambda net: fit_exponent(net, X)))(lanes)
    single = fit(nets[1], X)
    np.testing.assert_allclose([value[1] for value in batch], list(single), rtol=1e-10)
    assert np.isnan(batch.exponent[2]) and batch.directions[2] == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_fit_has_the_precision_of_the_network(dtype):
    # In single precision a rounding error is 6e-8, and some tens of them add up.
    result = fit(balanced_net((4, 5, 3), dtype=dtype), X.astype(dtype))
    assert result.exponent.dtype == dtype
    np.testing.assert_allclose(result.exponent, 1 / 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("net", "layer", "message"),
    [
        (balanced_net((4, 5, 3)), 0, "`layer` must be a whole number of at least 1, but was 0"),
        (balanced_net((4, 5, 3)), 3, "`layer` must be at most the number of layers, 2, but was 3"),
        (eqx.nn.MLP(4, 2, 6, 1, key=KEY), 3, "`layer` must be at most the number of layers, 2, but was 3"),
        (eqx.nn.Lambda(jax.nn.relu), 1, "`net` must be a network with an `equinox.nn.Linear` or `Conv`"),
    ],
)
def test_a_wrong_argument_is_named(net, layer, message):
    with pytest.raises(ValueError, match=message):
        fit_exponent(net, X, layer=layer)
