"""Parts of a dataset, and the score of a network on samples that were not used for training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..data import Dataset


def split(data: Dataset, *sizes: int, key: PRNGKeyArray | None = None) -> list[Dataset]:
    """Parts with these numbers of samples: in the order of the data, or drawn at random with a key."""
    order = jnp.arange(data.samples) if key is None else jax.random.permutation(key, data.samples)
    parts = jnp.split(order, np.cumsum(sizes))[: len(sizes)]
    return [data[part] for part in parts]


def held_out_score(net: Any, data: Dataset) -> Float[Array, ""]:
    """The accuracy: the fraction of samples whose largest output is that of their class. R² for a single output."""
    outputs = jax.vmap(net)(data.x)
    if data.outputs == 1:
        return 1 - jnp.mean((outputs - data.y) ** 2) / jnp.var(data.y)
    return jnp.mean(jnp.argmax(outputs, axis=1) == jnp.argmax(data.y, axis=1))
