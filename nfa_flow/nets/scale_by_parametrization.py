"""The learning rates of a parametrization, for optimizers."""

from typing import NamedTuple

import equinox as eqx
import jax
import optax
from jaxtyping import PyTree

from ..checks import wrong
from .mlp import MLP


class ScaleByParametrizationState(NamedTuple):
    """Empty; it marks `scale_by_parametrization` inside a chain."""


def scale_by_parametrization() -> optax.GradientTransformation:
    """Multiply the updates of each layer of an `MLP` by the factor in the network's parametrization.

    Chain it after the optimizer that the parametrization is for:

        optax.chain(optax.sgd(0.1), nf.nets.scale_by_parametrization())  # MLP(…, parametrization=muP())
        optax.chain(optax.adam(1e-3), nf.nets.scale_by_parametrization())  # MLP(…, parametrization=muP("adam"))

    The steps of the first are those of Euler's method for the network's gradient flow: with `time_per_step=0.1` in
    `nf.gradient_descent` both have the same time axis.

    Weight decay before it in the chain is multiplied too: a layer of mobility m decays at the rate η m λ, with the λ of
    `optax.adamw` as with `weight_decay=λ` of `nf.gradient_descent` and `nf.gradient_flow`. The `mup` package of the
    authors of muP divides λ by m instead, so that all layers decay at the rate ηλ. For that, add the decay after it:

        optax.chain(optax.adam(η), nf.nets.scale_by_parametrization(), optax.add_decayed_weights(-η * λ))

    **Returns:** an optax transformation without a state.
    **Raises:** ValueError naming `net`, at its first use, for anything but an `MLP` with a parametrization.
    """

    def update(updates: PyTree, state: optax.OptState, params: PyTree | None = None) -> tuple[PyTree, optax.OptState]:
        if not isinstance(updates, MLP) or updates.parametrization is None:
            raise wrong("net", "an `MLP` with a `parametrization`, which gives the learning rates", repr(updates))
        m = updates.mobility
        is_none = lambda leaf: leaf is None  # in the place of a frozen array
        if isinstance(m, tuple):
            m = eqx.tree_at(lambda net: [linear.weight for linear in net.layers], updates, m, is_leaf=is_none)
        scaled = lambda update, m: None if update is None else m * update
        return jax.tree.map(scaled, updates, m, is_leaf=is_none), state

    return optax.GradientTransformation(lambda params: ScaleByParametrizationState(), update)


def scales_by_parametrization(optimizer: optax.GradientTransformation, parameters: PyTree) -> bool:
    """Whether an optimizer has `scale_by_parametrization` among its parts."""
    is_ours = lambda node: isinstance(node, ScaleByParametrizationState)
    return any(is_ours(node) for node in jax.tree.leaves(jax.eval_shape(optimizer.init, parameters), is_leaf=is_ours))
