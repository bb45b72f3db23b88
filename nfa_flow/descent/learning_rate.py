"""Recognise plain gradient descent, whose steps live on the time axis of gradient flow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from ..checks import is_traced


def plain_learning_rate(optimizer: optax.GradientTransformation, parameters: PyTree, steps: int) -> float | None:
    """η if every update is −η times the current gradient with a constant η, otherwise None.

    Tried out on different gradients at the first, second and last step, which tells momentum, adaptive methods,
    decoupled weight decay and schedules apart from plain gradient descent. Only the shapes of the parameters matter,
    so this works while JAX traces them; an optimiser whose own numbers are traced counts as unknown.
    """
    with jax.ensure_compile_time_eval():
        ones = jax.tree.map(lambda p: jnp.ones(p.shape, p.dtype), parameters)
        state = optimizer.init(ones)
        last = jax.tree.map(lambda leaf: jnp.full_like(leaf, steps - 1) if _is_counter(leaf) else leaf, state)
        rates = []
        for trial, frequency in enumerate((1.0, 2.0, 3.0)):
            # The first entry is exactly 1, so that the rate is read off without rounding.
            gradient = jax.tree.map(
                lambda p, f=frequency: ((2 + jnp.cos(f * jnp.arange(p.size))) / 3).reshape(p.shape).astype(p.dtype),
                ones,
            )
            updates, state = optimizer.update(gradient, state if trial < 2 else last, ones)
            if is_traced(updates):
                return None
            pairs = zip(*map(jax.tree.leaves, (updates, gradient)), strict=True)
            rates.append(np.concatenate([-np.asarray(u / g).ravel() for u, g in pairs]))
    rate = float(rates[0][0])
    is_plain = rate > 0 and np.allclose(np.concatenate(rates), rate, rtol=1e-5, atol=0)
    return rate if is_plain else None


def _is_counter(leaf) -> bool:
    return jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.integer)
