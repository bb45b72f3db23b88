"""Half precision: which types have it, and single precision instead of it.

Factorizations do not exist in half precision, and its three digits would be lost in a sum over samples. Numbers in half
precision are exact in float32, so such a network is measured in float32.
"""

from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import DTypeLike, PyTree

_Tree = TypeVar("_Tree", bound=PyTree)


def is_floating(leaf: Any) -> bool:
    """Whether a leaf is an array, or the specification of one, of floating-point numbers."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def is_half(dtype: DTypeLike) -> bool:
    """Whether a type is one of floating-point numbers with fewer than 32 bits."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def single_or_wider(dtype: DTypeLike) -> jnp.dtype:
    """The type itself, or float32 in place of half precision."""
    return jnp.dtype(jnp.float32 if is_half(dtype) else dtype)


def at_least_single(tree: _Tree) -> _Tree:
    """The tree with its arrays of half precision converted to float32."""
    arrays, rest = eqx.partition(tree, eqx.is_inexact_array)
    return eqx.combine(jax.tree.map(lambda a: a.astype(single_or_wider(a.dtype)), arrays), rest)


def in_precision_of(net: PyTree, tree: _Tree) -> _Tree:
    """The floating-point arrays of `tree` in the dtype of a network, as in a run."""
    dtypes = [single_or_wider(leaf.dtype) for leaf in jax.tree.leaves(net) if eqx.is_inexact_array(leaf)]
    if not dtypes:
        return at_least_single(tree)
    arrays, rest = eqx.partition(tree, eqx.is_inexact_array)
    widest = max(dtypes, key=lambda dtype: dtype.itemsize)
    return eqx.combine(jax.tree.map(lambda a: a.astype(widest), arrays), rest)
