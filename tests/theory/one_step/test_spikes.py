import warnings

import jax
import numpy as np
import pytest

from nfa_flow.theory import (
    gradient_direction,
    hermite,
    hermite_series,
    spike_boundaries,
    spike_orders,
    spike_sizes,
)

TEACHER = hermite(hermite_series([0, 1, 0.5**0.5]))
RELU = hermite("relu")
# An activation that has every order.
GENERAL = hermite(lambda z: jax.nn.relu(z - 0.5), max_order=20)


def test_spikes_appear_at_the_boundaries():
    np.testing.assert_allclose(spike_boundaries(4), [0, 1 / 4, 1 / 3, 3 / 8, 2 / 5], rtol=1e-15)
    for count, (low, high) in enumerate(zip(spike_boundaries(9), spike_boundaries(10)[1:], strict=True), start=1):
        for alpha in (low + 1e-6, (low + high) / 2, high - 1e-6):
            assert spike_orders(alpha, GENERAL) == tuple(range(1, count + 1))


@pytest.mark.parametrize("name", ["relu", "softplus", "gelu"])
def test_an_order_without_coefficient_has_no_spike(name):
    activation = hermite(name)
    assert spike_orders(0.3, activation) == (1, 2)
    assert spike_orders(0.36, activation) == (1, 2)  # three, were c_3 not 0
    assert spike_orders(0.39, activation) == (1, 2, 4)
    assert spike_orders(0.36, hermite("tanh")) == (1, 3)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1 / 3, 0.375, 0.4, 0.5, 0.6, -0.1])
def test_where_the_count_is_undefined_the_boundaries_are_told(alpha):
    with pytest.raises(
        ValueError, match=r"`alpha` must be .* 0 < α < 1/4 for 1, 1/4 < α < 1/3 for 2, 1/3 < α < 3/8 for 3"
    ):
        spike_orders(alpha, RELU)


def test_the_boundaries_beside_alpha_are_among_those_told():
    with pytest.raises(ValueError, match="2/5 < α < 5/12 for 5, 5/12 < α < 3/7 for 6"):
        spike_orders(5 / 12, RELU)


def test_more_spikes_than_computed_orders_ask_for_more():
    with pytest.raises(ValueError, match="`activation` must be expanded to order 24 for α = 0.4795"):
        spike_orders(0.4795, RELU)


@pytest.mark.parametrize("own_output", [False, True])
def test_the_gradient_is_what_it_is_in_the_limit(own_output):
    # Drawn as the theory says: r independent of the rows but through W_0ᵀa, E[r²] fixed, over many draws.
    direction = gradient_direction(TEACHER, 0.3, noise=0.5, activation=RELU, own_output=own_output)
    variance = 0.5 - 1 / (2 * np.pi)
    residual = 2 + 0.25 + own_output * variance
    square = 1 + own_output * 0.25 + 0.3 * residual
    np.testing.assert_allclose(direction.norm, square**0.5, rtol=1e-12)
    np.testing.assert_allclose(direction.cosine, square**-0.5, rtol=1e-12)
    np.testing.assert_allclose(direction.own, own_output * 0.5 * square**-0.5, rtol=1e-12)
    # The slope of a ReLU is 0 or 1, of variance 1/4.
    np.testing.assert_allclose(direction.scatter, (0.3 * residual / 4) ** 0.5 / (0.5 * square**0.5), rtol=1e-12)


def test_without_an_activation_the_direction_is_that_of_the_source():
    direction = gradient_direction(TEACHER, 0.3, noise=0.5)
    with_scatter = gradient_direction(TEACHER, 0.3, noise=0.5, activation=RELU, own_output=False)
    assert direction[:3] == with_scatter[:3] and direction.scatter == 0 < with_scatter.scatter


def test_the_cosine_has_the_sign_of_the_linear_part():
    negative = hermite(hermite_series([0, -1, 0.5**0.5]))
    assert gradient_direction(negative, 0.3).cosine == -gradient_direction(TEACHER, 0.3).cosine < 0


@pytest.mark.parametrize("coefficients, exponent", [([0, 0, 1], "is 2"), ([0, 0, 0, 2], "is 3"), ([0], "is above 12")])
def test_a_teacher_without_linear_part_teaches_nothing_and_that_is_said(coefficients, exponent):
    with pytest.warns(UserWarning, match=f"information exponent {exponent}.*one gradient step learns nothing"):
        assert gradient_direction(hermite(hermite_series(coefficients)), 0.3, noise=0.1).cosine == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient_direction(TEACHER, 0.3)


def test_sizes_are_the_norms_of_the_terms(rng):
    n, width, eta, norm, orders = 200_000, 100_000, 3.0, 1.3, (1, 2, 4)
    u, v = rng.normal(size=n), rng.normal(size=width)
    c = RELU.coefficients
    terms = [
        abs((eta * c[1] * norm) ** k * c[k]) * np.linalg.norm(u**k) * np.linalg.norm((v / width**0.5) ** k) / n**0.5
        for k in orders
    ]
    # ‖u^k‖² is a mean with the relative variance E[Z^4k]/E[Z^2k]² − 1 over the samples: 2, 10.7 and 183.
    spread = [(kurtosis / 4 * (1 / n + 1 / width)) ** 0.5 for kurtosis in (2, 10.7, 183)]
    found = spike_sizes(eta, RELU, norm, width, orders)
    assert np.all(np.abs(found / terms - 1) < 4 * np.array(spread))


def test_orders_without_coefficient_have_size_zero():
    # c_3 is zero to rounding.
    assert spike_sizes(10.0, hermite("softplus"), 1.0, 500, (3,))[0] < 1e-12


@pytest.mark.parametrize(
    "argument, call",
    [
        ("phi", lambda: gradient_direction(TEACHER, 0.0)),
        ("noise", lambda: gradient_direction(TEACHER, 0.3, noise=-1.0)),
        ("activation", lambda: gradient_direction(TEACHER, 0.3, activation=hermite("quadratic"))),
        ("activation", lambda: spike_orders(0.2, hermite("quadratic"))),
        ("count", lambda: spike_boundaries(-1)),
        ("eta", lambda: spike_sizes(0.0, RELU, 1.0, 10, (1,))),
        ("norm", lambda: spike_sizes(1.0, RELU, -1.0, 10, (1,))),
        ("width", lambda: spike_sizes(1.0, RELU, 1.0, 0, (1,))),
        ("orders", lambda: spike_sizes(1.0, RELU, 1.0, 10, (0,))),
        ("orders", lambda: spike_sizes(1.0, RELU, 1.0, 10, (13,))),
    ],
)
def test_wrong_argument_is_named(argument, call):
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        call()
