"""The spectrum of the features before one step and after steps of four sizes, with the bulk and the spikes predicted."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jax import Array
from jaxtyping import PRNGKeyArray

from ...one_step import observed_spikes, one_step, sizes
from ...plot.style import GREY, PALETTE, legend_below, new_figure
from ...sweep import Grid, looped
from ...theory import feature_bulk_edge, feature_outliers, spike_matrix
from ...trajectory import Trajectory
from ..experiment import Claim, Experiment
from .common import PHI, PSI, TEACHER, THEORY, direction_of, draw, expansion, look

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACTIVATION = "relu"
_ALPHAS = (0.1, 0.2, 0.3, 0.42)


def grid(quick: bool) -> Grid:
    """No step and four sizes × seeds."""
    samples = looped([500 if quick else 2000])
    return Grid(samples=samples, alpha=[-np.inf, *_ALPHAS], seed=range(8 if quick else 16))


def one_run(key: PRNGKeyArray, samples: int, alpha: float | Array) -> Trajectory:
    """A step of size n^α; α = −∞ is none."""
    drawn = draw(key, samples, _ACTIVATION, TEACHER)
    return look(key, drawn, one_step(drawn.net, drawn.batch, samples**alpha))
