"""Networks with a state, such as those with batch normalization, as maps of one sample and of a whole batch."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..checks import described, require_instance, wrong


class WithState(eqx.Module):
    """A network and its state as a map of one sample, as at inference: fixed statistics, no dropout.

        net = nf.nets.WithState(*eqx.nn.make_with_state(Network)(key=key))
        run = nf.gradient_flow(net, data, 10.0)

    The state is never trained. With statistics of the whole batch, gradient flow is that of a total loss:

        fit = lambda net, data: jnp.mean((net.on_batch(data.x) - data.y) ** 2)
        agop = lambda net, data: nf.measure.agop(net.with_statistics(data.x), data)
        run = nf.gradient_flow(net, data, 10.0, loss=nf.TotalLoss(fit), observe={"agop": agop})

    **Arguments:** `net`: a module that is called with a sample and its state, and returns a prediction and a state;
    `state`: as from `equinox.nn.make_with_state`.
    **Raises:** ValueError naming `net` or `state`.
    **Source:** Ioffe & Szegedy 2015 (batch normalization).
    """

    net: Any
    state: eqx.nn.State

    def __init__(self, net: Any, state: eqx.nn.State):
        if not callable(net):
            raise wrong("net", "a module (sample, state) -> (prediction, state)", described(net))
        require_instance("state", state, eqx.nn.State, "an `equinox.nn.State`, as from `equinox.nn.make_with_state`")
        self.net, self.state = eqx.nn.inference_mode(net), state

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The prediction for one sample."""
        return self.net(x, self._copied_state())[0]

    def on_batch(self, x: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """The predictions for a batch, normalized by its own statistics; dropout is off.

        Every sample counts alike: sample weights do not enter the statistics.
        """
        return self._on_batch(x)[0]

    def with_statistics(self, x: Float[Array, "n ..."]) -> "WithState":
        """The network with the statistics of a batch: it maps each of its samples as `on_batch` does."""
        return WithState(self.net, self._on_batch(x)[1])

    def _on_batch(self, x: Float[Array, "n ..."]) -> tuple[Float[Array, "n ..."], eqx.nn.State]:
        layers = _batch_norms(self.net)
        names = {layer.axis_name for layer in layers}
        if len(names) > 1:
            found = ", ".join(sorted(map(str, names)))
            raise wrong("net", "one whose batch normalizations have one axis name", f"one with {found}")
        inference = lambda net: [each.inference for each in _batch_norms(net)]
        training = eqx.tree_at(inference, self.net, [False] * len(layers))
        mapped = jax.vmap(training, in_axes=(0, None), out_axes=(0, None), axis_name=next(iter(names), None))
        return mapped(x, _without_history(layers, self._copied_state()))

    def _copied_state(self) -> eqx.nn.State:
        # A copy, because the layers make a state invalid that they have changed.
        return jax.lax.stop_gradient(self.state)


def _batch_norms(net: Any) -> list[eqx.nn.BatchNorm]:
    is_one = lambda node: isinstance(node, eqx.nn.BatchNorm)
    return [node for node in jax.tree.leaves(net, is_leaf=is_one) if is_one(node)]


def _without_history(layers: list[eqx.nn.BatchNorm], state: eqx.nn.State) -> eqx.nn.State:
    """The state from which one batch leaves its own statistics, and no mean with earlier ones."""
    for layer in layers:
        if layer.ema_first_time_index is not None:
            state = state.set(layer.ema_first_time_index, jnp.asarray(True))
        indices: Any = layer.batch_counter, layer.batch_state_index  # None in the mode "ema"
        for index in indices:
            state = state if index is None else state.set(index, jax.tree.map(jnp.zeros_like, state.get(index)))
    return state
