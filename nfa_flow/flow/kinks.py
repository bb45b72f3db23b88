"""Whether a network or its loss has kinks, so that its gradient flow has a discontinuous right-hand side."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..checks import is_traced
from ..data import Dataset
from ..losses import Loss
from ..nets import MLP
from ..nets.activations import name_of

_POINTS = 2048
_LINES = 2
# A grid four times as fine has a quarter of the largest change between neighbours where the derivative is continuous,
# and the same at a jump.
_JUMP = 0.8


def has_kinks(net: Any, data: Dataset, loss: Loss = "mse") -> bool:
    """Known for an `MLP` of named activations and for named losses; others are looked at along lines.

    The lines go through pairs of samples, and for the loss through a target. Inside `jax.jit` nothing can be looked
    at: a network then counts as smooth unless it says otherwise.
    """
    known_net = isinstance(net, MLP) and all(name_of(each) for each in net.activations)
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


@eqx.filter_jit
def _slopes(function: Callable, start: jax.Array, direction: jax.Array) -> jax.Array:
    slope = lambda s: jax.jvp(lambda s: function(start + s * direction), (s,), (jnp.ones_like(s),))[1]
    # Not on 0 or 1, where a kink may sit.
    return jax.vmap(slope)(jnp.linspace(-1, 2.03, 4 * _POINTS + 1, dtype=start.dtype))


def _jumps(function: Callable, start: jax.Array, direction: jax.Array) -> bool:
    slopes = np.asarray(_slopes(function, start, direction))
    largest = lambda every: np.abs(np.diff(slopes[::every], axis=0)).max()
    fine, coarse = largest(1), largest(4)
    rounding = 100 * float(jnp.finfo(start.dtype).eps) * np.abs(slopes).max()
    return bool(fine > rounding and fine > _JUMP * coarse)
