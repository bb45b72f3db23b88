"""Data, initializations and observables that the experiments on the Neural Feature Ansatz share."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray

from ... import Dataset, measure, nets
from ...data import linear_teacher
from ...nets.initialization import Weights
from ...problem.losses import Loss

# The largest error in a law of the exact flow that a relative tolerance of 1e-9 may cause.
EXACT = 1e-7

INPUTS, OUTPUTS = 10, 5
ERROR_AT = "relative error of NFM $\\propto$ AGOP$^{{{}}}$"  # to be formatted with an exponent


def teacher(key: PRNGKeyArray) -> Dataset:
    """The data of linear networks: 200 samples of a linear teacher with label noise."""
    return linear_teacher(200, INPUTS, OUTPUTS, key=key, noise=0.1)


def widths(depth: int) -> list[int]:
    """The widths of a network for the data of `teacher`; hidden layers have as many neurons as inputs."""
    return [INPUTS] * depth + [OUTPUTS]


class OneOf(nets.AbstractInitialization):
    """One of several initializations by its index, which may be traced, so that one program serves all of them."""

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


def imbalance(net: nets.MLP, data: Dataset) -> Float[Array, ""]:
    """(Σ_l ‖D_l‖²_F)^{1/2}, the size of the balance matrices."""
    return jnp.sqrt(sum(jnp.sum(D**2) for D in measure.balance(net, data)))
