"""The setting that the experiments on one gradient step share: random draws, a step, and the spikes after it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ... import Dataset, Trajectory, one_step
from ...data import single_index
from ...nets import MLP
from ...theory import HermiteSeries, hermite_series
from ...training import Untrained
from ..axes import Axis, looped
from ..held_out import split
from ..runs import Runs, Values

PHI, PSI = 0.3, 0.6  # d/n and d/N
NOISE = 0.5
PENALTY = 0.01
TEACHER = hermite_series([0, 1, 0.5**0.5])  # z + (z² − 1)/√2
SINGULAR_VALUES = "features.singular_values_at_end"
LOSSES = {"features.train": "train", "features.test": "test"}
ALPHA = "exponent $\\alpha$"
_TEST = 2  # number of batches of test samples


def samples(full: int, quick: int = 500, tiny: int = 100) -> Axis:
    """An axis with one number of samples at each size."""
    return looped([full], [quick], [tiny], label="samples $n$")


class Draw(NamedTuple):
    """The initial `net`, the `batch` of the step, and `fresh` samples: n for ridge regression, then test samples."""

    net: MLP
    batch: Dataset
    fresh: Dataset


def draw(key: PRNGKeyArray, samples: int, activation: str = "relu", teacher: HermiteSeries = TEACHER) -> Draw:
    """A network and data with the ratios d/n and d/N of this study."""
    data_key, net_key = jax.random.split(key)
    n, inputs, width = one_step.sizes(samples, PHI, PSI)
    data = single_index((2 + _TEST) * n, inputs, key=data_key, noise=NOISE, link=teacher)
    net = one_step.two_layer_net(inputs, width, activation, key=net_key)
    return Draw(net, *split(data, n, (1 + _TEST) * n))


def after_step(
    key: PRNGKeyArray,
    samples: int,
    alpha: float | Array,
    activation: str = "relu",
    teacher: HermiteSeries = TEACHER,
    way: Callable[..., MLP] = one_step.one_step,
    before: bool = False,
) -> Trajectory:
    """The features of a network after a step of size n^α, as a run in which the network does not change.

    **Arguments:** `way`: the function that does the step; `before`: whether the singular values before the step are
    observed too.
    """
    net, batch, fresh = draw(key, samples, activation, teacher)
    beta = one_step.gradient_vector(net, batch)[:, 0]
    observe: dict[str, Any] = {"features": eqx.Partial(features_of, beta=beta, samples=samples)}
    if before:
        observe["before"] = eqx.Partial(_before, net=net, samples=samples)
    return Untrained()(way(net, batch, samples**alpha), fresh, key, observe=observe, progress=False)


def _before(after: MLP, data: Dataset, net: MLP, samples: int) -> Float[Array, " r"]:
    return one_step.feature_spectrum(one_step.features(net, data.x[:samples])).singular_values


def features_of(net: MLP, data: Dataset, beta: Float[Array, " d"], samples: int) -> dict[str, Float[Array, "..."]]:
    """Measurements of the features on fresh samples; the first `samples` of them are for fitting.

    By name: all `singular_values` over √n, the `overlap` of the first two left singular vectors with the powers 1 and 2
    of X̃β, and the `train` and `test` losses of ridge regression over the mean square of the targets.
    """
    F, (x, y) = one_step.features(net, data.x), (data.x, data.y[:, 0])
    fitted, tested = slice(None, samples), slice(samples, None)
    spectrum = one_step.feature_spectrum(F[fitted], vectors=2)
    fit = one_step.ridge_fit(F[fitted], y[fitted], PENALTY)
    return {
        "singular_values": spectrum.singular_values,
        "overlap": one_step.spike_overlap(spectrum.left, one_step.powers(x[fitted], beta, (1, 2))),
        "train": fit.train / jnp.mean(y[fitted] ** 2),
        "test": fit.test(F[tested], y[tested]) / jnp.mean(y[tested] ** 2),
    }


def with_spikes(runs: Runs, first: int) -> Runs:
    """Add `size`: the first singular values of the features, and `count`: the number of observed spikes."""
    values, along = runs[SINGULAR_VALUES], "features.singular_values[1]"
    count = lambda row: one_step.observed_spikes(row) if np.isfinite(row).all() else np.nan
    counted = values.reduce(lambda rows, axis: np.apply_along_axis(count, axis, rows), along)
    size = values.isel({along: slice(first)}).rename({along: "spike"})
    return runs.assign(count=counted, size=size.assign_coords(spike=[f"$s_{{{k + 1}}}$" for k in range(first)]))


def between(counts: Values) -> str:
    """The smallest and the largest count, as text."""
    return f"{int(counts.min())}–{int(counts.max())}"


def listed(values: "Values | np.ndarray", form: str = ".2f") -> str:
    """Numbers as text."""
    return ", ".join(f"{float(each):{form}}" for each in values) or "none"
