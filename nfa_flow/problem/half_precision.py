"""Networks of half precision: their parameters are kept in single precision while something is computed with them.

Steps, norms and eigenvalues need more digits and a larger range than float16 or bfloat16 have. The network itself, its
loss and gradient are evaluated in its own precision.

Source: Micikevicius et al. 2018 (a master copy of the weights in single precision).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..numerics.precision import is_half
from .objective import AbstractObjective


def in_single_precision(parameters: PyTree, objective: AbstractObjective) -> tuple[PyTree, AbstractObjective]:
    """Parameters and objective, in single precision if they have half precision, otherwise as they are."""
    dtype = jnp.result_type(*jax.tree.leaves(parameters))
    if not is_half(dtype):
        return parameters, objective
    return _cast(parameters, jnp.float32), SinglePrecision(objective, str(dtype))  # pyright: ignore[reportCallIssue]


class SinglePrecision(AbstractObjective):
    """An objective of half precision as a function of parameters in single precision."""

    half: AbstractObjective
    dtype: str = eqx.field(static=True)

    @property
    def frozen(self) -> PyTree:
        return self.half.frozen

    @property
    def weight_decay(self) -> Float[Array, ""]:
        return self.half.weight_decay.astype(jnp.float32)

    @property
    def root_mobility(self) -> PyTree | None:
        return _cast(self.half.root_mobility, jnp.float32)

    @property
    def loss_function(self) -> Callable:
        return self.half.loss_function

    @property
    def at_once(self) -> int | None:
        return self.half.at_once

    def loss(self, parameters: PyTree) -> Float[Array, ""]:
        return self.half.loss(_cast(parameters, self.dtype)).astype(jnp.float32)

    def natural(self, parameters: PyTree) -> PyTree:
        return _cast(super().natural(parameters), self.dtype)


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
