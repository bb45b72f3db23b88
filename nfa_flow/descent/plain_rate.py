"""The learning rate of plain gradient descent, whose steps lie on the time axis of gradient flow."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from ..checks import is_traced


def plain_rate(optimizer: optax.GradientTransformation, parameters: PyTree) -> float | Float[Array, ""] | None:
    """η of an optimizer without a state whose update is −η times the gradient, such as `optax.sgd(η)`; otherwise None.

    It is not measured: the update is called with stand-ins for gradients that can only be multiplied by numbers. So η
    may be a number that JAX traces, and nothing is compiled. The result is None for every update that does more than
    multiply, or whose factors differ between arrays. It is also None for an optimizer with a state (momentum, a
    schedule, injected hyperparameters), which may change from step to step.
    """
    state = jax.eval_shape(optimizer.init, parameters)
    if jax.tree.leaves(state):
        return None
    try:
        multiples = jax.tree.leaves(optimizer.update(jax.tree.map(lambda _: _Multiple(), parameters), state)[0])
    except Exception:  # of whatever kind: the update did something else to a gradient
        return None
    if not all(isinstance(each, _Multiple) and each.is_same(multiples[0]) for each in multiples):
        return None
    rate = -math.prod(multiples[0].factors)
    return rate if is_traced(rate) or rate >= 0 else None


class _Multiple:
    """A gradient times some scalars; it can only be multiplied by more of them."""

    __array_ufunc__ = None  # NumPy's numbers then leave the product to this class, as those of JAX do

    def __init__(self, *factors: Any):
        self.factors = factors

    def __mul__(self, factor: Any) -> "_Multiple":
        if jnp.ndim(factor):
            return NotImplemented
        return _Multiple(*self.factors, factor)

    __rmul__ = __mul__

    def is_same(self, other: "_Multiple") -> bool:
        """Whether the factors are the same objects, because traced numbers cannot be compared."""
        pairs = zip(self.factors, other.factors, strict=False)
        return len(self.factors) == len(other.factors) and all(a is b for a, b in pairs)
