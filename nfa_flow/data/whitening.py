"""Inputs brought to a standard form: second moment I, or each column of mean 0 and variance 1."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..checks import is_traced, require_instance
from ..numerics.kernel import kernel
from ..numerics.precision import at_least_single
from .dataset import Dataset


def whiten(data: Dataset) -> Dataset:
    """The data with inputs S_xx^{−1/2} x_i, so that S_xx = I; not centered; targets do not change.

    If the inputs do not span their space (for example, n < d), S_xx becomes the orthogonal projector onto their span. A
    true index space U becomes span(S_xx^{1/2} U), through which the targets depend on the new inputs. Directions in
    which the inputs do not vary are left out of it; if none remains, the index is None. Inside `jax.jit` their number
    is not known, and arbitrary directions take their place.

    **Arguments:** `data`: any data set; half precision is computed in float32.
    **Returns:** a data set of as many samples, inputs and outputs.
    **Raises:** ValueError for anything but a `Dataset`.
    """
    wide = _factorizable(data)
    return _with_inputs(data, *_whitened(wide.X, wide.sample_weight, wide.index))


@kernel
def _whitened(
    rows: Float[Array, "n d"], weight: Float[Array, " n"], index: Float[Array, "d r"] | None
) -> tuple[Float[Array, "n d"], Float[Array, "d r"] | None, Float[Array, ""]]:
    """The new inputs, vectors that span the new index, and a bound on their singular values."""
    root = jnp.sqrt(weight)[:, None]
    # √w x = P S Vᵀ: an eigendecomposition of S_xx would lose half of the digits in directions of little variance.
    P, S, Vt = jnp.linalg.svd(root * rows, full_matrices=False)
    spanned = S > max(rows.shape) * jnp.finfo(S.dtype).eps * S[0]
    # P Vᵀ / √w is S_xx^{−1/2} x to full precision; a sample of weight zero is not in P and needs the map itself.
    seen = root > 0
    mapped = (rows @ Vt.T) * _inverse(S, spanned)[None, :]
    x = jnp.where(seen, jnp.where(spanned[None, :], P, 0) * _inverse(root, seen), mapped) @ Vt
    return x, None if index is None else Vt.T @ (S[:, None] * (Vt @ index)), S[0]


def standardize(data: Dataset) -> Dataset:
    """The data with every input column shifted and scaled to weighted mean 0 and variance 1; targets do not change.

    A constant column becomes zero; a column that varies, even very little, does not. A true index space is transformed,
    as in `whiten`.

    **Arguments:** `data`: any data set; half precision is computed in float32.
    **Returns:** a data set of as many samples, inputs and outputs.
    **Raises:** ValueError for anything but a `Dataset`.
    """
    wide = _factorizable(data)
    x, deviation = standardized_columns(wide.X, wide.sample_weight)
    # The span of an index does not depend on a common factor, without which deviations could be too large to square.
    relative = deviation / jnp.where(jnp.max(deviation) > 0, jnp.max(deviation), 1)
    index = None if wide.index is None else relative[:, None] * wide.index
    return _with_inputs(data, x, index, jnp.max(relative))


@kernel
def standardized_columns(
    values: Float[Array, "n p"], weight: Float[Array, " n"]
) -> tuple[Float[Array, "n p"], Float[Array, " p"]]:
    """Columns of weighted mean 0 and variance 1, and their former standard deviations; constant columns become 0.

    A column is first shifted and scaled to [−1, 1], where its squares neither vanish nor overflow and the rounding
    error of its mean is not larger than its variation. Before that it is multiplied by a power of two, which is exact,
    so that differences of its entries do not underflow.
    """
    seen = weight[:, None] > 0
    exponent = jnp.frexp(jnp.max(jnp.abs(values), axis=0, where=seen, initial=0, keepdims=True))[1]
    values = jnp.ldexp(values, -exponent)
    highest = jnp.max(values, axis=0, where=seen, initial=-jnp.inf, keepdims=True)
    lowest = jnp.min(values, axis=0, where=seen, initial=jnp.inf, keepdims=True)
    varies = highest > lowest
    half = jnp.where(varies, (highest - lowest) / 2, 1)
    unit = jnp.where(varies, (values - (highest + lowest) / 2) / half, 0)
    unit = unit - (weight @ jnp.where(seen, unit, 0))[None, :]
    deviation = jnp.sqrt(weight @ jnp.where(seen, unit, 0) ** 2)
    standard = unit / jnp.where(varies, deviation[None, :], 1)
    return standard, jnp.where(varies[0], jnp.ldexp(half[0] * deviation, exponent[0]), 0)


def _factorizable(data: Dataset) -> Dataset:
    """The data with samples as vectors, in float32 at least, because factorizations need it."""
    require_instance("data", data, Dataset, "a `Dataset`")
    if hasattr(data.x, "ndim"):
        data = eqx.tree_at(lambda data: data.x, data, data.x.reshape(data.samples, -1))
    return at_least_single(data)


def _inverse(values: Float[Array, "..."], where: Bool[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(where, 1 / jnp.where(where, values, 1), 0)


def _with_inputs(
    data: Dataset, x: Float[Array, "n d"], index: Float[Array, "d r"] | None, largest: Float[Array, ""]
) -> Dataset:
    """The data with other inputs and the span of an index, of which `largest` bounds the singular values."""
    basis = None if index is None else _span(index, largest).astype(data.dtype)
    return Dataset(
        x.reshape(data.x.shape).astype(data.dtype),
        data.y,
        data.weight,
        basis if basis is None or basis.shape[1] else None,
    )


def _span(index: Float[Array, "d r"], largest: Float[Array, ""]) -> Float[Array, "d k"]:
    if is_traced(index):  # how many directions are left is not known
        return jnp.linalg.qr(index)[0]
    U, S, _ = jnp.linalg.svd(index, full_matrices=False)
    kept = int(jnp.sum(S > max(index.shape) * jnp.finfo(S.dtype).eps * largest))
    return U[:, :kept]
