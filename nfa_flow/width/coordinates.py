"""The sizes of the activations and outputs of a network and of their changes in training, layer by layer."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..checks import wrong
from ..data import Dataset
from ..measure.layer import require_inputs
from ..nets import MLP
from ..numerics.factorizations import largest_singular_value
from ..numerics.precision import at_least_single, in_precision_of
from ..numerics.switches import full_precision


class Coordinates(eqx.Module):
    """An observable: root mean squares of activations and outputs, and norms of updates, since an initial network.

    Names: for each hidden layer `activation l`, the size of h_l = σ(W_l …) at the start, and `change l`, the size of
    its change since then; `output` and `output change` in the same way; for each layer `update l`, the spectral norm
    ‖ΔW_l‖ over √(fan_out/fan_in).

    **Arguments:** `initial`: the network that training began with.
    **Raises:** ValueError naming `initial`, or `net` and `data` in a call.
    """

    initial: MLP

    def __check_init__(self):
        _require_mlp("initial", self.initial)

    @full_precision
    def __call__(self, net: MLP, data: Dataset) -> dict[str, Float[Array, ""]]:
        _require_mlp("net", net)
        if net.widths != self.initial.widths:
            raise wrong("net", f"of the widths {self.initial.widths} of `initial`", net.widths)
        if not isinstance(data, Dataset):
            raise wrong("data", "a `Dataset`", f"a {type(data).__name__}")
        require_inputs(net, data.x)
        first, net = at_least_single((self.initial, net))
        data = in_precision_of(net, data)
        before, after = (_activations(each, data.x) for each in (first, net))
        sizes = {f"activation {l}": _rms(h) for l, h in enumerate(before[:-1], start=1)}
        sizes |= {
            f"change {l}": _rms(h - h_0) for l, (h_0, h) in enumerate(zip(before[:-1], after[:-1], strict=True), 1)
        }
        for l, (W_0, W) in enumerate(zip(first.weights, net.weights, strict=True), start=1):
            fan_out, fan_in = W.shape
            sizes[f"update {l}"] = largest_singular_value(W - W_0) * (fan_in / fan_out) ** 0.5
        return sizes | {"output": _rms(before[-1]), "output change": _rms(after[-1] - before[-1])}


def _require_mlp(argument: str, net: Any) -> None:
    if not isinstance(net, MLP):
        raise wrong(argument, "an `nfa_flow.nets.MLP`", f"a {type(net).__name__}")


def _activations(net: MLP, x: Float[Array, "n d"]) -> list[Float[Array, "n _"]]:
    """h_1, …, h_{L−1} and the outputs."""
    hidden = [jax.vmap(lambda each, l=l: net.to_layer(l + 1, each))(x) for l in range(1, net.depth)]
    return [*hidden, jax.vmap(net)(x)]


def _rms(values: Float[Array, "..."]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.mean(values**2))
