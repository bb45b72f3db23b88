"""Trees of arrays that were observed: their leaves by name, and whether one is undefined."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


def flatten(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their path, such as `fit.exponent`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def has_nan(array: Any) -> bool:
    """Whether an array of floating-point numbers holds a NaN."""
    return jnp.issubdtype(array.dtype, jnp.inexact) and bool(np.isnan(np.asarray(array)).any())
