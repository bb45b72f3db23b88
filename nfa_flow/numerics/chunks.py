"""A sum over samples in chunks, one after another, so that the memory of one chunk is enough."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree, Shaped

# (state, rows, their weights, their numbers) -> state
Step = Callable[[PyTree, PyTree, Float[Array, " m"], Int[Array, " m"]], PyTree]


def fold_chunks(
    step: Step,
    state: PyTree,
    rows: PyTree[Shaped[Array, "n ..."]],
    weight: Float[Array, " n"],
    at_once: int,
    blocks: int,
) -> PyTree:
    """`step` of one chunk of rows after another, all of the same size.

    The last chunk reaches back into the one before it, whose samples have no weight the second time. Rows that are
    divided among devices, in equal blocks, stay where they are: a chunk takes as many rows of each block.

    **Arguments:** `at_once`: the largest number of rows of a chunk in each block; `blocks`: their number, which is
    taken for 1 unless it divides n.
    """
    blocks = blocks if len(weight) % blocks == 0 else 1
    height = len(weight) // blocks
    chunks = -(-height // at_once)
    size = -(-height // chunks)

    @jax.checkpoint  # so that a backward pass keeps the state before each chunk, and no more
    def one_chunk(state: PyTree, i: Int[Array, ""]) -> tuple[PyTree, None]:
        start = jnp.minimum(i * size, height - size)
        at = start + jnp.arange(size)

        def cut(array: Shaped[Array, "n ..."]) -> Shaped[Array, "m ..."]:
            in_blocks = array.reshape(blocks, height, *array.shape[1:])
            return jax.lax.dynamic_slice_in_dim(in_blocks, start, size, axis=1).reshape(-1, *array.shape[1:])

        numbers = jnp.add.outer(height * jnp.arange(blocks), at).ravel()
        counts = jnp.where(jnp.tile(at >= i * size, blocks), cut(weight), 0)
        return step(state, jax.tree.map(cut, rows), counts, numbers), None

    return jax.lax.scan(one_chunk, state, jnp.arange(chunks))[0]
