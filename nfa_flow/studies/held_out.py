"""What a network scores on samples that it was not trained on."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..data import Dataset


def held_out_score(net: Any, data: Dataset) -> Float[Array, ""]:
    """The share of samples whose largest output is that of their class; R² where there is one output only."""
    outputs = jax.vmap(net)(data.x)
    if data.outputs == 1:
        return 1 - jnp.mean((outputs - data.y) ** 2) / jnp.var(data.y)
    return jnp.mean(jnp.argmax(outputs, axis=1) == jnp.argmax(data.y, axis=1))
