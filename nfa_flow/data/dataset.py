"""A data set: rows of inputs and targets, with optional sample weights and, if known, the true index space."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, DTypeLike, Float

from ..checks import floating_dtype, is_traced, real_array, require_finite, wrong

_RTOL = 1e-5  # for "sums to 1" and "orthonormal": far above the rounding of float32, far below a mistake


class Dataset(eqx.Module):
    """n samples of inputs x and targets y; a mean over samples is Σ_i w_i (…), with w_i = 1/n unless weights are given.

    **Arguments:**
    - `x`: inputs, n × d.
    - `y`: targets, n × c; a vector becomes one column. Labels that are classes should be one-hot.
    - `weight`: n non-negative sample weights that sum to 1, or None for 1/n each.
    - `index`: orthonormal basis, d × r, of the subspace of the inputs through which the targets depend on x.

    The arguments may be arrays, data frames, CPU tensors of PyTorch, and nested lists of numbers. All arrays are stored
    in one floating dtype: the wider one of x and y, or JAX's default float if both are integers.

    **Raises:** ValueError for values that are not real numbers, masked entries, wrong shapes, NaN or infinity, negative
    weights or a sum other than 1, or an `index` that is not orthonormal. Values that JAX is tracing are not known yet
    and are not checked.
    """

    x: Float[Array, "n d"]
    y: Float[Array, "n c"]
    weight: Float[Array, " n"] | None
    index: Float[Array, "d r"] | None

    def __init__(self, x: ArrayLike, y: ArrayLike, weight: ArrayLike | None = None, index: ArrayLike | None = None):
        x, y = real_array("x", x, ...), real_array("y", y, ...)
        if x.ndim != 2 or 0 in x.shape:
            raise wrong("x", "a matrix (samples × inputs) with at least one of each", f"of shape {x.shape}")
        y = y[:, None] if y.ndim == 1 else y
        if y.ndim != 2 or y.shape[0] != x.shape[0] or y.shape[1] == 0:
            raise wrong("y", f"a matrix (samples × outputs) with the {x.shape[0]} rows of `x`", f"of shape {y.shape}")
        with jax.numpy_dtype_promotion("standard"):
            dtype = jnp.promote_types(x.dtype, y.dtype)
        if not jnp.issubdtype(dtype, jnp.floating):
            dtype = jnp.zeros(()).dtype
        self.x, self.y = x.astype(dtype), y.astype(dtype)
        require_finite("x", self.x)
        require_finite("y", self.y)
        self.weight = None if weight is None else _weights(weight, x.shape[0]).astype(dtype)
        self.index = None if index is None else _orthonormal(index, x.shape[1]).astype(dtype)

    @property
    def samples(self) -> int:
        """The number of samples n."""
        return self.x.shape[-2]

    @property
    def inputs(self) -> int:
        """The number of inputs d."""
        return self.x.shape[-1]

    @property
    def outputs(self) -> int:
        """The number of outputs c."""
        return self.y.shape[-1]

    @property
    def sample_weight(self) -> Float[Array, " n"]:
        """The weights w_i; 1/n each if no weights were given."""
        return jnp.full(self.samples, 1 / self.samples, self.x.dtype) if self.weight is None else self.weight

    @property
    def S_xx(self) -> Float[Array, "d d"]:
        """Σ_i w_i x_i x_iᵀ, not centered."""
        return self._moment(self.x, self.x)

    @property
    def S_xy(self) -> Float[Array, "d c"]:
        """Σ_i w_i x_i y_iᵀ, not centered."""
        return self._moment(self.x, self.y)

    @property
    def S_yy(self) -> Float[Array, "c c"]:
        """Σ_i w_i y_i y_iᵀ, not centered."""
        return self._moment(self.y, self.y)

    def _moment(self, a: Float[Array, "n p"], b: Float[Array, "n q"]) -> Float[Array, "p q"]:
        # "highest": a GPU would otherwise multiply float32 in TF32, with three digits.
        return jnp.matmul((self.sample_weight[:, None] * a).T, b, precision="highest")

    def astype(self, dtype: DTypeLike) -> "Dataset":
        """The same data in another floating dtype."""
        dtype = floating_dtype("dtype", dtype)
        return jax.tree.map(lambda array: array.astype(dtype), self)

    def __repr__(self) -> str:
        if not isinstance(self.x, jax.Array):  # specifications in the shape of a Dataset: vmap axes, a filter
            return super().__repr__()
        sizes = f"{_count(self.samples, 'sample')}, {_count(self.inputs, 'input')} -> {_count(self.outputs, 'output')}"
        return f"Dataset({sizes}, {self.x.dtype}{'' if self.weight is None else ', weighted'})"


def _weights(weight: ArrayLike, samples: int) -> Array:
    weight = real_array("weight", weight, ...)
    if weight.shape != (samples,):
        raise wrong("weight", f"a vector with one entry for each of the {samples} samples", f"of shape {weight.shape}")
    require_finite("weight", weight)
    if not is_traced(weight):
        values = np.asarray(weight, float)
        if values.min() < 0:
            raise wrong("weight", "non-negative everywhere", f"{values.min():g} at its smallest")
        if abs(values.sum() - 1) > _tolerance(weight):
            raise wrong("weight", "positive numbers that sum to 1 (divide by the sum)", f"summing to {values.sum():g}")
    return weight


def _orthonormal(index: ArrayLike, inputs: int) -> Array:
    index = real_array("index", index, ...)
    if index.ndim != 2 or index.shape[0] != inputs:
        raise wrong("index", f"a matrix with a row for each of the {inputs} inputs", f"of shape {index.shape}")
    require_finite("index", index)
    if not is_traced(index):
        U = np.asarray(index, float)
        error = np.abs(U.T @ U - np.eye(U.shape[1])).max(initial=0)
        if error > _tolerance(index):
            raise wrong("index", "a matrix with orthonormal columns (see jnp.linalg.qr)", f"{error:.1g} away from it")
    return index


def _tolerance(array: Array) -> float:
    """The tolerance; in half precision that of its rounding."""
    is_floating = jnp.issubdtype(array.dtype, jnp.floating)
    return max(_RTOL, 2 * float(jnp.finfo(array.dtype).eps)) if is_floating else _RTOL


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
