"""Modular arithmetic, the data of which networks are known to grok."""

import jax.numpy as jnp

from ..checks import require_choice, require_integer
from .dataset import Dataset

_OPERATIONS = {"add": jnp.add, "subtract": jnp.subtract, "multiply": jnp.multiply}


def modular(p: int, operation: str = "add") -> Dataset:
    """All pairs of numbers modulo p as tokens, with a + b, a − b or a · b modulo p as class labels.

    **Arguments:** `p`: the modulus ≥ 2; `operation`: "add", "subtract" or "multiply".
    **Returns:** p² samples of two tokens, integers from 0 to p − 1, in the order of a, then of b; p classes. Parts of
    it, such as a random half, are `data[rows]`.
    **Raises:** ValueError for another `p` or `operation`.
    **Source:** Power et al. 2022 (grokking); Mallinar et al. 2025 (its features are those of AGOP).
    """
    require_integer("p", p, at_least=2)
    require_choice("operation", operation, _OPERATIONS)
    a, b = jnp.divmod(jnp.arange(p * p), p)
    return Dataset(jnp.stack([a, b], axis=1), _OPERATIONS[operation](a, b) % p)
