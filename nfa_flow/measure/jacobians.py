"""The Jacobians of a network with respect to a layer's pre-activation, streamed in chunks.

With the Jacobian J(x) = df/dh of the network with respect to the input h of a layer, AGOP = E[JᵀJ]. Since J = B W with
B = df/dz (z = W h + b, of the layer's width), only the B are ever formed: a chunk of samples at a time, and a chunk of
outputs if a single sample would not fit. They are then folded into a sum.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int, PyTree

from ..checks import wrong
from ..numerics.chunks import fold_chunks
from ..numerics.meshes import blocks_of
from ..problem.losses import require_fitting
from ..problem.trained import one_of, prediction_of
from .layer import Tap

Sample = tuple[PyTree[Array], Array | None]  # (x, y); y only where a loss needs it
Probes = Callable[[Int[Array, " m"]], Float[Array, "b m c"]]


class Function(eqx.Module):
    """The function to differentiate by a shift of z: the prediction f(x), or the loss ℓ(f(x), y) as a vector."""

    tap: Tap
    loss: Callable | None = eqx.field(static=True, default=None)

    def __call__(self, shift: Array, sample: Sample) -> Float[Array, " c"]:
        x, y = sample
        prediction = self.tap(x, shift)[0]
        return prediction if self.loss is None else jnp.asarray(self.loss(prediction, y))[None]

    def shapes(self, samples: Sample) -> tuple[int, Any]:
        """The number c of entries, and the shape and dtype of z, for a sample like these.

        **Raises:** ValueError naming `net` if it does not map to a vector; `data` or `loss` if they do not fit.
        """
        x = one_of(samples[0])
        prediction_of(self.tap.net, samples[0])
        prediction, _, z = eqx.filter_eval_shape(self.tap, x, self.tap.still(x))
        if getattr(prediction, "ndim", None) != 1:
            raise wrong("net", "a map from a sample to a vector of outputs", f"to {_described(prediction)}")
        if self.loss is None:
            return prediction.shape[0], z
        assert samples[1] is not None  # read with their targets
        require_fitting(self.loss, prediction, samples[1])
        return 1, z

    def width(self, samples: Sample, multiply: bool) -> int:
        """The number of entries, or channels, of z; the layer's fan-in if Jacobians are to be multiplied by W."""
        return self.shapes(samples)[1].shape[0] if self.tap.weight is None or not multiply else self.tap.weight.shape[1]


class Batch(eqx.Module):
    """n samples and their weights, and how these rows are divided among devices."""

    samples: Sample
    weight: Float[Array, " n"]
    sharding: NamedSharding | None = eqx.field(static=True)


class Rows(NamedTuple):
    """Jacobians B of some samples and outputs, at `p` positions (1 except in convolutions) of `k` channels.

    `weight`: of the samples, shared among the positions; `outputs`: which of the c outputs. Rows that only complete a
    chunk have weight zero (samples) or are zero (outputs after the last one). `sharding`: of the samples.
    """

    B: Float[Array, "b m p k"]
    weight: Float[Array, " m"]
    outputs: Int[Array, " b"]
    sharding: NamedSharding | None

    @property
    def root(self) -> Float[Array, " m"]:
        """The square roots of the weights, with a finite derivative (of zero) at zero."""
        return jnp.where(self.weight > 0, jnp.sqrt(jnp.where(self.weight > 0, self.weight, 1)), 0)

    def stacked(self) -> Float[Array, "rows k"]:
        """All of them one below the other, weighted."""
        return (self.root[None, :, None, None] * self.together()).reshape(-1, self.B.shape[-1])

    def together(self) -> Float[Array, "q m r k"]:
        """B with those of each sample on the device of this sample, whatever reshaping follows."""
        by_sample = (1, len(self.weight), -1, self.B.shape[-1])
        return self.B if self.sharding is None else jnp.moveaxis(self.B, 1, 0).reshape(by_sample)


def stream(
    function: Function,
    batch: Batch,
    state: PyTree,
    fold: Callable[[PyTree, Rows], PyTree],
    memory: int,
    probes: Probes | None = None,
) -> PyTree:
    """Fold the Jacobians of all samples into `state`, about `memory` bytes of them at a time on each device.

    **Arguments:** `probes`: from the numbers of some samples to the vectors of outputs
    that their Jacobians are multiplied with; None: the unit vectors, for one output after another.
    """
    n, (c, z) = len(batch.weight), function.shapes(batch.samples)
    plan = _plan(function, batch.samples, n, c, z, memory, probes)

    def fold_chunk(state: PyTree, part: Sample, w: Float[Array, " m"], numbers: Int[Array, " m"]) -> PyTree:
        w = w.astype(z.dtype) / _positions(z)
        rows = lambda B, outputs: Rows(_by_position(B), w, outputs, batch.sharding)
        shift = jnp.zeros((len(w), *z.shape), z.dtype)
        if plan.forward:
            B = jax.vmap(jax.jacfwd(function))(shift, part)
            return fold(state, rows(jnp.moveaxis(B, 1, 0), jnp.arange(c)))
        pull = jax.vjp(lambda shift: jax.vmap(function)(shift, part), shift)[1]

        def fold_block(state: PyTree, outputs: Int[Array, " b"]) -> tuple[PyTree, None]:
            if probes is None:
                vectors = jax.nn.one_hot(outputs, c, dtype=z.dtype)[:, None]
                vectors = jnp.broadcast_to(vectors, (len(outputs), len(w), c))
            else:
                vectors = probes(numbers).astype(z.dtype)
            return fold(state, rows(jax.vmap(pull)(vectors)[0], outputs)), None

        return jax.lax.scan(fold_block, state, plan.blocks())[0]

    return fold_chunks(fold_chunk, state, batch.samples, batch.weight, plan.samples, blocks_of(batch.sharding))


class _Plan(NamedTuple):
    """How many samples and outputs at a time, and whether derivatives are taken forwards, from z to all outputs.

    Random combinations of outputs may take the place of the outputs.
    """

    samples: int
    outputs: int
    all_outputs: int
    forward: bool

    def blocks(self) -> Int[Array, "blocks b"]:
        """The numbers of the outputs, block by block; the last block may go on past the last output."""
        count = -(-self.all_outputs // self.outputs)
        return jnp.arange(count * self.outputs).reshape(count, self.outputs)


def _plan(function: Function, samples: Sample, n: int, c: int, z: Any, memory: int, probes: Probes | None) -> _Plan:
    vectors = c if probes is None else jax.eval_shape(probes, jnp.arange(1)).shape[0]
    forward = probes is None and z.size < c
    kept, widest = bytes_per_sample(function, samples, z)
    # Twice: the vectors that are being multiplied, and their products.
    per_vector = 2 * max(widest, c * z.dtype.itemsize)
    per_sample = kept + (z.size if forward else vectors) * per_vector
    divisible = probes is None and not forward
    outputs = int(min(vectors, max(1, (memory - kept) // per_vector))) if divisible else vectors
    return _Plan(int(min(n, max(1, memory // per_sample))), outputs, vectors, forward)


def bytes_per_sample(function: Function, samples: Sample, z: Any) -> tuple[int, int]:
    """The memory that backpropagation needs for one sample, and that of the largest array in it."""

    def kept(count: int) -> list[int]:
        part = jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, *a.shape[1:]), a.dtype), samples)
        shift = jax.ShapeDtypeStruct((count, *z.shape), z.dtype)
        pull = eqx.filter_eval_shape(lambda s, part: jax.vjp(lambda s: jax.vmap(function)(s, part), s)[1], shift, part)
        return [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pull)]

    # Weights are kept once, whatever the number of samples.
    sizes = [two - one for one, two in zip(kept(1), kept(2), strict=True)]
    return sum(sizes), max([*sizes, z.size * z.dtype.itemsize])


def _positions(z: Any) -> int:
    return math.prod(z.shape[1:])


def _by_position(B: Float[Array, "b m *z"]) -> Float[Array, "b m p k"]:
    """Channels last: a vector is one position, an array of shape (channels, …) has many."""
    return jnp.moveaxis(B.reshape(*B.shape[:3], -1), 2, 3)


def _described(prediction: Any) -> str:
    return f"an array of shape {prediction.shape}" if hasattr(prediction, "shape") else repr(prediction)
