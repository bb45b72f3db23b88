"""Label noise."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..checks import require_instance, require_key, require_number, wrong
from .dataset import Dataset


def add_label_noise(data: Dataset, std: float | Float[Array, ""], *, key: PRNGKeyArray) -> Dataset:
    """The same data with independent N(0, std²) added to every target.

    **Arguments:** `data`: any data set; `std`: standard deviation ≥ 0 of the noise (can be traced); `key`: PRNG key.
    **Returns:** a data set of the same shapes.
    **Raises:** ValueError for a negative `std`.
    """
    require_key("key", key)
    require_instance("data", data, Dataset, "a `Dataset`")
    require_number("std", std, at_least=0)
    if data.has_labels:
        raise wrong("data", "of targets that are numbers (`data.one_hot()`)", "of class labels")
    noise = jax.random.normal(key, data.y.shape, data.y.dtype)
    return eqx.tree_at(lambda data: data.y, data, data.y + jnp.asarray(std, noise.dtype) * noise)
