"""A step of NDF has the published error and the order that it claims, and forgets the past after a jump."""

import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
import pytest

from nfa_flow.flow import NDF
from nfa_flow.flow.solvers.newton_cg import NewtonCG

# Shampine & Reichelt 1997, table 1; order 6 is the backward differentiation formula, as order 5.
KAPPA = {1: -0.185, 2: -1 / 9, 3: -0.0823, 4: -0.0415, 5: 0.0, 6: 0.0}


class ToTheLastDigit(NewtonCG):
    """Solves better than its tolerance asks, so that a step has no error but that of its formula."""

    def solve(self, field, y, psi, a, scale, *settings):
        return super().solve(field, y, psi, a, 1e-18 * scale, *settings)


def monomial(order):
    """y = t^{order+1}."""
    return lambda t: t ** (order + 1.0), lambda t, y: (order + 1) * t**order


def bell(order):
    """y = exp(−t²/2)."""
    return lambda t: jnp.exp(-(t**2) / 2), lambda t, y: -t * y


@eqx.filter_jit
def error_of_formula(problem, order, steps):
    """The error at t = 2 after equal steps of one order from exact differences at t = 1."""
    y, f = problem(order)
    h = 1 / steps
    points = y(1 - h * jnp.arange(7, -1, -1))[:, None]
    term = diffrax.ODETerm(lambda t, y, args: f(t, y))
    solver = NDF(root_finder=ToTheLastDigit(1e6, 1e6, optx.rms_norm, exact_products=True))  # pyright: ignore
    exact_differences = tuple(jnp.diff(points, n=j, axis=0)[-1] for j in range(1, 8))
    state = solver.init(term, 1.0, 1 + h, points[-1], None)
    state = eqx.tree_at(lambda s: s.differences, state, exact_differences)

    def step(i, carry):
        value, state = carry
        state = eqx.tree_at(lambda s: (s.order, s.rate), state, (order, jnp.ones(())))
        value, _, _, state, _ = solver.step(term, 1 + i * h, 1 + (i + 1) * h, value, None, state, False)
        return value, state

    end, _ = jax.lax.fori_loop(0, steps, step, (points[-1], state))
    return end[0] - y(1 + steps * h)


@pytest.mark.parametrize("order", KAPPA)
def test_the_error_constant_is_the_published_one(order):
    """One step on t^{k+1}, where it is all the error: (κγ + 1/(k+1))/((1 − κ)γ) ∇^{k+1}y, with γ = 1 + … + 1/k."""
    gamma = sum(1 / j for j in range(1, order + 1))
    constant = (KAPPA[order] * gamma + 1 / (order + 1)) / ((1 - KAPPA[order]) * gamma)
    error = error_of_formula(monomial, jnp.asarray(order, jnp.int32), 1)
    assert float(error) == pytest.approx(constant * math.factorial(order + 1), rel=1e-9)


@pytest.mark.parametrize("order", KAPPA)
def test_the_formula_of_each_order_has_that_order(order):
    coarse, fine = (error_of_formula(bell, jnp.asarray(order, jnp.int32), n) for n in (20, 40))
    assert math.log2(abs(coarse / fine)) == pytest.approx(order, abs=0.2)


def test_after_a_jump_the_past_is_forgotten():
    term = diffrax.ODETerm(lambda t, y, args: -y)
    solver, y0 = NDF(root_finder=NewtonCG(1e-3, 1e-6, optx.rms_norm)), jnp.array([1.0])
    fresh = solver.init(term, 0.0, 0.01, y0, None)
    stale = eqx.tree_at(lambda s: (s.differences, s.order), fresh, (7 * (jnp.ones(1),), jnp.asarray(4, jnp.int32)))
    step = eqx.filter_jit(lambda state, jump: solver.step(term, 0.0, 0.01, y0, None, state, jump)[0])
    expected = step(fresh, jnp.asarray(False))
    assert step(stale, jnp.asarray(True)) == expected != y0
    assert step(stale, jnp.asarray(False)) != expected
