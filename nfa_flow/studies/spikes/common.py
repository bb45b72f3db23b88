"""What the experiments on one gradient step share: the setting, a draw of it, and what is looked at afterwards."""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ...data import Dataset, single_index
from ...nets import MLP
from ...one_step import (
    feature_spectrum,
    features,
    gradient_vector,
    powers,
    ridge_fit,
    sizes,
    spike_overlap,
    two_layer_net,
)
from ...run.trajectory import Trajectory
from ...theory import GradientDirection, Hermite, HermiteSeries, gradient_direction, hermite, hermite_series
from ..training import Untrained

PHI, PSI = 0.3, 0.6  # d/n and d/N
NOISE = 0.5
PENALTY = 0.01
TEACHER = hermite_series([0, 1, 0.5**0.5])  # z + (z² − 1)/√2
_TEST = 2  # batches of samples to test on

THEORY: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1.2, "zorder": 5}
SOURCE: dict[str, Any] = {"color": "black", "linestyle": ":", "linewidth": 1.2, "zorder": 5}


class Draw(NamedTuple):
    """`net` as it starts, the `batch` of its step, and `fresh` samples: n for the ridge regression, then others."""

    net: MLP
    batch: Dataset
    fresh: Dataset


def draw(key: PRNGKeyArray, samples: int, activation: str, teacher: HermiteSeries) -> Draw:
    """A network and data at the ratios of this study."""
    data_key, net_key = jax.random.split(key)
    n, inputs, width = sizes(samples, PHI, PSI)
    data = single_index((2 + _TEST) * n, inputs, key=data_key, noise=NOISE, link=teacher)
    net = two_layer_net(inputs, width, activation, key=net_key)
    batch = Dataset(data.x[:n], data.y[:n], index=data.index)
    return Draw(net, batch, Dataset(data.x[n:], data.y[n:], index=data.index))


class Features(NamedTuple):
    """Of the features on fresh samples: all `singular_values` over √n, the `overlap` of the first two left singular
    vectors with the powers 1 and 2 of X̃β, and the losses of ridge regression over the mean square of the targets."""

    singular_values: Float[Array, " r"]
    overlap: Float[Array, " s"]
    train: Float[Array, ""]
    test: Float[Array, ""]


def features_of(net: MLP, data: Dataset, beta: Float[Array, " d"], samples: int) -> Features:
    """Look at a network on fresh samples, of which the first `samples` are for fitting; an observable."""
    F, (x, y) = features(net, data.x), (data.x, data.y[:, 0])
    fitted, tested = slice(None, samples), slice(samples, None)
    spectrum = feature_spectrum(F[fitted], vectors=2)
    fit = ridge_fit(F[fitted], y[fitted], PENALTY)
    return Features(
        spectrum.singular_values,
        spike_overlap(spectrum.left, powers(x[fitted], beta, (1, 2))),
        fit.train / jnp.mean(y[fitted] ** 2),
        fit.test(F[tested], y[tested]) / jnp.mean(y[tested] ** 2),
    )


def look(key: PRNGKeyArray, drawn: Draw, after: MLP, **observe: Callable[[MLP, Dataset], Any]) -> Trajectory:
    """What became of a draw, as a run that only looks: "features.…", and further observables."""
    beta = gradient_vector(drawn.net, drawn.batch)[:, 0]
    observe = {"features": eqx.Partial(features_of, beta=beta, samples=drawn.batch.samples), **observe}
    return Untrained()(after, drawn.fresh, key, observe=observe, progress=False)


@cache
def expansion(function: str | HermiteSeries) -> Hermite:
    """The Hermite coefficients of an activation or a teacher."""
    return hermite(function)


def direction_of(activation: str, teacher: HermiteSeries = TEACHER) -> GradientDirection:
    """The first gradient in the limit, with the network's own output and the scatter, at the ratios of this study."""
    with warnings.catch_warnings():  # of a teacher that teaches nothing, as one of them is meant to
        warnings.simplefilter("ignore", UserWarning)
        return gradient_direction(expansion(teacher), PHI, noise=NOISE, activation=expansion(activation))


def energy(teacher: HermiteSeries) -> float:
    """E[y²]."""
    return float(expansion(teacher).square) + NOISE**2


def middle(values: np.ndarray, axis: int = -1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Low quantile, median and high quantile over the seeds: 10, 50 and 90 %."""
    low, median, high = np.quantile(values, (0.1, 0.5, 0.9), axis=axis)
    return low, median, high
