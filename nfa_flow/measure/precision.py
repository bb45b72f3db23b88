"""In which precision a network is measured: its own, and single where that is half.

Factorizations know no half precision, and its three digits would be lost in a sum over samples. The numbers of a
network in half precision are numbers of float32 too, so it is measured as that network.
"""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import DTypeLike, PyTree

_Tree = TypeVar("_Tree", bound=PyTree)


def at_least_single(tree: _Tree) -> _Tree:
    """The same tree with its arrays of half precision in float32."""
    is_half = lambda leaf: eqx.is_inexact_array(leaf) and leaf.dtype.itemsize < 4
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if is_half(leaf) else leaf, tree)


def in_precision_of(net: PyTree, tree: _Tree) -> _Tree:
    """The floating-point arrays of `tree` in the dtype of a network, as a run brings its data there."""
    dtype = _dtype(at_least_single(net))
    if dtype is None:
        return at_least_single(tree)
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, tree)


def _dtype(net: PyTree) -> DTypeLike | None:
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(net) if eqx.is_inexact_array(leaf)}
    return max(dtypes, key=lambda dtype: dtype.itemsize, default=None)
