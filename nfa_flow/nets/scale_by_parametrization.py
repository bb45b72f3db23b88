"""The learning rates of a parametrisation, for optimisers."""

import equinox as eqx
import jax
import optax
from jaxtyping import PyTree

from ..checks import wrong
from .mlp import MLP


def scale_by_parametrization() -> optax.GradientTransformation:
    """Multiply the updates of each layer of an `MLP` by the factor that its own parametrisation gives it.

    To be chained after the optimiser for which the parametrisation is meant:

        optax.chain(optax.sgd(0.1), nf.nets.scale_by_parametrization())  # MLP(…, parametrization=muP())
        optax.chain(optax.adam(1e-3), nf.nets.scale_by_parametrization())  # MLP(…, parametrization=muP("adam"))

    The steps of the first are those of Euler's method for the network's gradient flow: with `time_per_step=0.1`
    `nf.gradient_descent` puts both on one time axis.

    Whatever comes before it in the chain is scaled too: after `optax.adamw` the decoupled decay of a layer is its rate
    times λ, as in the gradient flow, where λ is multiplied by the mobility. The `mup` package instead rescales λ so
    that every layer decays at ηλ; for that chain `optax.add_decayed_weights(-ηλ)` after this transformation.

    **Returns:** an optax transformation without a state.
    **Raises:** ValueError naming `net`, at its first use, for anything but an `MLP` with a parametrisation.
    """

    def scale(updates: PyTree, params: PyTree | None = None) -> PyTree:
        if not isinstance(updates, MLP) or updates.parametrization is None:
            raise wrong("net", "an `MLP` with a `parametrization`, whose learning rates are asked for", repr(updates))
        m = updates.mobility
        if isinstance(m, tuple):
            m = eqx.tree_at(lambda net: [linear.weight for linear in net.layers], updates, m)
        return jax.tree.map(lambda m, update: m * update, m, updates)

    return optax.stateless(scale)
