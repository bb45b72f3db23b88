"""The inputs of a layer and the loss gradients at it, streamed over the samples in chunks.

For each sample these are the input h of the layer, its pre-activation z = W h + b and the loss gradient g = ∇_z ℓ; the
gradient at the input is Wᵀg. A convolution has one h (a patch), z and g for every position. They are folded into a sum.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Shaped

from ..checks import require_number, wrong
from ..data import Dataset
from ..numerics.chunks import fold_chunks
from ..numerics.kernel import measurable
from ..numerics.meshes import blocks_of
from ..numerics.precision import in_precision_of, is_floating
from ..problem.losses import Loss, require_fitting, resolve_of_sample
from .jacobians import Function, bytes_per_sample
from .layer import Layer, Tap, find_layer, patches, require_inputs, weighted_layers


class LayerRows(NamedTuple):
    """Inputs and gradients of one layer for `m` samples at `p` positions (1 except in convolutions).

    `error`: the change of g for relative errors of size one in prediction and target. If g is smaller than machine
    epsilon times this, it is rounding error of predictions that fit their targets. `weight`: of the samples; zero for
    those that only complete a chunk.
    """

    h: Float[Array, "m p fan_in"]
    z: Float[Array, "m p k"]
    g: Float[Array, "m p k"]
    error: Float[Array, "m p k"]
    weight: Float[Array, " m"]


Fold = Callable[[PyTree, LayerRows], PyTree]


class LayerStream(eqx.Module):
    """The inputs and gradients of one layer for a data set, about `memory` bytes of them at a time."""

    tap: Tap
    data: Dataset
    loss: Callable = eqx.field(static=True)
    memory: int = eqx.field(static=True)

    @property
    def sizes(self) -> tuple[int, int, Any]:
        """(fan-in, k, dtype): the lengths of h and of z at one position, and the dtype of z.

        **Raises:** ValueError naming `net`, `data` or `loss` if predictions and targets do not fit each other.
        """
        outputs, z = Function(self.tap).shapes((self.data.x, None))
        require_fitting(self.loss, jax.ShapeDtypeStruct((outputs,), z.dtype), self.data.y)
        W = self.tap.weight
        return z.shape[0] if W is None else W.shape[1], z.shape[0], z.dtype

    @property
    def at_once(self) -> int:
        """The number of samples at a time, on each device."""
        samples, function = (self.data.x, self.data.y), Function(self.tap, self.loss)
        kept, _ = bytes_per_sample(function, samples, function.shapes(samples)[1])
        rows = eqx.filter_eval_shape(self._rows, *samples, self.data.sample_weight)
        kept += sum(leaf.size * leaf.dtype.itemsize for leaf in rows) // self.data.samples
        return max(1, self.memory // kept)

    @property
    def is_one_chunk(self) -> bool:
        """Whether all samples are folded together."""
        return self.at_once * blocks_of(self.data.sharding) >= self.data.samples

    def fold(self, state: PyTree, fold: Fold) -> PyTree:
        """Fold the rows of all samples into `state`, chunk by chunk; it keeps its shape unless there is one chunk."""
        x, y, weight = self.data.x, self.data.y, self.data.sample_weight
        if self.is_one_chunk:
            return fold(state, self._rows(x, y, weight))
        add = lambda state, rows, weight, _: fold(state, self._rows(rows[0], rows[1], weight))
        return fold_chunks(add, state, (x, y), weight, self.at_once, blocks_of(self.data.sharding))

    def _rows(self, x: PyTree, y: Shaped[Array, "m ..."], weight: Float[Array, " m"]) -> LayerRows:
        h, z, g, error = jax.vmap(self._rows_of)(x, y)
        return LayerRows(h, z, g, error, weight.astype(z.dtype))

    def _rows_of(self, x: PyTree, y: Shaped[Array, "..."]) -> tuple[Array, Array, Array, Array]:
        shape = eqx.filter_eval_shape(self.tap, x, self.tap.still(x))[2]

        def by_shift(shift: Array) -> tuple[Array, tuple[Array, Array]]:
            prediction, h, z = self.tap(x, shift)
            return prediction, (h, z)

        prediction, pull, (h, z) = jax.vjp(by_shift, jnp.zeros(shape.shape, shape.dtype), has_aux=True)
        # Errors of random sign, so that they do not cancel between prediction and target.
        rng, is_number = np.random.default_rng(0), is_floating(y)  # a label has no error
        change = [rng.choice([-1.0, 1.0], a.shape).astype(a.dtype) * a for a in (prediction, y)[: 1 + is_number]]
        of = lambda prediction, target=y: jax.grad(self.loss)(prediction, target)
        slope, error = jax.jvp(of, (prediction, y)[: 1 + is_number], tuple(change))
        position = self.tap.position
        seen = h[None] if position is None else patches(weighted_layers(self.tap.net)[position], h)
        return seen, _by_position(z), _by_position(pull(slope)[0]), _by_position(pull(error)[0])


def layer_stream(net: Any, data: Dataset, *, layer: Layer, loss: Loss, memory: int) -> LayerStream:
    """The stream for layer `layer`; arguments as in `agop`.

    **Raises:** ValueError naming `data`, `layer`, `loss` or `memory`.
    """
    require_number("memory", memory, at_least=1)
    if not isinstance(data, Dataset):
        raise wrong("data", "a `Dataset`, because the loss needs targets", f"a {type(data).__name__}")
    require_inputs(net, data.x)
    net, data = measurable(net), in_precision_of(net, data)
    return LayerStream(Tap(net, find_layer(net, layer)), data, resolve_of_sample(loss), int(memory))


def _by_position(z: Float[Array, "k *positions"]) -> Float[Array, "p k"]:
    return z.reshape(len(z), -1).T
