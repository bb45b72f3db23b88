"""Newton's method by conjugate gradients solves d = a·F(y + d) − ψ, and says where it cannot."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

from nfa_flow.flow.solvers.newton_cg import NewtonCG

SIZE, A, SHARE = 6, 0.6, 0.1
Y, PSI = (np.random.default_rng(seed).normal(size=SIZE) for seed in (0, 1))
# A field, of v and a strength s.
BASIS, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(SIZE, SIZE)))
LINEAR = lambda v: -jnp.asarray(BASIS * np.geomspace(1e-2, 1e2, SIZE) @ BASIS.T, v.dtype) @ v
QUARTIC = lambda v, s: LINEAR(v) - s * v**3
NOISY = lambda v, s: LINEAR(v + s * jax.lax.stop_gradient(jnp.sin(1e9 * v)))  # as rounding: not differentiated


@eqx.filter_jit
def solve(field, strength, y: Any = Y, *, exact_products=None, is_linear=False, rate=1.0, exact=False, rtol=1e-8):
    """The correction, and the residual of its equation in units of the tolerance."""
    newton = NewtonCG(rtol, 0.01 * rtol, optx.rms_norm, exact_products, is_linear)
    y, number = jnp.asarray(y), lambda value: jnp.asarray(value, y.dtype)
    psi, scale, F = jnp.asarray(PSI, y.dtype), newton.scale(y), lambda v: field(v, number(strength))
    correction = newton.solve(F, y, psi, number(A), scale, number(SHARE), number(rate), jnp.asarray(exact), 4)
    d = correction.d
    return correction, newton.size(A * F(y + d) - psi - d, scale)


@pytest.mark.parametrize("exact_products", [None, True])
def test_the_residual_is_within_the_share_of_the_tolerance(exact_products):
    correction, residual = solve(QUARTIC, 0.02, exact_products=exact_products)
    assert correction.converged and residual < SHARE
    assert correction.gradients > 1  # it takes more than one iteration
    assert correction.products >= correction.gradients


def test_one_iteration_is_trusted_when_the_last_contraction_was_strong():
    """A linear problem is solved by one; only its contraction seen before tells so, or the caller."""
    unknown, _ = solve(QUARTIC, 0.0, exact_products=True)
    assert unknown.gradients == 2
    for reason in ({"rate": 1e-10}, {"is_linear": True}):
        known, residual = solve(QUARTIC, 0.0, exact_products=True, **reason)
        assert known.gradients == 1
        assert known.converged and residual < SHARE


def test_negative_curvature_that_outweighs_the_identity_is_not_solved():
    """1 + A·s·3v² < 0 for s = −10."""
    correction, _ = solve(QUARTIC, -10.0)
    assert not correction.converged
    assert not correction.exact  # the curvature is to blame, not noise
    assert np.all(np.isfinite(correction.d))


@pytest.mark.parametrize("strength", [np.nan, np.inf])
def test_a_field_that_is_not_finite_is_not_solved(strength):
    correction, _ = solve(QUARTIC, strength)
    assert not correction.converged


def test_exact_products_replace_differences_that_drown_in_errors_of_the_field():
    """Here they are as large as the distance over which the difference is taken, 1e-7."""
    cheap, _ = solve(NOISY, 1e-7, exact_products=False, rtol=1e-5)
    assert not cheap.converged
    found, _ = solve(NOISY, 1e-7, rtol=1e-5)
    assert found.converged and found.exact
    known, _ = solve(NOISY, 1e-7, rtol=1e-5, exact=True)
    assert known.converged and known.exact and known.products < found.products


def test_float32_takes_exact_products_from_the_start():
    """Differences of float32 gradients at a distance of 1e-7 would be noise."""
    correction, residual = solve(QUARTIC, 0.02, jnp.asarray(Y, jnp.float32), rtol=1e-4)
    assert correction.d.dtype == jnp.float32
    assert correction.converged and residual < SHARE
