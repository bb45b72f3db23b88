"""Parametrizations, widths and times of observation that the experiments on rich features share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import diffrax
import numpy as np
from jaxtyping import PRNGKeyArray

from ... import Dataset, Trajectory, log_times, nets
from ...training import Descent, ExactFlow
from ..axes import batched, looped, places

SCHEMES = {"SP": nets.SP(), "NTP": nets.NTP(), "MeanField": nets.MeanField(), "muP": nets.muP()}
HIDDEN = 2  # number of hidden layers

WIDTHS = looped([64, 128, 256, 512, 1024], quick=[64, 128, 256], tiny=[32, 40, 48], label="width $n$")
# The smaller sizes leave out the mean-field one, whose flow takes longest.
PLACES = batched(places(SCHEMES), quick=["SP", "NTP", "muP"], tiny=["NTP", "muP"])


def shape_of(data: Dataset, width: int) -> tuple[int, ...]:
    """(inputs, hidden widths, outputs)."""
    return (data.inputs, *[width] * HIDDEN, data.outputs)


def trained(
    training: ExactFlow | Descent,
    net: nets.MLP,
    mobility: Sequence[Any],
    data: Dataset,
    key: PRNGKeyArray,
    observe: Mapping[str, Callable[..., Any]],
) -> Trajectory:
    """The run, observed at the start and at a dozen log-spaced times."""
    if isinstance(training, ExactFlow):
        times = np.concatenate([[0.0], log_times(training.t1 / 1000, training.t1, 12)])
        # Not stiff up to these end times: an explicit pair needs half the time of NDF, to compile and to run.
        options: Any = {"save_at": times, "solver": diffrax.Tsit5()}
    else:
        steps = np.concatenate([[0], np.geomspace(1, training.steps, 12).round()])
        options = {"save_at": np.unique(steps).astype(int)}
    return training(net, data, key, mobility=mobility, observe=observe, progress=False, **options)
