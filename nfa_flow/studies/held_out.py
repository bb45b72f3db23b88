"""Parts of a data set, and what a network scores on samples that it was not trained on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..data import Dataset


def split(data: Dataset, *sizes: int, key: PRNGKeyArray | None = None) -> list[Dataset]:
    """Parts of so many samples each: in their order, or drawn at random where there is a key."""
    order = jnp.arange(data.samples) if key is None else jax.random.permutation(key, data.samples)
    parts = jnp.split(order, np.cumsum(sizes))[: len(sizes)]
    return [Dataset(data.x[part], data.y[part], index=data.index) for part in parts]


def held_out_score(net: Any, data: Dataset) -> Float[Array, ""]:
    """The share of samples whose largest output is that of their class; R² where there is one output only."""
    outputs = jax.vmap(net)(data.x)
    if data.outputs == 1:
        return 1 - jnp.mean((outputs - data.y) ** 2) / jnp.var(data.y)
    return jnp.mean(jnp.argmax(outputs, axis=1) == jnp.argmax(data.y, axis=1))
