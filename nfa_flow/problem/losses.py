"""Losses of one sample, (prediction, target) -> scalar, by name."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checks import is_traced, named_function, wrong
from ..data import Dataset

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


def mean_loss(loss: Callable, net: Any, data: Dataset) -> Float[Array, ""]:
    """The weighted mean loss of the samples."""
    losses = jax.vmap(loss)(jax.vmap(net)(data.x), data.y)
    return jnp.mean(losses) if data.weight is None else data.weight @ losses


def require_fitting(loss: Callable, prediction: Any, targets: Float[Array, "n c"]) -> None:
    """Raise unless the loss gives one scalar for a prediction of this shape, and the targets fit the loss.

    The named losses need predictions and targets of the same shape; others may be of any two shapes.

    **Raises:** ValueError naming `loss`; `net`, if a named loss needs predictions of another shape; `data`, if targets
    of the cross entropy are not distributions.
    """
    shape, outputs = getattr(prediction, "shape", None), targets.shape[1]
    if loss is cross_entropy and outputs == 1 and shape not in ((), (1,), None):
        must_be = f"of one-hot targets for the cross entropy (class numbers: `jax.nn.one_hot(labels, {shape[0]})`)"
        raise wrong("data", must_be, "of targets in one column")
    if loss in LOSSES.values() and shape != (outputs,):
        raise wrong(
            "net",
            f"a map to {outputs} output{'' if outputs == 1 else 's'}, like the data",
            prediction if shape is None else shape,
        )
    target = jax.ShapeDtypeStruct(targets.shape[1:], targets.dtype)
    try:
        value = eqx.filter_eval_shape(loss, prediction, target)
    except Exception as error:
        must_be = f"a function of one prediction, of shape {shape}, and one target, of shape {target.shape}"
        raise wrong("loss", must_be, f"one that raises {type(error).__name__}: {error}") from error
    if getattr(value, "shape", None) != ():
        raise wrong("loss", "a function with one scalar per sample", f"of shape {getattr(value, 'shape', value)}")
    if loss is not cross_entropy or is_traced(targets):
        return
    y = np.asarray(targets, float)
    if y.shape[1] < 2 or y.min() < 0 or abs(y.sum(axis=1) - 1).max() > 1e-5:
        raise wrong("data", "of one-hot or probability targets for the cross entropy", "of targets that are neither")
