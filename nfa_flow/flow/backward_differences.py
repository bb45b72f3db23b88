"""The past of a multistep method as backward differences: prediction, update, change of step, interpolation.

Row j − 1 of `differences` holds the j-th backward difference D_j of the solution at equal steps h. A method of order k
uses D_1 … D_k; D_{k+1} and D_{k+2} are kept for the choice of the order.

Source: Shampine & Reichelt 1997, section 2.
"""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

Differences = Float[Array, "rows P"]


def combine(differences: Differences, weights: Float[Array, " rows"], order: Int[Array, ""]) -> Float[Array, " P"]:
    """Σ_{j ≤ order} weights_j D_j."""
    inside = jnp.arange(len(weights)) < order
    return jnp.where(inside, weights, 0) @ differences


def difference(differences: Differences, j: Int[Array, ""]) -> Float[Array, " P"]:
    """D_j."""
    return jax.lax.dynamic_index_in_dim(differences, j - 1, keepdims=False)


def with_step(differences: Differences, order: Int[Array, ""], factor: Float[Array, ""]) -> Differences:
    """The differences of the same polynomial at steps `factor` times as large."""
    rows = len(differences)
    i, j = jnp.arange(1, rows + 1)[:, None], jnp.arange(1, rows + 1)[None, :]
    R = lambda f: jnp.cumprod((i - 1 - f * j) / i, axis=0)
    inside = (i <= order) & (j <= order)
    change = jnp.where(inside, (R(factor) @ R(1.0)).T, jnp.eye(rows)).astype(differences.dtype)
    # Row by row, as D_j depends on D_j, D_{j+1}, … only: in place, where a product would need a second copy.
    for row in range(rows):
        differences = differences.at[row].set(change[row, row:] @ differences[row:])
    return differences


def after_step(differences: Differences, order: Int[Array, ""], d: Float[Array, " P"]) -> Differences:
    """The differences one step later, where `d` is what the step added to its prediction."""
    above, newest = d - difference(differences, order + 1), d
    for row in reversed(range(len(differences))):
        j, old = row + 1, differences[row]
        newest = jnp.where(j <= order, old + newest, newest)
        new = jnp.where(j <= order + 1, newest, jnp.where(j == order + 2, above, old))
        differences = differences.at[row].set(new)
    return differences


class BackwardDifferenceInterpolation(diffrax.AbstractLocalInterpolation):
    """The polynomial of degree `order` through the end of a step and the points before it."""

    t0: Any
    t1: Any
    y1: PyTree
    differences: Differences
    order: Int[Array, ""]

    def evaluate(self, t0: Any, t1: Any | None = None, left: bool = True) -> PyTree:
        """The solution at `t0`, or its increment from `t0` to `t1`."""
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1), self.evaluate(t0))
        y1, unravel = ravel_pytree(self.y1)
        steps = (t0 - self.t1) / (self.t1 - self.t0)
        j = jnp.arange(len(self.differences))
        weights = jnp.cumprod((steps + j) / (j + 1)).astype(y1.dtype)
        return unravel(y1 + combine(self.differences, weights, self.order))
