"""Inputs brought to a standard form: second moment I, or each column of mean 0 and variance 1."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..checks import is_traced
from .dataset import Dataset


def whiten(data: Dataset) -> Dataset:
    """The data with inputs S_xx^{−1/2} x_i, so that S_xx = I; not centred, targets untouched.

    Where the inputs do not span their space (for one, n < d), S_xx becomes the orthogonal projector onto their span.
    A true index space U becomes span(S_xx^{1/2} U), through which the targets depend on the new inputs; directions in
    which the inputs do not vary are left out of it, and where none is left the index is None. Inside `jax.jit` their
    number is not known, and something arbitrary stands in their place.

    **Arguments:** `data`: any data set.
    **Returns:** a data set of as many samples, inputs and outputs.
    """
    root = jnp.sqrt(data.sample_weight)[:, None]
    # √w x = P S Vᵀ: an eigendecomposition of S_xx would lose half of the digits in directions of little variance.
    P, S, Vt = jnp.linalg.svd(root * data.x, full_matrices=False)
    spanned = S > max(data.x.shape) * jnp.finfo(S.dtype).eps * S[0]
    # P Vᵀ / √w is S_xx^{−1/2} x to full precision; a sample of weight zero is not in P and needs the map itself.
    seen = root > 0
    mapped = jnp.matmul(data.x, Vt.T, precision="highest") * _inverse(S, spanned)
    x = jnp.matmul(jnp.where(seen, P * spanned * _inverse(root, seen), mapped), Vt, precision="highest")
    index = None if data.index is None else Vt.T @ (S[:, None] * (Vt @ data.index))
    return _with_inputs(data, x, index, S[0])


def standardise(data: Dataset) -> Dataset:
    """The data with every input column shifted and scaled to weighted mean 0 and variance 1; targets untouched.

    A constant column becomes zero. A true index space is carried along, as by `whiten`.

    **Arguments:** `data`: any data set.
    **Returns:** a data set of as many samples, inputs and outputs.
    """
    x, deviation = standardised_columns(data.x, data.sample_weight)
    index = None if data.index is None else deviation[:, None] * data.index
    return _with_inputs(data, x, index, jnp.max(deviation))


def standardised_columns(
    values: Float[Array, "n p"], weight: Float[Array, " n"]
) -> tuple[Float[Array, "n p"], Float[Array, " p"]]:
    """Columns of weighted mean 0 and variance 1, and the standard deviations they had; constant columns become 0."""
    seen = weight[:, None] > 0
    highest = jnp.max(values, axis=0, where=seen, initial=-jnp.inf)
    lowest = jnp.min(values, axis=0, where=seen, initial=jnp.inf)
    centred = values - weight @ values
    deviation = jnp.sqrt(weight @ centred**2)
    # The mean of a constant is not that constant in floating point, so a deviation above 0 would not be enough.
    varies = (highest > lowest) & (deviation > 0)
    return centred * _inverse(deviation, varies), deviation * varies


def _inverse(values: Float[Array, "..."], where: Bool[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(where, 1 / jnp.where(where, values, 1), 0)


def _with_inputs(
    data: Dataset, x: Float[Array, "n d"], index: Float[Array, "d r"] | None, largest: Float[Array, ""]
) -> Dataset:
    """The data with other inputs and the span of an index, of which `largest` bounds the singular values."""
    return Dataset(x, data.y, data.weight, None if index is None else _span(index, largest))


def _span(index: Float[Array, "d r"], largest: Float[Array, ""]) -> Float[Array, "d k"] | None:
    if is_traced(index):  # how many directions are left is not known
        return jnp.linalg.qr(index)[0]
    U, S, _ = jnp.linalg.svd(index, full_matrices=False)
    kept = int(jnp.sum(S > max(index.shape) * jnp.finfo(S.dtype).eps * largest))
    return U[:, :kept] if kept else None
