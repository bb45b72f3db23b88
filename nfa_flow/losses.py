"""Losses of one sample, (prediction, target) -> scalar, by name."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .checks import named_function

Loss = str | Callable[[Float[Array, " c"], Float[Array, " c"]], Float[Array, ""]]


def mse(prediction: Float[Array, " c"], target: Float[Array, " c"]) -> Float[Array, ""]:
    """½‖prediction − target‖², so that its mean over samples is ℒ = (1/2n) Σ‖f(x_i) − y_i‖²."""
    return 0.5 * jnp.sum((prediction - target) ** 2)


def cross_entropy(prediction: Float[Array, " c"], target: Float[Array, " c"]) -> Float[Array, ""]:
    """−Σ_k target_k · log softmax(prediction)_k; the target is one-hot or a distribution over the c classes."""
    return -jnp.sum(target * jax.nn.log_softmax(prediction))


LOSSES: dict[str, Callable] = {"mse": mse, "cross_entropy": cross_entropy}


def resolve(loss: Loss) -> Callable:
    """The function behind a name; a callable is its own function.

    **Raises:** ValueError for an unknown name or something that cannot be called.
    """
    return named_function("loss", loss, LOSSES, "(prediction, target) -> scalar")
