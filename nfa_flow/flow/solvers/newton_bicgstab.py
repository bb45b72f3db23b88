"""Newton's method for flows whose Jacobian is not symmetric, with the biconjugate gradients of lineax."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float

from .conjugate_gradients import Solution
from .newton_cg import AbstractNewton, LinearSystem

_MOST_STEPS = 150  # of two products each


class NewtonBiCGStab(AbstractNewton):
    """`AbstractNewton` by BiCGStab, with exact products.

    **Arguments:** `rtol`, `atol`, `norm`, `is_linear`: as in `NewtonCG`.
    **Source:** van der Vorst 1992.
    """

    rtol: Any
    atol: Any
    norm: Any
    is_linear: bool = eqx.field(static=True, default=False)

    def for_linear(self) -> "NewtonBiCGStab":
        """For a linear F."""
        return dataclasses.replace(self, is_linear=True)

    def linear_solve(self, system: LinearSystem, exact: Bool[Array, ""]) -> tuple[Solution, Bool[Array, ""]]:
        """The solution in units of the tolerance, in which parameters and memory are comparable."""

        def product(u: Float[Array, " P"]) -> Float[Array, " P"]:
            return system.product(system.scale * u) / system.scale

        operator = lx.FunctionLinearOperator(product, jax.eval_shape(lambda: system.right))
        tolerance: Any = system.tolerance  # an array, which lineax takes too
        solver = lx.BiCGStab(rtol=0.0, atol=tolerance, norm=self.norm, max_steps=_MOST_STEPS)
        found = lx.linear_solve(operator, system.right / system.scale, solver, throw=False)
        converged = found.result == lx.RESULTS.successful
        products = jnp.asarray(2 * found.stats["num_steps"], jnp.int32)
        return Solution(system.scale * found.value, products, converged), exact
