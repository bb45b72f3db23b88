"""Data, initializations and observables that the experiments on the Neural Feature Ansatz share."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray

from ... import Dataset, measure, nets
from ...data import linear_teacher
from ...nets.initialization import Weights
from ...problem.losses import Loss
from ..judgments import AtMost

# The largest error in a law of the exact flow that a relative tolerance of 1e-9 may cause.
EXACT = 1e-7

_ON_KINK = 1e-9  # |w·x| up to which a sample is on a kink; where the flow slides it is a few rounding errors

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


def on_one_side(net: nets.MLP, *, active: bool) -> nets.MLP:
    """A ReLU network with the gradients of one side at all samples on its kinks, where its own depend on rounding.

    The flow ends on the kinks along which it slides. At these samples AGOP may use the gradients of either side.
    """
    shape = [net.weights[0].shape[1], *(len(W) for W in net.weights)]
    activation = _active_on_kinks if active else _inactive_on_kinks
    return nets.MLP(shape, key=jax.random.key(0), activation=activation).with_weights(net.weights)


def _active_on_kinks(z: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(z > -_ON_KINK, z, 0.0)


def _inactive_on_kinks(z: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(z > _ON_KINK, z, 0.0)


def best_of_both_sides(net: nets.MLP, data: Dataset) -> dict[str, Any]:
    """The better `best_cosine` of both sides of all kinks, and `apart`: how far apart their errors are."""
    low, high = (measure.best_cosine(on_one_side(net, active=active), data) for active in (False, True))
    is_low = low.relative_error <= high.relative_error
    better = jax.tree.map(lambda a, b: jnp.where(is_low, a, b), low, high)
    return better._asdict() | {"apart": abs(low.relative_error - high.relative_error)}


def certificate(limit: float, where: Mapping[str, Any] | None = None) -> dict[str, AtMost]:
    """The two laws that the exact flow obeys across kinks too, as claims about runs with `certify=True`."""
    most = partial(AtMost, of=where or {})
    return {
        "exact flow, across all kinks: ℒ(0) − ℒ(t) = ∫‖θ'‖² dt": most("loss_identity_error_at_end", limit),
        "exact flow, across all kinks: ‖w_k‖² − a_k² is conserved": most(
            "balance_error_at_end", limit, "off by ≤ {} of ‖w_k‖² + a_k²"
        ),
    }


def imbalance(net: nets.MLP, data: Dataset) -> Float[Array, ""]:
    """(Σ_l ‖D_l‖²_F)^{1/2}, the size of the balance matrices."""
    return jnp.sqrt(sum(jnp.sum(D**2) for D in measure.balance(net, data)))
