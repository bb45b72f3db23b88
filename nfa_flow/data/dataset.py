"""A data set: samples of inputs and targets, with optional weights and, if known, the true index space."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.typing import ArrayLike
from jaxtyping import Array, DTypeLike, Float, PyTree, Shaped

from ..checks import floating_dtype, is_traced, real_array, reduced, require_finite, require_integer, wrong
from ..numerics.meshes import blocks_of, divided, on_automatic_axes, row_sharding, rows_of
from ..numerics.precision import is_floating

_RTOL = 1e-5  # for "sums to 1" and "orthonormal": far above the rounding of float32, far below a mistake
_MIN = lambda xp, array: xp.min(array)


class Dataset(eqx.Module):
    """n samples of inputs x and targets y; a mean over samples is Σ_i w_i (…), with w_i = 1/n unless weights are given.

    **Arguments:**
    - `x`: inputs, n × d; or samples of any shape, n × …, such as images n × channels × height × width, or sequences of
      tokens; or a dictionary (or module) of several such arrays, which is then what the network is called with, row by
      row.
    - `y`: targets, n × c, or n × … for predictions of another shape. A vector of integers is one of class labels, 0 to
      c − 1, for the cross entropy; any other vector becomes one column.
    - `weight`: n non-negative sample weights that sum to 1, or None for 1/n each.
    - `index`: orthonormal basis, d × r, of the subspace of the inputs through which the targets depend on x.

    The arguments may be arrays, data frames, CPU tensors of PyTorch, and nested lists of numbers. Signed integers in x,
    such as tokens, and class labels stay integers. All other numbers are stored in one floating dtype: the widest of x
    and y, or JAX's default float if there is none. Arrays that are divided among devices stay so (`on`).

    **Raises:** ValueError for values that are not real numbers, masked entries, wrong shapes, NaN or infinity, negative
    labels, negative weights or a sum other than 1, or an `index` that is not orthonormal. Values that JAX is tracing
    are not known yet and are not checked.
    """

    x: PyTree[Shaped[Array, "n ..."]]
    y: Shaped[Array, "n ..."]
    weight: Float[Array, " n"] | None
    index: Float[Array, "d r"] | None
    sharding: NamedSharding | None = eqx.field(static=True)  # how samples are divided among devices; None: they are not

    def __init__(self, x: Any, y: ArrayLike, weight: ArrayLike | None = None, index: ArrayLike | None = None):
        x, y, weight = on_automatic_axes((_arrays(x), real_array("y", y, ...), weight))
        n = len(jax.tree.leaves(x)[0])
        has_labels = y.ndim == 1 and jnp.issubdtype(y.dtype, jnp.integer)
        y = y if y.ndim != 1 or has_labels else y[:, None]
        if y.ndim == 0 or len(y) != n or 0 in y.shape:
            raise wrong("y", f"a matrix (samples × outputs) with the {n} rows of `x`", f"of shape {y.shape}")
        numbers = [a.dtype for a in [*jax.tree.leaves(x), *([] if has_labels else [y])] if is_floating(a)]
        with jax.numpy_dtype_promotion("standard"):
            dtype = jnp.result_type(*numbers) if numbers else jnp.zeros(()).dtype
        self.x = jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jnp.signedinteger) else a.astype(dtype), x)
        self.y = y.astype(jnp.int32 if has_labels else dtype)
        require_finite("x", self.x)
        require_finite("y", self.y)
        if has_labels and not is_traced(y) and (smallest := reduced(_MIN, y)) < 0:
            raise wrong("y", "class labels, from 0 on, if it is a vector of integers", f"{smallest} at its smallest")
        self.weight = None if weight is None else _weights(weight, n).astype(dtype)
        self.sharding = sharding = rows_of(jax.tree.leaves(self.x)[0])
        if sharding is not None:
            self.y, self.weight = jax.tree.map(lambda a: divided(a, sharding), (self.y, self.weight))
        self.index = None if index is None else _orthonormal(index, self.inputs).astype(dtype)

    @property
    def samples(self) -> int:
        """The number of samples n."""
        return len(self.y)

    @property
    def inputs(self) -> int:
        """The number of inputs d.

        **Raises:** ValueError if samples are not vectors.
        """
        if not hasattr(self.x, "ndim") or self.x.ndim != 2:
            raise wrong("data", "of vectors, samples × inputs", f"of {_shape_of(self.x)}")
        return self.x.shape[1]

    @property
    def outputs(self) -> int:
        """The number of outputs c; of class labels, one more than the largest.

        **Raises:** ValueError if targets are not vectors, or labels that JAX is tracing.
        """
        if self.has_labels:
            if is_traced(self.y):
                raise wrong("data", "of one-hot targets inside a trace, `data.one_hot(classes)`", "of class labels")
            return int(reduced(lambda xp, y: xp.max(y), self.y)) + 1
        if self.y.ndim != 2:
            raise wrong("data", "of targets that are vectors, samples × outputs", f"of {_shape_of(self.y)}")
        return self.y.shape[1]

    @property
    def has_labels(self) -> bool:
        """Whether the targets are class labels."""
        return not is_floating(self.y)

    @property
    def dtype(self) -> jnp.dtype:
        """The floating dtype of its numbers; JAX's default where it has only integers."""
        numbers = [leaf.dtype for leaf in jax.tree.leaves(self) if is_floating(leaf)]
        return numbers[0] if numbers else jnp.zeros(()).dtype

    @property
    def sample_weight(self) -> Float[Array, " n"]:
        """The weights w_i; 1/n each if no weights were given."""
        return jnp.full(self.samples, 1 / self.samples, self.dtype) if self.weight is None else self.weight

    @property
    def X(self) -> Float[Array, "n d"]:
        """The inputs as a matrix of floating-point numbers.

        **Raises:** ValueError if samples are not vectors.
        """
        _ = self.inputs  # raises
        return self.x.astype(self.dtype)

    @property
    def Y(self) -> Float[Array, "n c"]:
        """The targets as a matrix of floating-point numbers.

        **Raises:** ValueError if they are class labels, or not vectors.
        """
        if self.has_labels:
            raise wrong("data", "of targets that are numbers (`data.one_hot()`)", "of class labels")
        _ = self.outputs  # raises
        return self.y

    @property
    def S_xx(self) -> Float[Array, "d d"]:
        """Σ_i w_i x_i x_iᵀ, not centered."""
        return self._moment(self.X, self.X)

    @property
    def S_xy(self) -> Float[Array, "d c"]:
        """Σ_i w_i x_i y_iᵀ, not centered."""
        return self._moment(self.X, self.Y)

    @property
    def S_yy(self) -> Float[Array, "c c"]:
        """Σ_i w_i y_i y_iᵀ, not centered."""
        return self._moment(self.Y, self.Y)

    def _moment(self, a: Float[Array, "n p"], b: Float[Array, "n q"]) -> Float[Array, "p q"]:
        # "highest": a GPU would otherwise multiply float32 in TF32, with three digits.
        return jnp.matmul((self.sample_weight[:, None] * a).T, b, precision="highest")

    def __getitem__(self, rows: Any) -> "Dataset":
        """These samples, in this order: `rows` is a slice, or an array of positions or of True and False.

        Weights are divided by their sum.
        """
        x, y = jax.tree.map(lambda array: array[rows], (self.x, self.y))
        weight = None if self.weight is None else self.weight[rows]
        return Dataset(x, y, None if weight is None else weight / jnp.sum(weight), self.index)

    def astype(self, dtype: DTypeLike) -> "Dataset":
        """The same data in another floating dtype; integers stay integers."""
        dtype = floating_dtype("dtype", dtype)
        return jax.tree.map(lambda array: array.astype(dtype) if is_floating(array) else array, self)

    def one_hot(self, classes: int | None = None) -> "Dataset":
        """The same data with one-hot targets, n × c, in the place of class labels.

        **Arguments:** `classes`: c; by default one more than the largest label.
        **Raises:** ValueError if the targets are no labels, or `classes` is not larger than all of them, or is left out
        inside a trace.
        """
        if not self.has_labels:
            raise wrong("data", "of class labels, a vector of integers", f"of targets of type {self.y.dtype}")
        if classes is None:
            if is_traced(self.y):
                raise wrong("classes", "given when labels are traced by JAX", None)
            classes = self.outputs
        require_integer("classes", classes, at_least=1 if is_traced(self.y) else self.outputs)
        return eqx.tree_at(lambda data: data.y, self, jax.nn.one_hot(self.y, classes, dtype=self.dtype))

    def on(self, mesh: Mesh, axis: str | None = None) -> "Dataset":
        """The same data with its samples divided among the devices of a mesh, which then share all work on them.

        The network is copied to every device unless its arrays are divided themselves (`jax.device_put`). Results are
        those of one device up to rounding, by the same solver. If the mesh does not divide the number of samples, the
        last sample is repeated with weight 0, which changes no weighted sum; results for single samples
        (`nf.measure.ntk`) have entries for the copies, and minibatches may draw them. Sweeps do not take such data.

        With several processes (`jax.distributed`) all of them make the same calls with the same data. Data of which
        each process holds a part alone are a `Dataset` of arrays from `jax.make_array_from_process_local_data`.

        **Arguments:** `mesh`: from `jax.make_mesh`; `axis`: the axis of the mesh along which samples are divided, by
        default the first. Along the others they are copied.
        **Raises:** ValueError naming `mesh` or `axis`, or `data` inside a trace.
        """
        sharding = row_sharding(mesh, axis)
        if is_traced(self.x, self.y, self.weight, jnp.zeros(())):  # a new array is traced too, if JAX is tracing at all
            raise wrong("data", "placed on a mesh outside of `jax.jit` and `jax.vmap`", "traced by JAX")
        missing, weight = -self.samples % blocks_of(sharding), self.weight
        if missing:
            weight = jnp.concatenate([self.sample_weight, jnp.zeros(missing, self.dtype)])
        complete = lambda a: jnp.concatenate([a, *[a[-1:]] * missing]) if missing else a
        x, y = jax.tree.map(lambda a: divided(complete(a), sharding), (self.x, self.y))
        return Dataset(x, y, weight, self.index)

    def __repr__(self) -> str:
        if not isinstance(self.y, jax.Array):  # specifications in the shape of a Dataset: vmap axes, a filter
            return super().__repr__()
        is_vector = hasattr(self.x, "ndim") and self.x.ndim == 2
        inputs = _count(self.x.shape[1], "input") if is_vector else _shape_of(self.x)
        outputs = _count(self.y.shape[1], "output") if self.y.ndim == 2 else _shape_of(self.y)
        sizes = f"{_count(self.samples, 'sample')}, {inputs} -> {'labels' if self.has_labels else outputs}"
        devices = "" if self.sharding is None else f", on {_count(self.sharding.num_devices, 'device')}"
        return f"Dataset({sizes}, {self.dtype}{'' if self.weight is None else ', weighted'}{devices})"


def _arrays(x: Any) -> PyTree[Array]:
    """The inputs as arrays with as many rows; nested lists are arrays."""
    is_list = lambda node: isinstance(node, list | tuple)
    paths, structure = jax.tree_util.tree_flatten_with_path(x, is_leaf=is_list)
    arrays = {f"x{jax.tree_util.keystr(path)}": leaf for path, leaf in paths}
    arrays = {name: real_array(name, leaf, ...) for name, leaf in arrays.items()}
    if not arrays:
        raise wrong("x", "an array (samples × inputs), or a dictionary of arrays", repr(x))
    for name, array in arrays.items():
        if array.ndim < 2 or 0 in array.shape:
            must_be = "a matrix (samples × inputs), or samples of any shape, with at least one of each"
            raise wrong(name, must_be, f"of shape {array.shape}")
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        raise wrong(
            "x", "of arrays with as many rows", f"of {', '.join(f'{n} in `{name}`' for name, n in rows.items())}"
        )
    return jax.tree.unflatten(structure, arrays.values())


def _shape_of(samples: PyTree) -> str:
    """The shape of one sample, in words."""
    shapes = ["×".join(map(str, leaf.shape[1:])) or "1" for leaf in jax.tree.leaves(samples)]
    return f"samples of shape {' and '.join(shapes)}"


def _weights(weight: ArrayLike, samples: int) -> Array:
    weight = real_array("weight", weight, ...)
    if weight.shape != (samples,):
        raise wrong("weight", f"a vector with one entry for each of the {samples} samples", f"of shape {weight.shape}")
    require_finite("weight", weight)
    if not is_traced(weight):
        if (smallest := reduced(_MIN, weight)) < 0:
            raise wrong("weight", "non-negative everywhere", f"{smallest:g} at its smallest")
        if abs((total := reduced(lambda xp, w: w.astype(float).sum(), weight)) - 1) > _tolerance(weight):
            raise wrong("weight", "positive numbers that sum to 1 (divide by the sum)", f"summing to {total:g}")
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
