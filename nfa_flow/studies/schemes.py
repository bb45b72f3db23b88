"""Networks whose parametrization is given by its index in a list.

A parametrization is an initial standard deviation and a learning rate for each layer. JAX may trace the index that
selects these numbers, so that one compiled program for each width serves all parametrizations.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import nets

Place = int | Int[Array, ""]


def network(
    key: PRNGKeyArray,
    widths: Sequence[int],
    activation: str,
    schemes: Sequence[nets.AbstractParametrization],
    place: Place,
) -> tuple[nets.MLP, tuple[Float[Array, ""], ...]]:
    """A network with the initial weights of the parametrization at this index, and the mobilities of its layers."""
    effective = [scheme.effective(widths) for scheme in schemes]
    std, mobility = (jnp.asarray(rows)[place] for rows in zip(*effective, strict=True))
    net = nets.MLP(widths, key=key, activation=activation)  # with the initial weights of SP
    ratios = std / jnp.asarray(nets.SP().effective(widths).std)
    return net.with_weights([r * W for r, W in zip(ratios, net.weights, strict=True)]), tuple(mobility)
