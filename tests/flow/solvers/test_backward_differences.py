"""Backward differences follow the polynomial, or the points, that they are made of."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfa_flow.flow.solvers import backward_differences
from nfa_flow.flow.solvers.backward_differences import BackwardDifferenceInterpolation, combine

ROWS, ORDERS = 7, range(1, 7)
STEP, END = 0.3, 0.7
change_of_step = jax.jit(partial(backward_differences.change_of_step, ROWS))
after_step = jax.jit(backward_differences.after_step)


def polynomial(degree):
    """Three polynomials of this degree with random coefficients, one in each component."""
    coefficients = np.random.default_rng(degree).normal(size=(degree + 1, 3))
    return lambda t: np.polynomial.polynomial.polyval(t, coefficients).T


def differences(points):
    """D_1, D_2, … at the last of the points (in rows), by differencing again and again."""
    return np.stack([np.diff(points, n=j, axis=0)[-1] for j in range(1, ROWS + 1)])


def differences_of(f, step, end=END):
    return differences(f(end - step * np.arange(ROWS, -1, -1)))


@pytest.mark.parametrize("factor", [0.1, 0.5, 0.9, 1.3, 2.0, 10.0])
@pytest.mark.parametrize("order", ORDERS)
def test_another_step_keeps_the_polynomial(order, factor):
    f = polynomial(order)
    changed = change_of_step(jnp.asarray(order), jnp.asarray(factor)) @ differences_of(f, STEP)
    expected = differences_of(f, factor * STEP)
    # Rounding of the old differences is multiplied by up to (1 + factor)^order.
    tolerance = 1e-14 * np.abs(expected).max() * (1 + factor) ** order
    np.testing.assert_allclose(changed[:order], expected[:order], rtol=0, atol=tolerance)


@pytest.mark.parametrize("order", ORDERS)
def test_the_same_step_changes_nothing(order):
    np.testing.assert_array_equal(change_of_step(jnp.asarray(order), jnp.asarray(1.0)), np.eye(ROWS))


@pytest.mark.parametrize("order", ORDERS)
def test_another_step_leaves_the_differences_above_the_order_alone(order):
    change = np.asarray(change_of_step(jnp.asarray(order), jnp.asarray(0.4)))
    np.testing.assert_array_equal(change[order:], np.eye(ROWS)[order:])
    np.testing.assert_array_equal(change[:order, order:], 0)
    assert change[0, 0] == pytest.approx(0.4)


@pytest.mark.parametrize("order", ORDERS)
def test_a_step_adds_a_point(order):
    points = np.random.default_rng(order).normal(size=(ROWS + 2, 3))
    before = differences(points[:-1])
    d = points[-1] - points[-2] - before[:order].sum(axis=0)
    after = np.stack(after_step(tuple(before), jnp.eye(ROWS), jnp.asarray(order), d, jnp.asarray(True)))
    known = min(order + 2, ROWS)  # the differences above need corrections of earlier steps
    np.testing.assert_allclose(after[:known], differences(points)[:known], rtol=0, atol=1e-13)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("accepted", [True, False])
def test_a_step_of_another_size_changes_the_differences_first(order, accepted):
    """On a polynomial the prediction is exact and the difference above the order zero, whatever the step."""
    f, step = polynomial(order), 0.5 * STEP
    change = change_of_step(jnp.asarray(order), jnp.asarray(step / STEP))
    before = tuple(differences_of(f, STEP))
    after = np.stack(after_step(before, change, jnp.asarray(order), jnp.zeros(3), jnp.asarray(accepted)))
    expected = differences_of(f, step, end=END + step if accepted else END)
    np.testing.assert_allclose(after[: order + 1], expected[: order + 1], rtol=0, atol=1e-13)


def test_a_combination_is_the_weighted_sum():
    D, weights = np.random.default_rng(0).normal(size=(ROWS, 3)), np.arange(ROWS) - 2.0
    np.testing.assert_allclose(combine(tuple(jnp.asarray(D)), jnp.asarray(weights)), weights @ D, rtol=0, atol=1e-14)


@pytest.fixture(params=ORDERS)
def interpolated(request):
    """A polynomial of some degree, and the interpolation of that order."""
    f = polynomial(request.param)
    y1, D = f(END), tuple(jnp.asarray(differences_of(f, STEP)))
    tree = {"first": jnp.asarray(y1[0]), "rest": jnp.asarray(y1[1:])}
    order = jnp.asarray(float(request.param))
    return f, BackwardDifferenceInterpolation(t0=END - STEP, t1=END, y1=tree, differences=D, order=order)


def flat(tree):
    return np.concatenate([np.atleast_1d(tree["first"]), tree["rest"]])


def test_interpolation_reproduces_polynomials_of_its_order(interpolated):
    f, interpolation = interpolated
    for t in np.linspace(END - STEP, END, 4):
        np.testing.assert_allclose(flat(interpolation.evaluate(t)), f(t), rtol=0, atol=1e-13)


def test_interpolation_ends_exactly_at_the_end_of_the_step(interpolated):
    f, interpolation = interpolated
    np.testing.assert_array_equal(flat(interpolation.evaluate(END)), f(END))


def test_two_times_give_the_increment_between_them(interpolated):
    f, interpolation = interpolated
    increment = flat(interpolation.evaluate(END - 0.8 * STEP, END - 0.1 * STEP))
    np.testing.assert_allclose(increment, f(END - 0.1 * STEP) - f(END - 0.8 * STEP), rtol=0, atol=1e-13)
