"""Whether a network or its loss has kinks, so that its gradient flow has a discontinuous right-hand side."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checks import is_traced
from ..data import Dataset
from ..losses import Loss
from ..nets import MLP
from ..nets.activations import name_of

_LINES = 2
_CELLS = 1024
_LARGEST_CELLS = 16  # of these are looked into,
_PARTS = 64  # twice, in so many parts
# Among 64 parts of a cell, the largest change of a continuous derivative is about a 64th of that over the cell, and a
# jump is all of it, or its largest share where several are in the cell.
_JUMP = 0.1


def has_kinks(net: Any, data: Dataset, loss: Loss = "mse") -> bool:
    """Known for an `MLP` of named activations and for named losses; others are looked at along lines.

    The lines go through pairs of samples, and for the loss through a target. Inside `jax.jit` nothing can be looked
    at: a network then counts as smooth unless it says otherwise.
    """
    known_net = type(net) is MLP and all(name_of(each) for each in net.activations)
    if getattr(net, "has_kinks", False) or (known_net and isinstance(loss, str)) or is_traced(net, data):
        return getattr(net, "has_kinks", False)
    target = jnp.asarray(data.y[0])
    if not isinstance(loss, str) and _jumps(eqx.Partial(_loss_at, loss, target), target, jnp.ones_like(target)):
        return True
    if known_net:
        return False
    rng, samples = np.random.default_rng(0), np.asarray(data.x)
    # A little of a random direction, for data of one sample.
    directions = rng.normal(size=(_LINES, data.inputs)) * np.abs(samples).max() / 10
    starts, ends = rng.choice(samples, _LINES), rng.choice(samples, _LINES)
    lines = zip(starts, (ends - starts + directions).astype(samples.dtype), strict=True)
    return any(_jumps(net, jnp.asarray(start), jnp.asarray(direction)) for start, direction in lines)


def _loss_at(loss: Callable, target: jax.Array, prediction: jax.Array) -> jax.Array:
    return loss(prediction, target)


def _jumps(function: Callable, start: jax.Array, direction: jax.Array) -> bool:
    """Whether the derivative along a line jumps: zooms into the cells of a grid over which it changes most."""

    def zoom(low: np.ndarray, high: np.ndarray, parts: int, count: int) -> tuple[Any, Any, Any, float]:
        """(low, high, change of the derivative) of the `count` steepest parts of every cell, and its largest size."""
        ends = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, parts + 1)
        slopes = np.asarray(_slopes(function, start, direction, jnp.asarray(ends, start.dtype)))
        changes = np.abs(np.diff(slopes, axis=1)).max(axis=-1)
        steepest = np.argsort(changes, axis=1)[:, -count:]
        pick = lambda values: np.take_along_axis(values, steepest, axis=1).ravel()
        return pick(ends[:, :-1]), pick(ends[:, 1:]), pick(changes), float(np.abs(slopes).max())

    # Not from 0 to 1, where a kink may sit.
    low, high, _, _ = zoom(np.array([-1.0]), np.array([2.03]), _CELLS, _LARGEST_CELLS)
    low, high, before, _ = zoom(low, high, _PARTS, 1)
    _, _, change, size = zoom(low, high, _PARTS, 1)
    rounding = 100 * float(jnp.finfo(start.dtype).eps) * size
    return bool(np.any((change > rounding) & (change > _JUMP * before)))


@eqx.filter_jit
def _slopes(
    function: Callable, start: jax.Array, direction: jax.Array, places: Float[Array, "cells ends"]
) -> Float[Array, "cells ends outputs"]:
    slope = lambda s: jax.jvp(lambda s: jnp.ravel(function(start + s * direction)), (s,), (jnp.ones_like(s),))[1]
    return jax.vmap(jax.vmap(slope))(places)
