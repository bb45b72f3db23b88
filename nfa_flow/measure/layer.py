"""Which layer of a network is measured, and its inputs and outputs.

A layer is observed through a tap: the network is called with the layer replaced by one that adds a shift to its
pre-activation z = W h + b. The derivative with respect to that shift is df/dz, for any network.
"""

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state
from jaxtyping import Array, Float, PyTree, Shaped

from ..checks import called, described, require_integer, wrong
from ..nets import MLP, WithState
from ..numerics.kernel import measurable
from ..numerics.precision import is_floating

# l = 1 … L in a network that applies its layers one after another, or a function from the network to the layer.
Layer = int | Callable[[Any], Any]

_WEIGHTED = (eqx.nn.Linear, eqx.nn.Conv)
_WITHOUT_MATRIX = (eqx.nn.LayerNorm, eqx.nn.RMSNorm, eqx.nn.GroupNorm, eqx.nn.BatchNorm, eqx.nn.PReLU)


def find_layer(net: Any, layer: Layer | None) -> int | None:
    """The position of a layer among those with weights, or None for the whole input of the network.

    The whole input is meant if `layer` is None, and by 1 in a network whose order of layers is not known. If the first
    layer is known to multiply the whole input, as in an `MLP`, its position is returned: measurements are the same
    there, and cheaper.

    **Raises:** ValueError naming `layer` or `net`.
    """
    layers = weighted_layers(net)
    if layer is None:
        return 0 if _begins_with_matrix(net) else None
    if not isinstance(layer, int) and callable(layer):
        must_be = "a function from the network to one of its `Linear`s or `Conv`s"
        chosen = called("layer", must_be, layer, net)
        for position, each in enumerate(layers):
            if each is chosen:
                return _supported(position, each)
        raise wrong("layer", must_be, f"to {chosen!r}")
    require_integer("layer", layer, at_least=1)
    layer = int(layer)  # of NumPy it would not do for a static field
    if not is_sequential(net) or not layers:
        if layer != 1:
            must_be = f"1 for a {type(net).__name__}; name a deeper layer by a function such as `lambda net: net.conv2`"
            raise wrong("layer", must_be, layer)
        return None
    if layer > len(layers):
        raise wrong("layer", f"at most the number of layers, {len(layers)}", layer)
    return _supported(layer - 1, layers[layer - 1])


def layer_weight(net: Any, layer: Layer, argument: str = "net") -> Float[Array, "fan_out fan_in"]:
    """The weight matrix W_l; of a convolution the unfolded kernel, channels out × (channels in · kernel).

    **Raises:** ValueError naming `layer`, or `argument` of a network without layers.
    """
    position, layers = find_layer(net, layer), weighted_layers(measurable(net))
    if not layers:
        raise wrong(argument, "a network with an `equinox.nn.Linear` or `Conv`", type(net).__name__)
    if position is None and len(layers) > 1:
        must_be = f"named by a function such as `lambda net: net.conv1`, as a {type(net).__name__} may use any first"
        raise wrong("layer", must_be, layer)
    return unfolded(layers[position or 0].weight)


def unfolded(weight: Float[Array, "fan_out *rest"]) -> Float[Array, "fan_out fan_in"]:
    """A kernel as the matrix that multiplies patches; a matrix as it is."""
    return weight.reshape(weight.shape[0], -1)


class Tap(eqx.Module):
    """A network with access to one layer: calls take a shift of that layer's pre-activation."""

    net: Any
    position: int | None = eqx.field(static=True)

    @property
    def weight(self) -> Float[Array, "fan_out fan_in"] | None:
        """W_l of the tapped layer; None at the input of the network."""
        return None if self.position is None else unfolded(weighted_layers(self.net)[self.position].weight)

    def still(self, x: PyTree) -> Array:
        """A shift of zero, in the precision of the network and its numbers.

        **Raises:** ValueError naming `data` at an input that has no derivative.
        """
        if self.position is None and not is_floating(x):
            must_be = "an array of floating-point numbers, to be differentiated by them (or name a `layer`)"
            raise wrong("data", must_be, f"of type {x.dtype}" if hasattr(x, "dtype") else f"a {type(x).__name__}")
        return jnp.zeros((), jnp.result_type(*filter(is_floating, jax.tree.leaves((self.net, x)))))

    def __call__(
        self, x: PyTree[Shaped[Array, "..."]], shift: Float[Array, "..."]
    ) -> tuple[Array, Float[Array, "..."], Float[Array, "..."]]:
        """(f(x), h, z) with the layer's input h and pre-activation z, to which `shift` was added.

        At the input of the network both are the shifted sample as one vector, whatever its shape.
        """
        position = self.position
        if position is None:
            z = jnp.ravel(x) + shift
            return self.net(z.reshape(x.shape)), z, z
        seen: list[tuple[Array, Array]] = []
        outside = get_opaque_trace_state()

        def shifted(h: Array, z: Array) -> Array:
            # Under a transformation within the network one shift would be shared by all that it runs over.
            if get_opaque_trace_state() != outside:
                raise wrong(
                    "layer", "one that the network applies itself", "one within its own `vmap`, `scan` or `jit`"
                )
            seen.append((h.astype(z.dtype), z + shift))  # h may be of integers
            return z + shift

        where = lambda net: weighted_layers(net)[position]
        y = eqx.tree_at(where, self.net, _Shifted(where(self.net), shifted))(x)
        if len(seen) != 1:
            raise wrong("layer", "one that the network applies once to each sample", f"applied {len(seen)} times")
        return y, *seen[0]


class _Shifted(eqx.Module):
    """A layer whose pre-activation is shifted.

    The shift is part of the function. As an array of the module it would be frozen together with the weights if a
    network uses its layer under `stop_gradient`, and the derivative with respect to it would be lost.
    """

    layer: Any
    shifted: Callable = eqx.field(static=True)

    def __call__(self, h: Array, *, key: Any = None) -> Array:
        return self.shifted(h, self.layer(h))

    @property
    def weight(self) -> Array:
        """The weight of the layer, for other layers that share it (`equinox.nn.Shared`)."""
        return self.layer.weight

    @property
    def bias(self) -> Array | None:
        return self.layer.bias


def patches(layer: Any, h: Float[Array, "..."]) -> Float[Array, "positions fan_in"]:
    """The rows that a layer multiplies by its unfolded weights: its input, or the patches that a convolution sees."""
    if isinstance(layer, eqx.nn.Linear):
        return h[None]
    size, bias = layer.weight[0].size, None if layer.bias is None else jnp.zeros_like(layer.bias[:1])
    entries = jnp.eye(size, dtype=h.dtype).reshape(size, 1, *layer.weight.shape[1:])
    where = lambda conv: (conv.weight, conv.bias)
    # A kernel with a single one picks one entry of every patch, whatever the stride, the padding and the dilation.
    pick = lambda kernel: eqx.tree_at(where, layer, (kernel, bias), is_leaf=lambda leaf: leaf is None)(h)
    return jax.vmap(lambda kernel: pick(kernel).ravel(), out_axes=1)(entries)


def by_code(layer: Layer) -> Layer:
    """A function that names a layer, as an object that equals all functions of the same code; other layers as they are.

    So a lambda written in a call is the same static argument in each call, and nothing compiles again.
    """
    return _ByCode(layer) if isinstance(layer, types.FunctionType) else layer


@dataclass(frozen=True, eq=False)
class _ByCode:
    function: Any

    def __call__(self, net: Any) -> Any:
        return self.function(net)

    def _key(self) -> Any:
        f = self.function
        try:
            cells = tuple(cell.cell_contents for cell in f.__closure__ or ())
            key = (f.__code__, id(f.__globals__), cells, f.__defaults__, tuple((f.__kwdefaults__ or {}).items()))
            hash(key)
        except (TypeError, ValueError):  # closed over what has no hash, or is not defined yet
            return f
        return key

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, _ByCode) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def weighted_layers(net: Any) -> list[Any]:
    """The `Linear`s and `Conv`s of a network in the order of its fields: in a sequential one, of their use."""
    leaves = jax.tree.leaves(net, is_leaf=lambda each: isinstance(each, _WEIGHTED))
    return [each for each in leaves if isinstance(each, _WEIGHTED)]


def is_sequential(net: Any) -> bool:
    """Whether the network is known to apply its layers one after another, in the order of its fields."""
    if isinstance(net, WithState):
        return is_sequential(net.net)
    if isinstance(net, eqx.nn.Sequential):
        return all(isinstance(each, _WEIGHTED) or is_sequential(each) or _has_no_matrix(each) for each in net.layers)
    return type(net) in (MLP, eqx.nn.MLP) and not getattr(net, "scan", False)  # scanned layers are stacked into one


def _begins_with_matrix(net: Any) -> bool:
    """Whether the network is known to multiply its whole input by the weights of its first layer."""
    if isinstance(net, WithState):
        return _begins_with_matrix(net.net)
    if isinstance(net, eqx.nn.Sequential):
        first = net.layers[0] if net.layers else None
        return (isinstance(first, eqx.nn.Linear) and first.weight.ndim == 2) or _begins_with_matrix(first)
    return is_sequential(net)


def require_net(net: Any) -> None:
    """Raise unless `net` is a function."""
    if not callable(net):
        raise wrong("net", "a network, which maps one sample to a prediction", described(net))


def require_inputs(net: Any, x: PyTree[Shaped[Array, "n ..."]]) -> None:
    """Raise unless `net` is a function, and samples are of the shape that it takes, if that is known."""
    require_net(net)
    if type(net) not in (MLP, eqx.nn.MLP):
        return
    inputs = net.widths[0] if isinstance(net, MLP) else net.in_size
    shape = getattr(x, "shape", None)
    if isinstance(inputs, int) and (shape is None or shape[1:] != (inputs,)):
        was = f"a {type(x).__name__}" if shape is None else f"of shape {shape}"
        raise wrong("data", f"of {inputs} inputs, like the network", was)


def _has_no_matrix(module: Any) -> bool:
    """Whether a module contains nothing that can be a layer, such as activations, pooling and normalizations."""
    return isinstance(module, _WITHOUT_MATRIX) or not jax.tree.leaves(eqx.filter(module, eqx.is_inexact_array))


def is_tied(layer: Any) -> bool:
    """Whether a layer has the weights of another layer instead of its own (`equinox.nn.Shared`)."""
    return not hasattr(layer.weight, "shape")


def _supported(position: int, layer: Any) -> int:
    if is_tied(layer):
        must_be = (
            "one with weights of its own; for a tied one, copy them into it by `eqx.tree_at` and measure that network"
        )
        raise wrong("layer", must_be, "one whose weights are those of another layer (`equinox.nn.Shared`)")
    if isinstance(layer, eqx.nn.Conv) and layer.groups != 1:
        raise wrong("layer", "a convolution that is not grouped", f"one of {layer.groups} groups")
    if isinstance(layer, eqx.nn.Linear) and layer.weight.ndim != 2:
        raise wrong("layer", "one layer, not several stacked into one", f"of weights of shape {layer.weight.shape}")
    return position
