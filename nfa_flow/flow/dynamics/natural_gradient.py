"""Natural gradient flow, with damping."""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from ...checks import require_number
from ...problem.objective import AbstractObjective
from .abstract import AbstractDynamics

_SHARPEST = 100  # rounding errors, to which the linear system is solved


class NaturalGradient(AbstractDynamics):
    """dθ/dt = −(G + damping·I)^{−1} ∇F, where G is the Gauss-Newton matrix of the data loss.

    G = mean over samples of Jᵀ ∇²ℓ J, with the Jacobian J of the prediction; that is the Fisher matrix of the squared
    loss and of the cross entropy. Without damping and decay, predictions of a network with more parameters than outputs
    on the data would move straight to their targets. The system is solved by conjugate gradients, which take more
    products the smaller `damping` is; a flow in which they do not converge fails. All samples are in memory at once.

    **Raises:** ValueError naming `dynamics` for a `TotalLoss`, which is no mean over samples, and half precision.
    **Source:** Amari 1998; Martens 2020 (the Gauss-Newton matrix as a Fisher matrix).
    """

    damping: float | Float[Array, ""]

    def __check_init__(self):
        require_number("damping", self.damping, above=0)

    def velocity(self, objective: AbstractObjective, parameters: PyTree, memory: PyTree) -> tuple[PyTree, PyTree]:
        """−(G + damping·I)^{−1} ∇F."""
        g = objective.gradient(parameters)
        product = objective.gauss_newton(parameters)
        damped = lambda v: jax.tree.map(lambda Gv, v: Gv + self.damping * v, product(v), v)
        operator = lx.FunctionLinearOperator(damped, jax.eval_shape(lambda: g), lx.positive_semidefinite_tag)
        tolerance = _SHARPEST * float(jnp.finfo(jnp.result_type(*jax.tree.leaves(g))).eps)
        count = sum(leaf.size for leaf in jax.tree.leaves(g))
        size: Any = tolerance * jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(g)]))
        # Not `rtol`: lineax compares entry by entry, and entries of the gradient may be zero.
        solver = lx.CG(rtol=0.0, atol=size, max_steps=10 * count + 100, stabilise_every=None)
        solution = lx.linear_solve(operator, g, solver, throw=False)
        sign = jnp.where((solution.result == lx.RESULTS.successful) | (size == 0), -1.0, jnp.nan)
        return jax.tree.map(lambda x: sign.astype(x.dtype) * x, solution.value), None
