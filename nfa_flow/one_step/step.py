"""One large gradient step on the first layer, or the same time in several steps, or along the exact flow."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..checks import require_instance, require_integer, require_number, wrong
from ..data import Dataset
from ..flow import gradient_flow
from ..measure import loss
from ..nets import MLP
from ..numerics.kernel import kernel


def one_step(net: MLP, data: Dataset, eta: float | int | Float[Array, ""], *, steps: int = 1) -> MLP:
    """W_1 = W_0 − η ∂ℒ/∂W_0 for the first layer, ℒ = (1/2n) Σ‖f(x_i) − y_i‖²; the readout stays.

    **Arguments:** `net`: of two layers without biases, as from `two_layer_net`; `data`: the full batch; `eta`: η > 0,
    as κ n^α; `steps`: k steps of η/k instead of one.
    **Returns:** the network after the step.
    **Raises:** ValueError for another network, or an argument out of its range.
    **Source:** Moniri, Lee, Hassani & Dobriban 2024.
    """
    _require_two_layers(net, data)
    require_number("eta", eta, above=0)
    require_integer("steps", steps, at_least=1)
    return _stepped(net, data, jnp.asarray(eta / steps, net.weights[0].dtype), jnp.asarray(steps))


def flow_step(
    net: MLP, data: Dataset, eta: float | int | Float[Array, ""], *, rtol: float = 1e-4, **options: Any
) -> MLP:
    """The first layer at time η of its exact gradient flow, dW/dt = −∂ℒ/∂W: infinitely many small steps.

    **Arguments:** `net`, `data`, `eta`: as in `one_step`; `rtol`, `options`: of `nf.gradient_flow`.
    **Returns:** the network at time η.
    **Raises:** ValueError as `one_step`; `RunError` as `nf.gradient_flow`.
    """
    _require_two_layers(net, data)
    require_number("eta", eta, above=0)
    keep = {"observe": {}, "save_at": jnp.asarray([eta]), "progress": False} | options
    moved = gradient_flow(OnlyFirstLayer.of(net), data, eta, rtol=rtol, **keep).net
    return eqx.tree_at(_first, net, _first(moved.net))


class OnlyFirstLayer(eqx.Module):
    """A network of two layers in which only the first is trained: the bits of the second are kept as integers.

    Neither gradients nor weight decay change integers.
    """

    net: MLP

    @classmethod
    def of(cls, net: MLP) -> "OnlyFirstLayer":
        """The network with its readout frozen."""
        bits = f"uint{8 * _readout(net).dtype.itemsize}"
        return cls(eqx.tree_at(_readout, net, jax.lax.bitcast_convert_type(_readout(net), bits)))

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        readout = jax.lax.bitcast_convert_type(_readout(self.net), _first(self.net).dtype)
        return eqx.tree_at(_readout, self.net, readout)(x)

    @property
    def has_kinks(self) -> bool:
        """Whether an activation is piecewise linear, up to a constant."""
        return self.net.has_kinks or any(getattr(each, "has_kinks", False) for each in self.net.activations)


def cancel_output(net: MLP, data: Dataset) -> Dataset:
    """The data with f(x_i) added to each target, so that the residuals of `net` are y_i: its own output cancels.

    Training on these data is training of f(x) − f_0(x), the network minus the network at the start.

    **Arguments:** `net`: as it starts; `data`: the batch of the step.
    **Returns:** data of the same shapes.
    **Source:** Chizat, Oyallon & Bach 2019 (centering of the model).
    """
    _require_two_layers(net, data)
    return eqx.tree_at(lambda data: data.y, data, data.y + _outputs(net, data))


def gradient_vector(net: MLP, data: Dataset) -> Float[Array, "d c"]:
    """β = Xᵀr/n with the residuals r = y − f, for each output: the step adds nearly η c_1 a βᵀ to the first layer.

    **Arguments:** `net`, `data`: as in `one_step`, before the step.
    **Returns:** one column per output.
    """
    _require_two_layers(net, data)
    return _projected(net, data)


@kernel
def _stepped(net: MLP, data: Dataset, rate: Float[Array, ""], steps: Any) -> MLP:
    loss_of = lambda W: loss(eqx.tree_at(_first, net, W), data)
    W = jax.lax.fori_loop(0, steps, lambda _, W: W - rate * jax.grad(loss_of)(W), _first(net))
    return eqx.tree_at(_first, net, W)


def _first(net: MLP) -> Any:
    return net.layers[0].weight


def _readout(net: MLP) -> Any:
    return net.layers[1].weight


@kernel
def _outputs(net: MLP, data: Dataset) -> Float[Array, "n c"]:
    return jax.vmap(net)(data.X).astype(data.dtype)


@kernel
def _projected(net: MLP, data: Dataset) -> Float[Array, "d c"]:
    return data.X.T @ (data.sample_weight[:, None] * (data.Y - jax.vmap(net)(data.X)))


def _require_two_layers(net: Any, data: Dataset) -> None:
    require_instance("data", data, Dataset, "a `Dataset`")
    if not isinstance(net, MLP) or net.depth != 2 or any(layer.bias is not None for layer in net.layers):
        raise wrong("net", "an `MLP` of two layers without biases, as from `two_layer_net`", repr(net))
    if (data.inputs, data.outputs) != (net.widths[0], net.widths[-1]):
        expected = f"of {net.widths[0]} inputs and {net.widths[-1]} outputs, like the network"
        raise wrong("data", expected, f"of {data.inputs} and {data.outputs}")
