"""Newton's method for the implicit step of a flow, whose linear systems are solved by products with the Jacobian."""

import abc
import dataclasses
from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .conjugate_gradients import Solution, conjugate_gradients

_MOST_PRODUCTS = 300
_LINEAR_SHARE = 0.5  # of the tolerance that the residual of a linear system may use
_DIFFERENCE = 1e-7  # of ‖θ‖: balances truncation against round-off in float64


class Correction(NamedTuple):
    """What an implicit step adds to its prediction, and what its computation cost and found out."""

    d: Float[Array, " P"]
    converged: Bool[Array, ""]
    rate: Float[Array, ""]
    exact: Bool[Array, ""]
    gradients: Int[Array, ""]
    products: Int[Array, ""]


class _Iterate(NamedTuple):
    correction: Correction
    size: Float[Array, ""]
    failed: Bool[Array, ""]


class AbstractNewton(eqx.Module):
    """Solves d = a·F(y + d) − ψ for d, where F is a step times a velocity, to a fraction of a tolerance."""

    rtol: eqx.AbstractVar[Any]
    atol: eqx.AbstractVar[Any]
    norm: eqx.AbstractVar[Any]
    is_linear: eqx.AbstractVar[bool]

    def scale(self, *ys: Float[Array, " P"]) -> Float[Array, " P"]:
        """The error that is tolerated in each component of a step between these values."""
        largest = reduce(jnp.maximum, map(jnp.abs, ys))
        return jnp.asarray(self.atol, largest.dtype) + jnp.asarray(self.rtol, largest.dtype) * largest

    def size(self, v: Float[Array, " P"], scale: Float[Array, " P"]) -> Float[Array, ""]:
        """How large a vector is in units of the tolerance."""
        return self.norm(v / scale)

    def solve(
        self,
        field: Callable[[Float[Array, " P"]], Float[Array, " P"]],
        y: Float[Array, " P"],
        psi: Float[Array, " P"],
        a: Float[Array, ""],
        scale: Float[Array, " P"],
        share: Float[Array, ""],
        rate: Float[Array, ""],
        exact: Bool[Array, ""],
        most: int,
    ) -> Correction:
        """The correction d, to `share` of the tolerance `scale`.

        **Arguments:** `field`: F; `rate`: the contraction of Newton's iteration as last seen (1: not known), which
        decides whether one iteration can be trusted; `exact`: whether finite differences have proven too noisy; `most`:
        iterations to spend.
        """

        def iterate(s: _Iterate) -> _Iterate:
            old = s.correction
            base = y + old.d
            at_base = field(base)
            right = a * at_base - psi - old.d
            system = LinearSystem(field, base, at_base, a, right, scale, _LINEAR_SHARE * share)
            solution, exact = self.linear_solve(system, old.exact)
            size, first = self.size(solution.x, scale), old.gradients == 0
            contraction = size / s.size
            rate = jnp.where(first, old.rate, contraction)
            converged = solution.converged & (self.is_linear | (jnp.minimum(rate, 1) * size < share))
            failed = ~solution.converged | (~first & (contraction > 2)) | ~jnp.isfinite(size)
            products = old.products + solution.products
            return _Iterate(
                Correction(old.d + solution.x, converged, rate, exact, old.gradients + 1, products), size, failed
            )

        none = jnp.zeros((), jnp.int32)
        nothing = Correction(jnp.zeros_like(y), jnp.asarray(False), rate, exact, none, none)
        unfinished = lambda s: ~s.correction.converged & ~s.failed & (s.correction.gradients < most)
        start = _Iterate(nothing, jnp.ones((), y.dtype), jnp.asarray(False))
        return jax.lax.while_loop(unfinished, iterate, start).correction

    @abc.abstractmethod
    def for_linear(self) -> "AbstractNewton":
        """For a linear F, for which one iteration solves the equation."""

    @abc.abstractmethod
    def linear_solve(self, system: "LinearSystem", exact: Bool[Array, ""]) -> tuple[Solution, Bool[Array, ""]]:
        """The solution, and whether it needed exact products although finite differences were tried."""


class LinearSystem(NamedTuple):
    """(I − a J) x = right with the Jacobian J of the field at `base`, to a tolerance in units of `scale`."""

    field: Callable[[Float[Array, " P"]], Float[Array, " P"]]
    base: Float[Array, " P"]
    at_base: Float[Array, " P"]
    a: Float[Array, ""]
    right: Float[Array, " P"]
    scale: Float[Array, " P"]
    tolerance: Float[Array, ""]

    def product(self, v: Float[Array, " P"]) -> Float[Array, " P"]:
        """(I − a J) v."""
        return v - self.a * jax.jvp(self.field, (self.base,), (v,))[1]

    def difference(self, v: Float[Array, " P"]) -> Float[Array, " P"]:
        """(I − a J) v by a finite difference of the field."""
        return v - self.a * _difference(self.field, self.base, self.at_base, v)


class NewtonCG(AbstractNewton):
    """`AbstractNewton` by conjugate gradients, for the symmetric Jacobian of a gradient flow.

    **Arguments:**
    - `rtol`, `atol`, `norm`: in which errors are measured; `diffrax.with_stepsize_controller_tols(NewtonCG)()` takes
      those of the step size controller.
    - `exact_products`: whether Hessian-vector products are exact derivatives or finite differences of gradients (which
      take about half as long). None: finite differences in float64 until their noise is too large; exact ones in
      float32.
    - `is_linear`: whether F is linear, so that one iteration solves the equation.
    """

    rtol: Any
    atol: Any
    norm: Any
    exact_products: bool | None = eqx.field(static=True, default=None)
    is_linear: bool = eqx.field(static=True, default=False)

    def for_linear(self) -> "NewtonCG":
        """For a linear F, of which exact products cost no more than differences."""
        return dataclasses.replace(self, exact_products=True, is_linear=True)

    def linear_solve(self, system: LinearSystem, exact: Bool[Array, ""]) -> tuple[Solution, Bool[Array, ""]]:
        """The solution, and whether it needed exact products although finite differences were tried."""
        right = system.right
        always_exact = right.dtype != jnp.float64 if self.exact_products is None else self.exact_products
        is_small = lambda residual: self.size(residual, system.scale) < system.tolerance
        solve = partial(conjugate_gradients, right=right, is_small=is_small, most=_MOST_PRODUCTS)
        if always_exact:
            return solve(system.product), exact
        cheap = solve(system.difference, skip=exact)
        if self.exact_products is False:
            return cheap, exact
        better = solve(system.product, skip=cheap.converged, otherwise=cheap.x)
        # Where both failed the curvature is to blame, not the noise.
        needed = better.converged & ~cheap.converged
        return Solution(better.x, cheap.products + better.products, cheap.converged | better.converged), needed


def _difference(field, base: Float[Array, " P"], at_base: Float[Array, " P"], v: Float[Array, " P"]) -> Array:
    """J v by a finite difference of the field."""
    # ‖v‖ as conjugate gradients compute it, so that XLA does it once.
    epsilon = _DIFFERENCE * (1 + jnp.sqrt(base @ base)) / jnp.sqrt(v @ v)
    return (field(base + epsilon * v) - at_base) / epsilon
