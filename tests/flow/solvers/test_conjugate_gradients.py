"""Conjugate gradients solve I + cH where it is positive definite, and say so where it is not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfa_flow.flow.solvers.conjugate_gradients import conjugate_gradients

TIGHT = 1e-9


@partial(jax.jit, static_argnames="most")
def solve(matrix, right, tolerance=TIGHT, most=100, **skipping):
    """Until ‖residual‖ < tolerance."""
    is_small = lambda residual: jnp.linalg.norm(residual) < tolerance
    return conjugate_gradients(lambda v: matrix @ v, right, is_small, most=most, **skipping)


def with_eigenvalues(eigenvalues, seed=0):
    Q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues), len(eigenvalues))))
    return Q * np.asarray(eigenvalues) @ Q.T


def right_side(size, seed=1):
    return np.random.default_rng(seed).normal(size=size)


@pytest.mark.parametrize("c", [1e-2, 1.0, 1e2])
@pytest.mark.parametrize(("size", "rank"), [(1, 1), (8, 3), (30, 30)])
def test_the_residual_is_as_small_as_asked(size, rank, c):
    factor = np.random.default_rng(2).normal(size=(size, rank))
    matrix, right = np.eye(size) + c * factor @ factor.T, right_side(size)
    for tolerance in (1e-2, 1e-8):
        solution = solve(matrix, right, tolerance)
        assert solution.converged
        # The residual by recurrence drifts from the true one by rounding, at most about ε·κ a product.
        rounding = 1e-15 * np.linalg.cond(matrix) * solution.products
        assert np.linalg.norm(right - matrix @ solution.x) < tolerance + rounding


@pytest.mark.parametrize("distinct", [1, 2, 3, 8])
def test_products_do_not_outnumber_the_distinct_eigenvalues(distinct):
    eigenvalues = np.resize(np.geomspace(1, 10, distinct), 8)
    solution = solve(with_eigenvalues(eigenvalues), right_side(8))
    assert solution.converged and solution.products == distinct


def test_a_right_side_of_zero_is_solved_by_zero_without_a_product():
    solution = solve(np.eye(8), np.zeros(8))
    assert solution.converged and solution.products == 0
    np.testing.assert_array_equal(solution.x, 0)


@pytest.mark.parametrize("eigenvalue", [-3.0, 0.0, 0.01])
def test_negative_curvature_is_reported(eigenvalue):
    """pᵀAp ≤ 0.02‖p‖² for the last direction at the latest, which no other eigenvalue helps."""
    solution = solve(with_eigenvalues([eigenvalue] * 4 + [1.0] * 4), right_side(8))
    assert not solution.converged
    assert np.all(np.isfinite(solution.x))
    assert solution.products <= 2


def test_curvature_above_the_threshold_is_none_to_report():
    assert solve(0.03 * np.eye(8), right_side(8)).converged


def test_a_product_that_is_not_a_number_is_reported_and_does_not_spread():
    solution = solve(np.full((8, 8), np.nan), right_side(8))
    assert not solution.converged
    np.testing.assert_array_equal(solution.x, 0)


def test_skipping_costs_nothing_and_has_not_converged():
    for right in (right_side(8), np.zeros(8)):
        solution = solve(np.eye(8), right, skip=True, otherwise=np.arange(8.0))
        assert solution.products == 0 and not solution.converged
        np.testing.assert_array_equal(solution.x, np.arange(8.0))


def test_what_would_be_returned_instead_is_no_start():
    matrix, right = with_eigenvalues(range(1, 9)), right_side(8)
    there, not_there = solve(matrix, right), solve(matrix, right, otherwise=np.arange(8.0))
    assert there.products == not_there.products
    np.testing.assert_array_equal(there.x, not_there.x)


@pytest.mark.parametrize("most", [0, 5])
def test_no_more_products_are_spent_than_allowed(most):
    solution = solve(with_eigenvalues(np.geomspace(1, 1e4, 8)), right_side(8), most=most)
    assert solution.products == most and not solution.converged


def test_lanes_of_a_batch_do_not_know_of_each_other():
    matrices = np.stack([with_eigenvalues(e) for e in ([1.0] * 8, range(1, 9), [-1.0] * 4 + [1.0] * 4, range(1, 9))])
    rights = np.stack([right_side(8), right_side(8), right_side(8), np.zeros(8)])
    lanes = jax.vmap(solve)(matrices, rights)
    assert list(lanes.converged) == [True, True, False, True]
    for i in range(4):
        alone = solve(matrices[i], rights[i])
        assert lanes.products[i] == alone.products
        np.testing.assert_allclose(lanes.x[i], alone.x, rtol=1e-9, atol=1e-9)
