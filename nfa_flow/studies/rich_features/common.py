"""What the experiments on rich features share: networks of any width under each parametrization, and their training.

A parametrization is a start and a rate per layer, in numbers. They are looked up by its place, which JAX may trace, so
that one compiled program per width serves all parametrizations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import diffrax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ... import nets
from ...data import Dataset
from ...descent import gradient_descent
from ...flow import gradient_flow, log_times
from ...run.trajectory import Trajectory
from ..axes import batched, looped, places

SCHEMES = {"SP": nets.SP(), "NTP": nets.NTP(), "MeanField": nets.MeanField(), "muP": nets.muP()}
HIDDEN = 2  # hidden layers

Place = int | Int[Array, ""]


WIDTHS = looped([64, 128, 256, 512, 1024], quick=[64, 128, 256], tiny=[32, 40, 48], label="width $n$")
# Without the mean-field one, whose flow takes longest, where it is to be quick.
PLACES = batched(places(SCHEMES), quick=["SP", "NTP", "muP"], tiny=["NTP", "muP"])


def network(
    key: PRNGKeyArray, data: Dataset, width: int, scheme: Place, activation: str
) -> tuple[nets.MLP, tuple[Float[Array, ""], ...]]:
    """A network that starts as the parametrization at this place has it, and the mobilities of its layers."""
    shape = (data.inputs, *[width] * HIDDEN, data.outputs)
    effective = [each.effective(shape) for each in SCHEMES.values()]
    std = jnp.asarray([each.std for each in effective])
    mobility = jnp.asarray([each.mobility for each in effective])[scheme]
    net = nets.MLP(shape, key=key, activation=activation)  # which starts as SP does
    ratios = std[scheme] / std[list(SCHEMES).index("SP")]
    return net.with_weights([r * W for r, W in zip(ratios, net.weights, strict=True)]), tuple(mobility)


@dataclass(frozen=True)
class Flow:
    """Trains a network by its exact gradient flow."""

    t1: float
    rtol: float

    def __call__(
        self, net: nets.MLP, data: Dataset, mobility: Sequence[Any], key: PRNGKeyArray, **options: Any
    ) -> Trajectory:
        """The run; the key is for others."""
        times = np.concatenate([[0.0], log_times(self.t1 / 1000, self.t1, 12)])
        # Not stiff at these horizons: an explicit pair takes half the time of NDF, also to compile.
        options = {"rtol": self.rtol, "solver": diffrax.Tsit5(), "save_at": times, "progress": False} | options
        return gradient_flow(net, data, self.t1, mobility=mobility, **options)


@dataclass(frozen=True)
class SGD:
    """Trains a network by stochastic gradient descent, whose time is learning rate × step."""

    rate: float
    steps: int
    batch_size: int

    def __call__(
        self, net: nets.MLP, data: Dataset, mobility: Sequence[Any], key: PRNGKeyArray, **options: Any
    ) -> Trajectory:
        """The run; the key is for the minibatches."""
        step = lambda net: net.with_weights([-self.rate * m * W for m, W in zip(mobility, net.weights, strict=True)])
        batches: Any = {"batch_size": self.batch_size, "key": key, "time_per_step": self.rate}
        steps = np.unique(np.concatenate([[0], np.geomspace(1, self.steps, 12).round()])).astype(int)
        optimizer = optax.stateless(lambda net, params=None: step(net))
        return gradient_descent(net, data, optimizer, self.steps, save_at=steps, progress=False, **batches, **options)
