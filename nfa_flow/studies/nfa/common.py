"""What the experiments on the Neural Feature Ansatz share."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray

from ... import measure, nets
from ...nets.initialization import Weights
from ...problem.losses import Loss

# What a trajectory at a relative tolerance of 1e-9 may miss a law of the exact flow by.
EXACT = 1e-7


class OneOf(nets.AbstractInitialization):
    """One of several initializations by its place, which may be traced, so that one program serves all of them."""

    options: tuple[nets.AbstractInitialization, ...]
    place: int | Int[Array, ""]

    def __call__(self, key: PRNGKeyArray, widths: tuple[int, ...], dtype: DTypeLike) -> Weights:
        return jax.lax.switch(self.place, [lambda init=init: init(key, widths, dtype) for init in self.options])


def observables(power: float | Float[Array, ""], loss: Loss = "mse") -> dict[str, Callable[[Any, Any], Any]]:
    """Loss, cosine and relative error at an exponent, and the fitted exponent."""
    return {
        "loss": eqx.Partial(measure.loss, loss=loss),
        "cosine": measure.alignment(power),
        "relative_error": measure.alignment(power, metric="relative_error"),
        "exponent": measure.fit_exponent,
    }
