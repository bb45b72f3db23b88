"""Conjugate gradients for I + cH, with H symmetric but not necessarily positive."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_NEGATIVE_CURVATURE = 0.02


class Solution(NamedTuple):
    """Where the iteration ended: x, the products spent, and whether its residual is small."""

    x: Float[Array, " P"]
    products: Int[Array, ""]
    converged: Bool[Array, ""]


class _Iterate(NamedTuple):
    x: Float[Array, " P"]
    residual: Float[Array, " P"]
    squared: Float[Array, ""]  # ‖residual‖²
    direction: Float[Array, " P"]
    products: Int[Array, ""]
    converged: Bool[Array, ""]
    definite: Bool[Array, ""]


def conjugate_gradients(
    product: Callable[[Float[Array, " P"]], Float[Array, " P"]],
    right: Float[Array, " P"],
    is_small: Callable[[Float[Array, " P"]], Bool[Array, ""]],
    *,
    most: int,
    skip: bool | Bool[Array, ""] = False,
    otherwise: Float[Array, " P"] | float = 0.0,
) -> Solution:
    """Solve (I + cH) x = `right` from x = 0.

    **Arguments:** `product`: v ↦ (I + cH) v; `is_small`: whether a residual is small enough; `most`: products to spend;
    `skip`: return x = `otherwise` at once (a `lax.cond` would compute both branches under `vmap`; a loop of no
    iterations does not).
    **Returns:** the solution. It has not converged if `most` products were spent, or if a direction p has pᵀ(I + cH)p ≤
    0.02‖p‖²: the negative curvature of H is too strong for c.
    **Source:** Hestenes & Stiefel 1952.
    """

    def iterate(s: _Iterate) -> _Iterate:
        image = product(s.direction)
        curvature = s.direction @ image
        definite = curvature > _NEGATIVE_CURVATURE * (s.direction @ s.direction)
        step = jnp.where(definite, s.squared / curvature, 0)
        residual = s.residual - step * image
        squared = residual @ residual
        return _Iterate(
            x=s.x + step * s.direction,
            residual=residual,
            squared=squared,
            direction=residual + squared / s.squared * s.direction,
            products=s.products + 1,
            converged=definite & is_small(residual),
            definite=definite,
        )

    first = _Iterate(
        x=jnp.where(skip, otherwise, jnp.zeros_like(right)),
        residual=right,
        squared=right @ right,
        direction=right,
        products=jnp.zeros((), jnp.int32),
        converged=is_small(right),
        definite=jnp.asarray(True),
    )
    unfinished = lambda s: s.definite & ~(s.converged | skip) & (s.products < most)
    last = jax.lax.while_loop(unfinished, iterate, first)
    return Solution(last.x, last.products, last.converged & ~jnp.asarray(skip))
