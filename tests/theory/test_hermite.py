from math import factorial, sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial.hermite_e import hermeval
from scipy.stats import norm

import nfa_flow as nf
from nfa_flow.theory import hermite, hermite_series, information_exponent
from nfa_flow.theory.hermite import monomials_in_hermite, normalized_hermite

# Rounding of some thousand terms of order one.
EXACT = {"rtol": 1e-12, "atol": 1e-13}
# A kink within a panel counts for the square of the panel's width, whose last one is at most 1e-7 wide.
KINK = {"rtol": 1e-7, "atol": 1e-12}


def shifted_relu(b):
    """c_0 … c_6 and E[f²] of max(z − b, 0)."""
    density, above = norm.pdf(b), norm.sf(b)
    c = [density - b * above, above]
    c += [hermeval(b, np.eye(k - 1)[k - 2]) * density / factorial(k) for k in range(2, 7)]
    return np.array(c), (1 + b**2) * above - b * density


@pytest.mark.parametrize("b", [0.0, 0.3, -1 / 3, 2.7])
def test_kinks_may_be_anywhere(b):
    found = hermite(lambda z: jax.nn.relu(z - b), max_order=6)
    c, square = shifted_relu(b)
    np.testing.assert_allclose(found.coefficients, c, **EXACT)
    np.testing.assert_allclose(found.square, square, **EXACT)
    np.testing.assert_allclose(found.slope_square, norm.sf(b), **(KINK if b else EXACT))


def test_a_jump_may_be_anywhere():
    b = 0.7
    found = hermite(lambda z: jnp.where(z > b, 1.0, 0.0), max_order=2)
    # The last panel with the jump is of width 1e-14 at most.
    np.testing.assert_allclose(found.coefficients, [norm.sf(b), norm.pdf(b), b * norm.pdf(b) / 2], atol=1e-13)


def test_smooth_functions_have_their_closed_forms():
    found = hermite(jnp.exp, max_order=10)
    np.testing.assert_allclose(found.coefficients, [np.exp(0.5) / factorial(k) for k in range(11)], **EXACT)
    np.testing.assert_allclose([found.square, found.slope_square], [np.exp(2), np.exp(2)], **EXACT)
    assert found.error < 1e-13
    erf = hermite("erf", max_order=1)
    np.testing.assert_allclose(erf.coefficients, [0, 2 / sqrt(3 * np.pi)], **EXACT)
    np.testing.assert_allclose(erf.square, 2 / np.pi * np.arcsin(2 / 3), **EXACT)


def test_moments_are_sums_over_the_coefficients():
    # sin and cos have c_k² k! = e^−1/k!, so forty orders are all.
    found = hermite(lambda z: jnp.sin(z) + jnp.cos(z), max_order=40)
    k = np.arange(41)
    squares = found.coefficients**2 * [float(factorial(i)) for i in k]
    np.testing.assert_allclose(found.square, squares.sum(), **EXACT)
    np.testing.assert_allclose(found.variance, squares[1:].sum(), **EXACT)
    np.testing.assert_allclose(found.nonlinear, squares[2:].sum(), **EXACT)
    np.testing.assert_allclose(found.slope_square, k @ squares, **EXACT)
    np.testing.assert_allclose(found.slope_variance, k[2:] @ squares[2:], **EXACT)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "softplus", "gelu", "silu"])
def test_activations_whose_odd_part_is_linear_have_no_third_order(name):
    found = hermite(name)
    assert [found.has(k) for k in (1, 2, 3, 4)] == [True, True, False, True]


@pytest.mark.parametrize("name", ["tanh", "erf", "sigmoid"])
def test_odd_activations_have_no_second_order(name):
    found = hermite(name)
    assert [found.has(k) for k in (1, 2, 3, 4)] == [True, False, True, False]


def test_a_series_is_the_function_of_its_coefficients():
    series, z = hermite_series([0.5, 1, 0, 0.25]), np.linspace(-3, 3, 7)
    np.testing.assert_allclose(series(z), 0.5 + z + 0.25 * (z**3 - 3 * z), rtol=1e-13, atol=1e-13)
    exact, by_quadrature = hermite(series), hermite(lambda z: series(z))
    np.testing.assert_allclose(by_quadrature.coefficients, exact.coefficients, **EXACT)
    np.testing.assert_allclose(by_quadrature.square, exact.square, **EXACT)
    np.testing.assert_allclose(by_quadrature.slope_square, exact.slope_square, rtol=1e-11)
    assert exact.coefficients[3] == 0.25 and repr(series) == "HermiteSeries(coefficients=(0.5, 1.0, 0.0, 0.25))"


def test_equal_series_are_one_activation_and_one_link(compilations):
    z = jnp.ones(3, jnp.float32)
    first, again = hermite_series([0, 1, 2]), hermite_series([0, 1, 2])
    applied = jax.jit(lambda f, z: f(z), static_argnums=0)
    assert applied(first, z).dtype == jnp.float32
    compilations()
    applied(again, z)
    assert compilations() == 0
    data = nf.data.single_index(5, 3, key=jax.random.key(0), link=first)
    u = (data.x @ data.index)[:, 0]
    np.testing.assert_allclose(data.y[:, 0], u + 2 * (u**2 - 1), rtol=1e-12)


@pytest.mark.parametrize("coefficients, exponent", [([0, 1, 2], 1), ([3, 0, 0, 1], 3), ([1], None), ([0, 1e-12, 1], 2)])
def test_information_exponent_is_the_first_order_that_counts(coefficients, exponent):
    assert information_exponent(hermite(hermite_series(coefficients))) == exponent


def test_powers_in_hermite_polynomials():
    z, H = np.linspace(-2, 2, 5), monomials_in_hermite(6)
    scale = np.sqrt([float(factorial(k)) for k in range(7)])
    np.testing.assert_allclose((H * scale) @ normalized_hermite(z, 6), [z**j for j in range(7)], rtol=1e-12, atol=1e-12)


def test_coefficients_are_float64_also_in_float32_and_inside_jit():
    exact = hermite("tanh").coefficients
    with jax.enable_x64(False):
        np.testing.assert_array_equal(hermite("tanh").coefficients, exact)
        traced = jax.jit(lambda x: x * hermite("tanh").coefficients[1])(1.0)
    np.testing.assert_allclose(traced, exact[1], rtol=1e-6)


def test_the_zero_function_has_no_coefficients():
    zero = hermite(lambda z: 0 * z, max_order=3)
    assert not zero.coefficients.any() and zero.square == 0 and information_exponent(zero) is None


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda z: jnp.exp(z**2 / 4), "of finite E"),
        (jnp.log, r"`function\(z\)` must be finite everywhere"),
        (lambda z: jnp.sin(1e5 * z), "piecewise smooth"),
        (lambda z: z[:1], "a function of an array, elementwise"),
        ("rleu", "one of"),
        (3, "`function` must be a name or a function"),
        (lambda z: 1 / 0, "`function` must be a function of an array, .* raises ZeroDivisionError: division by zero"),
    ],
)
def test_functions_without_coefficients_are_refused(no_type_checks, function, message):
    with pytest.raises(ValueError, match=message):
        hermite(function)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="`max_order` must be a whole number of at least 1"):
        hermite("relu", max_order=0)
    with pytest.raises(ValueError, match="`order` must be at most 2"):
        hermite("relu", max_order=2).has(3)
    for coefficients in ([], [[1.0]], [np.nan]):
        with pytest.raises(ValueError, match="`coefficients` must be"):
            hermite_series(coefficients)


@pytest.mark.parametrize("low, high", [(0.21, 0.23), (0.22, 0.26), (-3.141, -3.13)])
def test_a_narrow_bump_is_seen(low, high):
    found = hermite(lambda z: jnp.where((z > low) & (z < high), 1.0, 0.0))
    assert found.coefficients[0] == pytest.approx(norm.cdf(high) - norm.cdf(low), rel=1e-9)


RELU, S = hermite("relu"), np.eye(3)


@pytest.mark.parametrize(
    "argument, call",
    [
        ("expansion", lambda: information_exponent("relu")),
        ("activation", lambda: nf.theory.feature_bulk_edge(1.0, 1.0, "relu")),
        ("activation", lambda: nf.theory.feature_outliers(S, 1.0, 1.0, jnp.tanh)),
        ("S", lambda: nf.theory.feature_outliers([[1.0], 2.0], 1.0, 1.0, RELU)),
        ("activation", lambda: nf.theory.spike_orders(0.3, None)),
        ("orders", lambda: nf.theory.spike_sizes(1.0, RELU, 1.0, 10, None)),
        ("teacher", lambda: nf.theory.gradient_direction("relu", 1.0)),
        ("direction", lambda: nf.theory.spike_matrix("relu", 1.0, None, 10)),
        ("activation", lambda: nf.theory.spike_matrix(jnp.reciprocal, 1.0, nf.theory.GradientDirection(1.0, 0.5), 10)),
        ("activation", lambda: nf.theory.resolvent_traces(1.0, 1.0, 1.0, "relu")),
        ("teacher", lambda: nf.theory.ridge_losses(1.0, 1.0, 1.0, RELU, None)),
        ("direction", lambda: nf.theory.ridge_losses(1.0, 1.0, 1.0, RELU, nf.theory.hermite("tanh"), direction=1.0)),
        ("teacher", lambda: nf.theory.linear_losses(1.0, 1.0, S)),
        ("agop", lambda: nf.theory.diagonal_cosine([1.0, 2.0], [1.0], 0.5)),
        ("width", lambda: nf.one_step.two_layer_net(3, 0, "relu", key=jax.random.key(0))),
    ],
)
def test_what_is_no_expansion_or_direction_is_named(argument, call, no_type_checks):
    with pytest.raises(ValueError, match=rf"`{argument}(\(z\))?` must be"):
        call()
