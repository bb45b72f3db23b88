"""Losses of one sample, (prediction, target) -> scalar, by name."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .checks import is_traced, named_function, wrong

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


def require_fitting(loss: Callable, prediction: Any, targets: Float[Array, "n c"]) -> None:
    """Raise unless a loss gives one scalar for a prediction of this shape, and targets are what it is meant for.

    **Raises:** ValueError naming `loss`; `data`, for targets of the cross entropy that are no distributions.
    """
    target = jax.ShapeDtypeStruct(targets.shape[1:], targets.dtype)
    value = eqx.filter_eval_shape(loss, prediction, target)
    if getattr(value, "shape", None) != ():
        raise wrong("loss", "a function with one scalar per sample", f"of shape {getattr(value, 'shape', value)}")
    if loss is not cross_entropy or is_traced(targets):
        return
    y = np.asarray(targets, float)
    if y.shape[1] < 2 or y.min() < 0 or abs(y.sum(axis=1) - 1).max() > 1e-5:
        raise wrong("data", "of one-hot or probability targets for the cross entropy", "of targets that are neither")
