"""Numerical differentiation formulas whose Newton systems are solved by matrix-free conjugate gradients.

Late in training a gradient flow is stiff: λ_max·t reaches 1e5 and more while the solution barely moves. Backward
differentiation is stable at any step there, and its linear systems, I + cH with the Hessian H, are symmetric, and
positive definite unless the curvature is negative: conjugate gradients solve them with a few Hessian-vector products.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from ...checks import wrong
from .backward_differences import BackwardDifferenceInterpolation, Differences, after_step, change_of_step, combine
from .flow_solver import AbstractFlowSolver
from .newton_bicgstab import NewtonBiCGStab
from .newton_cg import AbstractNewton, NewtonCG

# By order k = 0 … 6. Orders 5 and 6 are plain backward differentiation: κ = 0.
_KAPPA = np.array([0, -0.185, -1 / 9, -0.0823, -0.0415, 0, 0])
_GAMMA = np.cumsum([0, *(1 / np.arange(1, 8))])
_ALPHA = (1 - _KAPPA) * _GAMMA[:7]
# One entry more, so that k + 1 can be asked for at order 6.
_ERROR = np.append(_KAPPA * _GAMMA[:7] + 1 / np.arange(1, 8), np.inf)

# The error at the end of a run is several times the error of a step: with this factor it stays below 10·rtol on the
# problems measured in benchmarks/results/solvers-cpu.json.
_CAUTION = 4.0
_ROUNDING = 25.0  # times the resolution of y: to ask for more accuracy would cost steps and give none
_NEWTON_SHARE = 0.1  # of the tolerance, for the error of the nonlinear solve
_ERROR_ORDER = 2  # by which the controller turns an error into a factor; see `_asking_for`
_SAFETY = 0.9  # of diffrax's controllers


class _State(eqx.Module):
    differences: Differences
    h: Float[Array, ""]
    order: Int[Array, ""]
    equal_steps: Int[Array, ""]
    rate: Float[Array, ""]
    exact: Bool[Array, ""]
    gradients: Int[Array, ""]
    products: Int[Array, ""]
    attempts: Int[Array, ""]
    sum_of_orders: Int[Array, ""]
    largest_order: Int[Array, ""]


class _Verdict(NamedTuple):
    """On one attempted step: whether it is accepted, and the order and step factor of the next attempt."""

    accepted: Bool[Array, ""]
    order: Int[Array, ""]
    factor: Float[Array, ""]


class NDF(AbstractFlowSolver[_State], diffrax.AbstractImplicitSolver[_State]):
    """Variable-order backward differentiation (NDF) with Newton's method by conjugate gradients.

    For long horizons: its cost grows with the logarithm of the time rather than with λ_max·t. It needs gradients and
    Hessian-vector products only, and keeps `max_order` + 2 vectors of parameters between steps. The Jacobian of the
    vector field must be symmetric, as that of a gradient flow is, or `root_finder` a `NewtonBiCGStab`.

    It selects order and step itself. The error that it returns makes the controller choose the selected step: use
    `diffrax.PIDController(rtol, atol)` with its default coefficients.

    **Arguments:**
    - `max_order`: highest order, 1 to 6.
    - `root_finder`: a `NewtonCG` or `NewtonBiCGStab`; by default with the tolerances of the step size controller.
    - `root_find_max_steps`: number of Newton iterations after which a step is tried again at half its length.

    **Source:** Klopfenstein 1971; Shampine & Reichelt 1997 (numerical differentiation formulas, quasi-constant steps).
    """

    max_order: int = eqx.field(static=True, default=6)
    root_finder: AbstractNewton = diffrax.with_stepsize_controller_tols(NewtonCG)()  # pyright: ignore  (not of optimistix)
    root_find_max_steps: int = 4

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar[Callable[..., BackwardDifferenceInterpolation]] = BackwardDifferenceInterpolation

    def __check_init__(self):
        if type(self.max_order) is not int or not 1 <= self.max_order <= 6:
            raise wrong("max_order", "an integer from 1 to 6", repr(self.max_order))
        if not isinstance(self.root_finder, AbstractNewton):
            raise wrong("root_finder", "a `NewtonCG` or `NewtonBiCGStab`", type(self.root_finder).__name__)

    def order(self, terms: Any) -> int:
        return self.max_order

    def error_order(self, terms: Any) -> int:
        return _ERROR_ORDER

    def func(self, terms: Any, t0: Any, y0: PyTree, args: Any) -> PyTree:
        return terms.vf(t0, y0, args)

    def init(self, terms: Any, t0: Any, t1: Any, y0: PyTree, args: Any) -> _State:
        y, _ = ravel_pytree(y0)
        count = lambda n: jnp.asarray(n, jnp.int32)
        return _State(
            differences=self._first_differences(terms, t0, t1, y0, args),
            h=jnp.asarray(t1 - t0, y.dtype),
            order=count(1),
            equal_steps=count(0),
            rate=jnp.ones((), y.dtype),
            exact=jnp.asarray(False),
            gradients=count(1),
            products=count(0),
            attempts=count(0),
            sum_of_orders=count(0),
            largest_order=count(1),
        )

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: PyTree, args: Any, solver_state: _State, made_jump: Any
    ) -> tuple[PyTree, PyTree, dict[str, Any], _State, diffrax.RESULTS]:
        y, unravel = ravel_pytree(y0)
        if made_jump is not False:
            fresh = lambda: self._restarted(solver_state, terms, t0, t1, y0, args)
            solver_state = jax.lax.cond(made_jump, fresh, lambda: solver_state)
        state, change = _at_step(jnp.asarray(t1 - t0, y.dtype), solver_state)
        k, newton, rows = state.order, self.root_finder, np.arange(1, self.max_order + 2)
        # The differences at the new step are not formed before its end: a second copy would stay during the solve.
        weights = jnp.stack([rows <= k, jnp.where(rows <= k, _GAMMA[rows], 0), rows == k, rows == k + 1]) @ change
        combined = lambda row: combine(state.differences, weights[row])
        alpha = jnp.asarray(_ALPHA, y.dtype)[k]
        constants = jax.lax.dynamic_slice_in_dim(jnp.asarray(_ERROR, y.dtype), k - 1, 3)  # of orders k − 1, k, k + 1
        predicted, psi = y + combined(0), combined(1) / alpha
        rounding = _ROUNDING * jnp.finfo(y.dtype).eps * jnp.abs(predicted)
        scale = jnp.maximum(newton.scale(y, predicted) / _CAUTION, rounding)
        control = terms.contr(t0, t1)
        field = lambda v: ravel_pytree(terms.vf_prod(t1, unravel(v), args, control))[0]
        share = _NEWTON_SHARE / constants[1]
        correction = newton.solve(
            field, predicted, psi, 1 / alpha, scale, share, state.rate, state.exact, self.root_find_max_steps
        )

        d = correction.d
        sizes = [newton.size(v, scale) for v in (d + combined(2), d, d - combined(3))]
        errors = constants * jnp.stack(sizes)
        verdict = self._judge(state, correction.converged, errors)
        accepted = verdict.accepted
        new_state = _State(
            differences=after_step(state.differences, change, k, d, accepted),
            h=state.h,
            order=verdict.order,
            equal_steps=jnp.where(accepted & (verdict.factor == 1), state.equal_steps + 1, 0),
            rate=correction.rate,
            exact=correction.exact,
            gradients=state.gradients + correction.gradients,
            products=state.products + correction.products,
            attempts=state.attempts + 1,
            sum_of_orders=state.sum_of_orders + k,
            largest_order=jnp.maximum(state.largest_order, k),
        )
        y1 = jnp.where(accepted, predicted + d, y)
        error = _asking_for(verdict) * newton.scale(y, y1) / newton.norm(jnp.ones_like(y))
        dense = {"y1": unravel(y1), "differences": new_state.differences, "order": k.astype(y.dtype)}
        return unravel(y1), unravel(error), dense, new_state, diffrax.RESULTS.successful

    def after_rejection(self, before: _State, attempted: _State) -> _State:
        return attempted

    def for_derivatives(self) -> "NDF":
        """For linear equations."""
        return NDF(self.max_order, self.root_finder.for_linear(), self.root_find_max_steps)

    def for_unsymmetric(self) -> "NDF":
        """For a vector field whose Jacobian is not symmetric."""
        finder = self.root_finder
        if isinstance(finder, NewtonCG):
            finder = NewtonBiCGStab(finder.rtol, finder.atol, finder.norm)
        return NDF(self.max_order, finder, self.root_find_max_steps)

    def work(self, state: _State) -> dict[str, Float[Array, ""] | Int[Array, ""]]:
        return {
            "gradient_evaluations": state.gradients,
            "hessian_vector_products": state.products,
            "mean_order": state.sum_of_orders / jnp.maximum(state.attempts, 1),
            "largest_order": state.largest_order,
        }

    def _first_differences(self, terms: Any, t0: Any, t1: Any, y0: PyTree, args: Any) -> Differences:
        step, _ = ravel_pytree(terms.vf_prod(t0, y0, args, terms.contr(t0, t1)))
        return step, *(jnp.zeros_like(step) for _ in range(self.max_order))

    def _restarted(self, state: _State, terms: Any, t0: Any, t1: Any, y0: PyTree, args: Any) -> _State:
        """The state after a jump of the solution, where its past says nothing."""
        h, one = jnp.asarray(t1 - t0, state.h.dtype), jnp.ones_like(state.order)
        values = (self._first_differences(terms, t0, t1, y0, args), h, one, 0 * one, state.gradients + 1)
        return eqx.tree_at(lambda s: (s.differences, s.h, s.order, s.equal_steps, s.gradients), state, values)

    def _judge(self, state: _State, converged: Bool[Array, ""], errors: Float[Array, "3"]) -> _Verdict:
        """Accept or reject; choose among orders k − 1, k, k + 1 the one that allows the largest step.

        A larger step or order needs k + 1 equal steps behind it; a smaller order is taken after a rejection too.
        """
        k = state.order
        accepted = converged & (errors[1] < 1)
        ready = accepted & (state.equal_steps >= k)
        orders = k + np.arange(-1, 2)
        factors = jnp.maximum(errors, 1e-10) ** (-1 / (orders + 1)).astype(errors.dtype)
        allowed = (orders >= 1) & (orders <= self.max_order) & (ready | (orders <= k))
        factors = jnp.where(allowed, factors, 0)
        best = jnp.argmax(factors)
        factor = _SAFETY * factors[best]
        larger = jnp.where(ready & (factor > 1), jnp.minimum(factor, 10), 1)
        smaller = jnp.where(converged, jnp.clip(factor, 0.2, _SAFETY), 0.5)
        change = (ready & (factor > 1)) | (~accepted & converged)
        order = jnp.where(change, orders[best], k).astype(k.dtype)
        return _Verdict(accepted, order, jnp.where(accepted, larger, smaller))


def _at_step(h: Float[Array, ""], state: _State) -> tuple[_State, Float[Array, "rows rows"]]:
    """The state at steps `h`, and the matrix that brings its differences there."""
    changed = jnp.abs(h / state.h - 1) > 8 * jnp.finfo(h.dtype).eps
    change = change_of_step(len(state.differences), state.order, jnp.where(changed, h / state.h, 1))
    reset = lambda value, old: jnp.where(changed, jnp.asarray(value, old.dtype), old)
    # Newton's contraction is proportional to the step: look at it anew.
    values = (h, reset(0, state.equal_steps), reset(1, state.rate))
    return eqx.tree_at(lambda s: (s.h, s.equal_steps, s.rate), state, values), change


def _asking_for(verdict: _Verdict) -> Float[Array, ""]:
    """The scaled error for which a controller makes the selected change: factor = safety · error^(−1/error order)."""
    error = (_SAFETY / verdict.factor) ** _ERROR_ORDER
    return jnp.where(verdict.accepted, jnp.minimum(error, 0.99), jnp.maximum(error, 1.01))
