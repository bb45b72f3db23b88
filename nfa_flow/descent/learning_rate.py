"""Recognise plain gradient descent, whose steps live on the time axis of gradient flow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree


def plain_learning_rate(optimizer: optax.GradientTransformation, parameters: PyTree, steps: int) -> float | None:
    """η if every update is −η times the current gradient with a constant η, otherwise None.

    Tried out on different gradients at the first, second and last step, which tells momentum, adaptive methods,
    decoupled weight decay and schedules apart from plain gradient descent.
    """
    state = optimizer.init(parameters)
    last = jax.tree.map(lambda leaf: jnp.full_like(leaf, steps - 1) if _is_counter(leaf) else leaf, state)
    rates = []
    for trial, frequency in enumerate((1.0, 2.0, 3.0)):
        gradient = jax.tree.map(
            lambda p, f=frequency: 1 + 0.5 * jnp.cos(f * jnp.arange(p.size)).reshape(p.shape).astype(p.dtype),
            parameters,
        )
        updates, state = optimizer.update(gradient, state if trial < 2 else last, parameters)
        ratios = [-np.asarray(u / g).ravel() for u, g in zip(*map(jax.tree.leaves, (updates, gradient)), strict=True)]
        rates.append(np.concatenate(ratios))
    rate = float(rates[0][0])
    is_plain = rate > 0 and np.allclose(np.concatenate(rates), rate, rtol=1e-5, atol=0)
    return rate if is_plain else None


def _is_counter(leaf) -> bool:
    return jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.integer)
