"""Mobilities m of the flow dθ/dt = −m∇: of each layer, or of each array or number."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..checks import is_traced, wrong
from ..nets import MLP

Mobility = Sequence[float | Float[Array, ""]] | PyTree


def own_mobility(net: Any) -> Mobility | None:
    """The mobility that the parametrization of a network gives to its flow; None, which means 1, without one."""
    has_one = isinstance(net, MLP) and net.parametrization is not None and net.parametrization.rule == "sgd"
    return net.mobility if has_one else None


def root_mobility(mobility: Any, net: Any, parameters: PyTree) -> PyTree:
    """√m in the structure of the parameters, from one number per layer or from a tree of numbers or arrays.

    The tree has the structure of all floating-point arrays of the network, or of the parameters alone.

    **Raises:** ValueError naming `mobility`.
    """
    must_be = "positive numbers, one per layer of an `MLP` or in the structure of the network's arrays"
    if isinstance(net, MLP) and (isinstance(mobility, Sequence) or getattr(mobility, "ndim", 0) == 1):
        if len(mobility) != len(net.layers):
            raise wrong("mobility", must_be, f"of {len(mobility)} numbers for {len(net.layers)} layers")
        layers = [jax.tree.map(lambda _, m=m: m, layer) for m, layer in zip(mobility, parameters.layers, strict=True)]
        mobility = eqx.tree_at(lambda p: p.layers, parameters, tuple(layers))
    for m in jax.tree.leaves(mobility):
        is_number = jnp.issubdtype(m.dtype if hasattr(m, "dtype") else np.asarray(m).dtype, np.number)
        if not is_number or not (is_traced(m) or np.all(np.isfinite(m) & (m > 0))):
            raise wrong("mobility", must_be, repr(m))

    def root(p: Array | None, m: Any) -> Array | None:
        if p is None:  # no array, or one that is frozen
            return None
        r = jnp.sqrt(jnp.asarray(m, p.dtype))
        return r if r.ndim == 0 else jnp.broadcast_to(r, p.shape)

    try:
        return jax.tree.map(root, parameters, mobility, is_leaf=lambda leaf: leaf is None)
    except (ValueError, TypeError):
        raise wrong("mobility", must_be, f"{type(mobility).__name__} of another structure") from None
