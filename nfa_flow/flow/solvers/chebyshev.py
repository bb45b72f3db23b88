"""What the stabilized explicit methods share: a step of s stages that is stable for h·ρ up to about s².

The stages follow the three-term recurrence of the Chebyshev polynomials T_j, whose growth outside [−1, 1] is the
slowest possible for their slope, so the stability polynomial stays bounded on the longest stretch of the negative real
axis. That fits gradient flow, whose Jacobian is minus a Hessian. The stages cost one gradient each and memory that does
not depend on s; s is chosen anew in each step from the spectral radius ρ of the Hessian.

Stage j stands for Y_j = y + d_j. Only the deviations d_j are computed, so that nothing cancels when y barely moves.

Source: van der Houwen & Sommeijer 1980; Sommeijer, Shampine & Verwer 1998; Moisa 2025.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from ...numerics.lanczos import largest_eigenvalue, unit
from .flow_solver import AbstractFlowSolver

# Of the spectral radius: a bound between 1 and 1.1 times the truth, renewed often enough to follow a sharpening flow.
_STEPS_BETWEEN_ESTIMATES = 8
_RTOL = 0.04
_MARGIN = 1.05
_MAX_PRODUCTS = 50
_RANDOM_PART = 0.1


class Formula(eqx.Module):
    """One step in numbers: how many stages, their coefficients, and how the last stage is used.

    With B = y_n − y_{n−1} and D = y_{n+1} − y_n: D = `past`·B + `final`·d_s, and the error is the sum of `error` times
    (B, D, hF_n, hF_{n+1}).
    """

    stages: Float[Array, ""]
    delta: Float[Array, ""]  # the polynomials are taken at w0 + w1 z, with w0 = 1 + delta
    w1: Float[Array, ""]
    b_1: Float[Array, ""]
    b_2: Float[Array, ""]  # from the third on, b_j = T_j''/T_j'² at w0
    past: Float[Array, ""]
    final: Float[Array, ""]
    error: tuple[Float[Array, ""], ...]


class Work(eqx.Module):
    """Counts of what has been spent, rejected steps included."""

    gradients: Int[Array, ""]
    products: Int[Array, ""]
    steps: Int[Array, ""]
    stages: Int[Array, ""]
    largest_stages: Int[Array, ""]


class ChebyshevState(eqx.Module):
    """What one step keeps for the next."""

    slope: Float[Array, " p"]  # F_n
    last_change: Float[Array, " p"]  # y_n − y_{n−1}
    last_step: Float[Array, ""]  # h_{n−1}, zero where there is none
    top_vector: Float[Array, " p"]
    sharpness: Float[Array, ""]
    spectral_radius: Float[Array, ""]
    age: Int[Array, ""]  # accepted steps since the spectral radius was estimated
    work: Work


class AbstractChebyshevSolver(AbstractFlowSolver[ChebyshevState]):
    """A diffrax solver that makes each step by a Chebyshev recurrence of as many stages as stability requires.

    Rounding limits the stages by itself: its effect grows as s² in the stiff directions, where h·F_{n+1} shows it to
    the error estimate in full. A bound on s from the worst case costs float32 several times the gradients for nothing.
    """

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = diffrax.ThirdOrderHermitePolynomialInterpolation

    @abc.abstractmethod
    def formula(self, z: Float[Array, ""], q: Float[Array, ""]) -> Formula:
        """A step that is stable on [−z, 0], z = hρ, after a step that was q times as long (0: there was none)."""

    def error_order(self, terms):
        return 3  # of the estimate: O(h³)

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def init(self, terms, t0, t1, y0, args) -> ChebyshevState:
        y, _ = ravel_pytree(y0)
        slope = _field(terms, t0, t1, y0, args)(t0, y)
        count = lambda n: jnp.asarray(n, jnp.int32)
        return ChebyshevState(
            slope=slope,
            last_change=jnp.zeros_like(y),
            last_step=jnp.zeros(()),
            top_vector=unit(slope),
            sharpness=jnp.zeros((), y.dtype),
            spectral_radius=jnp.zeros((), y.dtype),
            age=count(_STEPS_BETWEEN_ESTIMATES),
            work=Work(gradients=count(1), products=count(0), steps=count(0), stages=count(0), largest_stages=count(0)),
        )

    def step(self, terms, t0, t1, y0, args, solver_state: ChebyshevState, made_jump):
        y, unravel = ravel_pytree(y0)
        field = _field(terms, t0, t1, y0, args)
        state = _with_spectral_radius(solver_state, lambda y: field(t0, y), y)
        slope = state.slope
        if made_jump is not False:
            slope = jax.lax.cond(made_jump, lambda: field(t0, y), lambda: state.slope)

        h = _exact(t1 - t0)
        q = jnp.where(made_jump, 0, state.last_step / h)
        formula = self.formula(h * _exact(state.spectral_radius), q)
        # False where the spectral radius is not finite. At 1/√ε stages, rounding would be all that is left.
        possible = formula.stages <= jnp.finfo(y.dtype).eps ** -0.5
        stages = jnp.where(possible, formula.stages, 0).astype(jnp.int32)

        times = lambda weight, vector: weight.astype(y.dtype) * vector
        deviation = last_deviation(field, t0, h, y, slope, formula, stages)
        change = times(formula.past, state.last_change) + times(formula.final, deviation)
        change = jnp.where(possible, change, 0)
        new = y + change
        new_slope = field(t1, new)
        parts = (state.last_change, change, times(h, slope), times(h, new_slope))
        error = sum(times(weight, part) for weight, part in zip(formula.error, parts, strict=True))
        valid = possible & jnp.all(jnp.isfinite(new)) & jnp.all(jnp.isfinite(new_slope))
        error = jnp.where(valid, error, jnp.inf)

        work = Work(
            gradients=state.work.gradients + jnp.maximum(stages, 1) + jnp.where(made_jump, 1, 0),
            products=state.work.products,
            steps=state.work.steps + 1,
            stages=state.work.stages + stages,
            largest_stages=jnp.maximum(state.work.largest_stages, stages),
        )
        new_state = dataclasses.replace(
            state, slope=new_slope, last_change=change, last_step=h, age=state.age + 1, work=work
        )
        y1 = unravel(new)
        dense_info = dict(y0=y0, y1=y1, k0=unravel(parts[2]), k1=unravel(parts[3]))
        return y1, unravel(error), dense_info, new_state, diffrax.RESULTS.successful

    def after_rejection(self, before: ChebyshevState, attempted: ChebyshevState) -> ChebyshevState:
        # The spectral radius may have been what was wrong.
        outdated = jnp.full_like(before.age, _STEPS_BETWEEN_ESTIMATES)
        return dataclasses.replace(before, age=outdated, work=attempted.work)

    def begun_anew(self, state: ChebyshevState) -> ChebyshevState:
        """The state from which the next step uses nothing of the steps before it but the direction of `top_vector`."""
        outdated = jnp.full_like(state.age, _STEPS_BETWEEN_ESTIMATES)
        return dataclasses.replace(state, age=outdated, last_step=jnp.zeros_like(state.last_step))

    def work(self, state: ChebyshevState) -> dict[str, Float[Array, ""] | Int[Array, ""]]:
        work = state.work
        return {
            "gradient_evaluations": work.gradients,
            "hessian_vector_products": work.products,
            "mean_stages": work.stages / jnp.maximum(work.steps, 1),
            "largest_stages": work.largest_stages,
        }

    def sharpness(self, state: ChebyshevState) -> Float[Array, ""]:
        return state.sharpness


def chebyshev(n: Float[Array, ""] | Int[Array, ""], delta: Float[Array, ""]) -> tuple[Float[Array, ""], ...]:
    """T_n, T_n', T_n'' and T_n''' at 1 + δ for δ n² ≤ 1/4, to machine precision.

    T_n(1 + δ) = Σ_k t_k δᵏ with t_0 = 1 and t_k = t_{k−1} (n² − (k−1)²)/(k(2k−1)), by Horner's rule. All terms are
    positive, where the closed forms in cosh and sinh cancel; the eleventh is below 1e-20 of the sum.
    """
    n_squared = jnp.asarray(n, delta.dtype) ** 2
    T, T1, T2, T3 = jnp.ones_like(delta), *[jnp.zeros_like(delta)] * 3
    for k in range(10, 0, -1):
        ratio = (n_squared - (k - 1) ** 2) / (k * (2 * k - 1))
        T, T1, T2, T3 = (
            1 + ratio * delta * T,
            ratio * (T + delta * T1),
            ratio * (2 * T1 + delta * T2),
            ratio * (3 * T2 + delta * T3),
        )
    return T, T1, T2, T3


def last_deviation(field, t0, h, y, slope, formula: Formula, stages) -> Float[Array, " p"]:
    """d_s, where d_j = μ d_{j−1} + ν d_{j−2} + h(μ̃ f(y + d_{j−1}) + γ̃ F_n), each stage at its own time t_n + c_j h."""
    w0 = 1 + formula.delta

    def stage(carry):
        j, d, d_before, c, c_before, b, b_before, a = carry
        T, T1, T2, _ = chebyshev(j, formula.delta)
        b_j = jnp.where(j == 2, formula.b_2, T2 / T1**2)
        mu, nu, mu_tilde = 2 * w0 * b_j / b, -b_j / b_before, 2 * formula.w1 * b_j / b
        gamma_tilde = -a * mu_tilde
        inside = field(t0 + (c * h).astype(jnp.result_type(t0)), y + d)
        weights = [weight.astype(y.dtype) for weight in (mu, nu, h * mu_tilde, h * gamma_tilde)]
        d_j = weights[0] * d + weights[1] * d_before + weights[2] * inside + weights[3] * slope
        c_j = mu * c + nu * c_before + mu_tilde + gamma_tilde
        return j + 1, d_j, d, c_j, c, b_j, b, 1 - b_j * T

    b_1 = formula.b_1
    c_1 = b_1 * formula.w1
    d_1 = (h * c_1).astype(y.dtype) * slope
    first = (jnp.asarray(2, jnp.int32), d_1, jnp.zeros_like(y), c_1, jnp.zeros_like(c_1), b_1, b_1, 1 - b_1 * w0)
    return jax.lax.while_loop(lambda carry: carry[0] <= stages, stage, first)[1]


def _with_spectral_radius(state: ChebyshevState, f: Callable, y: Float[Array, " p"]) -> ChebyshevState:
    """The state with a spectral radius that is not older than a few steps."""
    due = state.age >= _STEPS_BETWEEN_ESTIMATES

    def start() -> Array:
        # A new direction each time, to find an eigenvalue that has overtaken the one followed so far.
        key = jax.random.fold_in(jax.random.key(0), state.work.products)
        return state.top_vector + _RANDOM_PART * unit(jax.random.normal(key, y.shape, y.dtype))

    product = lambda v: -jax.jvp(f, (y,), (v,))[1]
    # Where none is due, no products rather than a branch: a batch would compute both branches in every step.
    limit = jnp.where(due, _MAX_PRODUCTS, 0)
    found = largest_eigenvalue(product, jax.lax.cond(due, start, lambda: state.top_vector), _RTOL, limit)
    keep = lambda new, old: jnp.where(due, new, old)
    return dataclasses.replace(
        state,
        top_vector=keep(found.vector, state.top_vector),
        sharpness=keep(found.value, state.sharpness),
        # Where all curvature is negative, nothing limits stability.
        spectral_radius=keep(jnp.maximum(_MARGIN * (found.value + found.residual), 0), state.spectral_radius),
        age=keep(0, state.age),
        work=dataclasses.replace(state.work, products=state.work.products + found.products),
    )


def _field(terms: diffrax.AbstractTerm, t0, t1, y0: PyTree, args: Any) -> Callable:
    """f(t, y) on raveled states, in the direction of integration: backwards in time, diffrax negates the control."""
    _, unravel = ravel_pytree(y0)
    direction: Any = jnp.sign(terms.contr(t0, t1))

    def field(t, y: Float[Array, " p"]) -> Float[Array, " p"]:
        return direction.astype(y.dtype) * ravel_pytree(terms.vf(t, unravel(y), args))[0]

    return field


def _exact(scalar) -> Float[Array, ""]:
    """In float64 where JAX has it, also when the state is float32."""
    return jnp.asarray(scalar, jnp.zeros(()).dtype)
