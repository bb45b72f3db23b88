"""The past of a multistep method as backward differences: prediction, update, change of step, interpolation.

Entry j − 1 of `differences` is the j-th backward difference D_j of the solution at equal steps h. A method of order k
uses D_1 … D_k; D_{k+1} and D_{k+2} are kept for the choice of the order.

Source: Shampine & Reichelt 1997, section 2.
"""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

# Vectors of their own rather than rows of a matrix: XLA then updates each in place, where it would copy the matrix.
Differences = tuple[Float[Array, " P"], ...]


def combine(differences: Differences, weights: Float[Array, " rows"]) -> Float[Array, " P"]:
    """Σ_j weights_j D_j."""
    weights = weights.astype(differences[0].dtype)
    return sum((w * D for w, D in zip(weights[1:], differences[1:], strict=True)), weights[0] * differences[0])


def change_of_step(rows: int, order: Int[Array, ""], factor: Float[Array, ""]) -> Float[Array, "rows rows"]:
    """The matrix that maps D_1 … D_rows to the differences of the same polynomial at steps `factor` times as large.

    It is upper triangular, changes only D_1 … D_order, and is the identity where `factor` is 1.
    """
    # NumPy's arrays are constants of the program, where those of JAX would be computed, and compiled, in it.
    i, j = np.arange(1, rows + 1)[:, None], np.arange(1, rows + 1)[None, :]
    R, R_1 = jnp.cumprod((i - 1 - factor * j) / i, axis=0), np.cumprod((i - 1 - j) / i, axis=0)
    return jnp.where((i <= order) & (j <= order), (R @ R_1).T, np.eye(rows))


def after_step(
    differences: Differences,
    change: Float[Array, "rows rows"],
    order: Int[Array, ""],
    d: Float[Array, " P"],
    accepted: Bool[Array, ""],
) -> Differences:
    """The differences after a change of step and a step that added `d` to its prediction; before it, if rejected.

    D_j becomes D_j + … + D_order + d up to the order; D_{order+1} becomes d, and D_{order+2} becomes d − D_{order+1}.
    """
    j, i = np.arange(1, len(differences) + 1)[:, None], np.arange(1, len(differences) + 1)[None, :]
    added = ((j <= i) & (i <= order)) | ((j == i) & (j > order + 2))
    subtracted = (j == order + 2) & (i == order + 1)
    weights = jnp.where(accepted, (added * 1.0 - subtracted) @ change, change)
    after = []
    for row in range(len(differences)):
        first = max(row - 1, 0)  # weights before that are zero
        old = combine(differences[first:], weights[row, first:])
        after.append(old + jnp.where(accepted & (row <= order + 1), d, 0))
    return tuple(after)


class BackwardDifferenceInterpolation(diffrax.AbstractLocalInterpolation):
    """The polynomial of degree `order` through the end of a step and the points before it."""

    t0: Any
    t1: Any
    y1: PyTree
    differences: Differences
    order: Float[Array, ""]  # not an integer: diffrax fills what it does not use with infinity

    def evaluate(self, t0: Any, t1: Any | None = None, left: bool = True) -> PyTree:
        """The solution at `t0`, or its increment from `t0` to `t1`."""
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1), self.evaluate(t0))
        y1, unravel = ravel_pytree(self.y1)
        steps = (t0 - self.t1) / (self.t1 - self.t0)
        j = np.arange(len(self.differences))
        weights = jnp.where(j < self.order, jnp.cumprod((steps + j) / (j + 1)), 0)
        return unravel(y1 + combine(self.differences, weights))
