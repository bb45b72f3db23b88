"""A measurement of the network whose weights, in one layer, are replaced by their change."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from ..checks import wrong
from .layer import Layer, by_code, find_layer, layer_weight, weighted_layers


class OnChange(eqx.Module):
    """The observable `(net, data) -> array` that `on_change` makes."""

    observable: Callable[..., PyTree]
    initial: Float[Array, "p d"]
    layer: Layer = eqx.field(static=True, converter=by_code)

    @property
    def from_run(self) -> tuple[str, ...]:
        """The arguments that a run supplies to the measurement."""
        return getattr(self.observable, "from_run", ())

    def __call__(self, net: Any, data: Any, **supplied: Any) -> PyTree:
        shape = layer_weight(net, self.layer).shape
        if shape != self.initial.shape:
            raise wrong("initial", f"a network with a layer of shape {shape}", f"one of shape {self.initial.shape}")
        position = find_layer(net, self.layer) or 0
        weight = lambda net: weighted_layers(net)[position].weight
        change = lambda W: W - self.initial.reshape(W.shape)
        return self.observable(eqx.tree_at(weight, net, replace_fn=change), data, **supplied)


def on_change(observable: Callable[..., PyTree], initial: Any, *, layer: Layer = 1) -> OnChange:
    """`observable` of the network in which ΔW_l = W_l − W_l(0) takes the place of W_l; all other arrays stay.

    AGOP is then not that of the trained network, because activations are also computed from ΔW_l. The scripts of
    Radhakrishnan et al. for fully connected networks measure this: they subtract the start in place before they compute
    AGOP. `on_change(alignment(1.0), initial)` gives the number of the script of 2022 and
    `on_change(nfa_pearson_2024(), initial)` that of 2024. The papers use the AGOP of the trained network, as
    `nfa_cosine_2022` and `nfa_pearson_2024` do.

    **Arguments:** `observable`: `(net, data) -> array`; `initial`: the network at the start; `layer`: as in
    `alignment`.
    **Returns:** an observable `(net, data) -> array`.
    **Raises:** ValueError naming `observable`, `initial` or `layer`.
    **Source:** the code of Radhakrishnan, Beaglehole, Pandit & Belkin 2022 and of Radhakrishnan et al. 2024.
    """
    if not callable(observable):
        raise wrong("observable", "a function `(net, data) -> array`, such as `alignment(1.0)`", repr(observable))
    return OnChange(observable, layer_weight(initial, layer, "initial"), layer)
