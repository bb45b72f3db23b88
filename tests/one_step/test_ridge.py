import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfa_flow.one_step import ridge_fit

PENALTY = 0.3


def problem(n, N):
    keys = jax.random.split(jax.random.key(0), 3)
    return jax.random.normal(keys[0], (n, N)), jax.random.normal(keys[1], (n,)), jax.random.normal(keys[2], (n, 2))


@pytest.mark.parametrize("shape", [(20, 6), (6, 20), (8, 8)])
def test_the_readout_solves_the_normal_equations(shape):
    F, y, _ = problem(*shape)
    n, N = shape
    fit = ridge_fit(F, y, PENALTY)
    a = np.linalg.solve(F.T @ F / n + PENALTY * np.eye(N), F.T @ y / n)
    np.testing.assert_allclose(fit.readout, a, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(fit.train, np.mean((y - F @ a) ** 2) + PENALTY * a @ a, rtol=1e-12)
    # The minimum is λ yᵀ(FFᵀ + λn)^{-1}y, as in the theory.
    np.testing.assert_allclose(
        fit.train, PENALTY * y @ np.linalg.solve(F @ F.T + PENALTY * n * np.eye(n), y), rtol=1e-10
    )


@pytest.mark.parametrize("shape", [(20, 6), (9, 20)])
def test_free_directions_are_features_without_penalty(shape):
    F, y, U = problem(*shape)
    fit = ridge_fit(F, y, PENALTY, free=U)
    # As features scaled up, whose penalty is λ/scale².
    scaled = ridge_fit(jnp.concatenate([F, 1e5 * U], axis=1), y, PENALTY)
    np.testing.assert_allclose(fit.readout, scaled.readout[:-2], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fit.free_readout, 1e5 * scaled.readout[-2:], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fit.train, scaled.train, rtol=1e-8)


def test_the_test_loss_is_the_mean_square_on_new_samples():
    F, y, U = problem(20, 6)
    fit, alone = ridge_fit(F[:10], y[:10], PENALTY, free=U[:10]), ridge_fit(F[:10], y[:10], PENALTY)
    expected = np.mean((y[10:] - F[10:] @ fit.readout - U[10:] @ fit.free_readout) ** 2)
    np.testing.assert_allclose(fit.test(F[10:], y[10:], free=U[10:]), expected, rtol=1e-12)
    np.testing.assert_allclose(alone.test(F[10:], y[10:]), np.mean((y[10:] - F[10:] @ alone.readout) ** 2), rtol=1e-12)


def test_penalties_share_a_program(compilations):
    F, y, _ = problem(20, 6)
    ridge_fit(F, y, 0.1)
    compilations()
    ridge_fit(F, y, 1)
    assert compilations() == 0


@pytest.mark.parametrize("penalty", [0.0, -1.0, np.nan])
def test_a_penalty_that_is_not_positive_is_refused(penalty):
    F, y, _ = problem(5, 3)
    with pytest.raises(ValueError, match="`penalty` must be a positive number"):
        ridge_fit(F, y, penalty)


def test_targets_of_another_length_are_refused(no_type_checks):
    F, y, _ = problem(5, 3)
    with pytest.raises(ValueError, match="`y` must be a vector with an entry for each of the 5 rows"):
        ridge_fit(F, y[:4], 0.1)


@pytest.mark.parametrize("shape", [(3, 2), (4, 5), (4,)])
def test_free_directions_that_do_not_fit_are_refused(shape, no_type_checks):
    F = jax.random.normal(jax.random.key(0), (4, 2))
    with pytest.raises(ValueError, match="`free` must be (a matrix of 4 rows|of 4 columns at most).*, but was of"):
        ridge_fit(F, jnp.ones(4), 0.1, free=jnp.ones(shape))
