"""What the experiments on the Neural Feature Ansatz share."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from ... import measure
from ...losses import Loss

# What a trajectory at a relative tolerance of 1e-9 may miss a law of the exact flow by.
EXACT = 1e-7


def observables(power: float | Float[Array, ""], loss: Loss = "mse") -> dict[str, Callable[[Any, Any], Any]]:
    """Loss, cosine and relative error at an exponent, and the fitted exponent."""
    return {
        "loss": eqx.Partial(measure.loss, loss=loss),
        "cosine": measure.alignment(power),
        "relative_error": measure.alignment(power, metric="relative_error"),
        "exponent": measure.fit_exponent,
    }
