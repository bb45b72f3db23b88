"""Trees of arrays: their leaves by name, whether one is undefined, and what is known of their derivatives."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from ..checks import is_traced


def flatten(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their path, such as `fit.exponent`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def has_nan(array: Any) -> bool:
    """Whether an array of floating-point numbers holds a NaN."""
    return jnp.issubdtype(array.dtype, jnp.inexact) and bool(np.isnan(np.asarray(array)).any())


def derivative_if(defined: Bool[Array, ""], tree: PyTree) -> PyTree:
    """The tree; its derivatives are NaN unless they are `defined`."""
    return jax.tree.map(lambda leaf: _scaled(leaf, defined) if eqx.is_inexact_array(leaf) else leaf, tree)


@jax.custom_jvp
def _scaled(leaf: Array, defined: Bool[Array, ""]) -> Array:
    return leaf


@_scaled.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    leaf, defined = primals
    return leaf, tangents[0] * jnp.where(defined, 1, jnp.nan).astype(leaf.dtype)


def constant(tree: PyTree) -> PyTree:
    """The tree without derivatives; so its numbers are known where JAX differentiates outside of `jax.jit`."""
    if not is_traced(tree):
        return tree
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, tree)
