"""Networks by the place of their parametrization among several.

A parametrization is a start and a rate per layer, in numbers. JAX may trace the place by which they are looked up, so
that one compiled program per width serves all parametrizations.
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
    """A network that starts as the parametrization at this place has it, and the mobilities of its layers."""
    effective = [scheme.effective(widths) for scheme in schemes]
    std, mobility = (jnp.asarray(rows)[place] for rows in zip(*effective, strict=True))
    net = nets.MLP(widths, key=key, activation=activation)  # which starts as SP does
    ratios = std / jnp.asarray(nets.SP().effective(widths).std)
    return net.with_weights([r * W for r, W in zip(ratios, net.weights, strict=True)]), tuple(mobility)
