"""Two ways to map a function over the rows of a batch: one row after another, or all in lockstep.

A batch is a tree of arrays whose first axis is the row. In sequence, a compiled loop takes one row at a time: finished
rows cost nothing, and each row has exactly the arithmetic of a single run. In lockstep (`jax.vmap`), every row takes as
long as the slowest one, and sums may be ordered differently.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree


def row_of(batch: PyTree, i: Any) -> PyTree:
    """One row of a batch, or several."""
    return jax.tree.map(lambda a: a[i], batch)


def rows_on_host(batch: PyTree, count: int) -> list[PyTree]:
    """The first rows of a batch as trees of numpy arrays, transferred together."""
    batch = jax.device_get(batch)
    return [jax.tree.map(np.asarray, row_of(batch, i)) for i in range(count)]


def put_row(batch: PyTree, i: Any, row: PyTree) -> PyTree:
    """The batch with another row at `i`, or with several rows at an array of places; those out of range are dropped."""
    return jax.tree.map(lambda a, b: a.at[i].set(b, mode="drop"), batch, row)


def stack(rows: Sequence[PyTree], size: int) -> PyTree:
    """A batch of `size` rows on the host, filled up with copies of the last row."""
    filled = [*rows, *[rows[-1]] * (size - len(rows))]
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *filled)


def in_sequence(function: Callable[[PyTree], PyTree], batch: PyTree, count: Int[Array, ""]) -> PyTree:
    """`function` of each of the first `count` rows, one after another; the other rows are zero."""
    shapes = jax.eval_shape(function, row_of(batch, 0))
    size = len(jax.tree.leaves(batch)[0])
    results = jax.tree.map(lambda s: jnp.zeros((size, *s.shape), s.dtype), shapes)
    return jax.lax.fori_loop(0, count, lambda i, r: put_row(r, i, function(row_of(batch, i))), results)
