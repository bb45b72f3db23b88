"""Whether a network has kinks, so that its gradient flow has a discontinuous right-hand side."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..checks import is_traced
from ..data import Dataset
from ..nets import MLP

_POINTS = 2048
_LINES = 2
# Refining the grid halves the largest change of a continuous derivative between neighbours, and not that of a jump.
_JUMP = 0.8


def has_kinks(net: Any, data: Dataset) -> bool:
    """Known for an `MLP` of named activations; for others looked for along lines through pairs of samples.

    Inside `jax.jit` nothing can be looked at, and a network counts as smooth unless it says otherwise.
    """
    if isinstance(net, MLP) and all(isinstance(activation, str) for activation in net.activations):
        return net.has_kinks
    if is_traced(net, data):
        return getattr(net, "has_kinks", False)
    samples = np.asarray(data.x)
    rng = np.random.default_rng(0)
    ends = [samples[rng.integers(len(samples), size=2)] for _ in range(_LINES)]
    return any(_jumps(net, jnp.asarray(start), jnp.asarray(end - start)) for start, end in ends)


def _jumps(net: Any, start: jax.Array, direction: jax.Array) -> bool:
    slope = lambda s: jax.jvp(lambda s: net(start + s * direction), (s,), (jnp.ones_like(s),))[1]
    s = jnp.linspace(-1, 2, 4 * _POINTS + 1, dtype=start.dtype)
    slopes = np.asarray(jax.jit(jax.vmap(slope))(s))
    largest = lambda every: np.abs(np.diff(slopes[::every], axis=0)).max()
    fine, coarse = largest(1), largest(4)
    rounding = 100 * float(jnp.finfo(start.dtype).eps) * np.abs(slopes).max()
    return bool(fine > rounding and fine > _JUMP * coarse)
