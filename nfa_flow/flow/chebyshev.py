"""What the stabilised explicit methods share: a step of s stages that is stable for h·ρ up to about s².

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

from .flow_solver import AbstractFlowSolver
from .spectral_radius import largest_eigenvalue

_ESTIMATE_EVERY = 8
_ESTIMATE_RTOL = 0.04
_ESTIMATE_MAX_PRODUCTS = 50
_RANDOM_PART = 0.3
_SAFETY = 1.05
_ALWAYS_ALLOWED_STAGES = 5


class Formula(eqx.Module):
    """One step as numbers: its stages, and the weights with which they make the new point and the error estimate.

    With B = y_n − y_{n−1} and D = y_{n+1} − y_n: D = `past`·B + `final`·d_s, and the error is the sum of `error` times
    (B, D, hF_n, hF_{n+1}).
    """

    stages: Float[Array, ""]
    delta: Float[Array, ""]  # the Chebyshev polynomials are taken at w0 + w1 z, with w0 = 1 + delta
    w1: Float[Array, ""]
    b_1: Float[Array, ""]
    b_2: Float[Array, ""]  # b_j = T_j''/T_j'² from j = 3 on
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
    """What one step leaves for the next."""

    slope: Float[Array, " p"]  # F_n
    last_change: Float[Array, " p"]  # y_n − y_{n−1}
    last_step: Float[Array, ""]  # h_{n−1}, zero where there is none
    top_vector: Float[Array, " p"]
    sharpness: Float[Array, ""]
    spectral_radius: Float[Array, ""]
    age: Int[Array, ""]  # accepted steps since the spectral radius was estimated
    work: Work


class AbstractChebyshevSolver(AbstractFlowSolver[ChebyshevState]):
    """A diffrax solver that makes each step by a Chebyshev recurrence of as many stages as stability asks for."""

    rtol: eqx.AbstractVar[float | Float[Array, ""]]

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = diffrax.ThirdOrderHermitePolynomialInterpolation

    @abc.abstractmethod
    def formula(self, z: Float[Array, ""], q: Float[Array, ""]) -> Formula:
        """A step that is stable on [−z, 0], z = hρ, where the step before was q times as long (0: there was none)."""

    def error_order(self, terms):
        return 3

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def init(self, terms, t0, t1, y0, args) -> ChebyshevState:
        y, _ = ravel_pytree(y0)
        slope = _field(terms, t0, t1, y0, args)(t0, y)
        scalar, count = jnp.zeros((), y.dtype), jnp.zeros((), jnp.int32)
        return ChebyshevState(
            slope=slope,
            last_change=jnp.zeros_like(y),
            last_step=jnp.zeros((), _exact_dtype()),
            top_vector=_unit(slope),
            sharpness=scalar,
            spectral_radius=scalar,
            age=count + _ESTIMATE_EVERY,
            work=Work(gradients=count + 1, products=count, steps=count, stages=count, largest_stages=count),
        )

    def step(self, terms, t0, t1, y0, args, solver_state: ChebyshevState, made_jump):
        y, unravel = ravel_pytree(y0)
        field = _field(terms, t0, t1, y0, args)
        state = _with_spectral_radius(solver_state, lambda y: field(t0, y), y)
        slope = jax.lax.cond(made_jump, lambda: field(t0, y), lambda: state.slope)

        h = jnp.asarray(t1 - t0, _exact_dtype())
        q = jnp.where(made_jump, 0, state.last_step / h)
        formula = self.formula(h * state.spectral_radius.astype(h.dtype), q)
        most = jnp.maximum(jnp.sqrt(self.rtol / (5 * jnp.finfo(y.dtype).eps)), _ALWAYS_ALLOWED_STAGES)
        allowed = formula.stages <= most  # false where the number is not finite
        stages = jnp.where(allowed, formula.stages, 0).astype(jnp.int32)

        weigh = lambda weight, vector: weight.astype(y.dtype) * vector
        deviation = _last_deviation(field, t0, h, y, slope, formula, stages)
        change = weigh(formula.past, state.last_change) + weigh(formula.final, deviation)
        change = jnp.where(allowed, change, 0)
        new = y + change
        new_slope = field(t1, new)
        parts = (state.last_change, change, weigh(h, slope), weigh(h, new_slope))
        error = sum(weigh(weight, part) for weight, part in zip(formula.error, parts, strict=True))
        error = jnp.maximum(jnp.abs(error), self._brake(formula.stages / most) * jnp.maximum(jnp.abs(y), jnp.abs(new)))
        finite = jnp.all(jnp.isfinite(new_slope)) & jnp.all(jnp.isfinite(new))
        error = jnp.where(allowed & finite, error, jnp.inf)

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
        dense_info = dict(y0=y0, y1=unravel(new), k0=unravel(parts[2]), k1=unravel(parts[3]))
        return unravel(new), unravel(error), dense_info, new_state, diffrax.RESULTS.successful
