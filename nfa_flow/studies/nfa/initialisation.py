"""Scale and shape of the start: small networks become nearly balanced, and leave the saddle at zero later."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from ... import nets
from ...data import linear_teacher
from ...nets.initialisation import Weights
from ...sweep import Grid
from ...trajectory import Trajectory
from ..experiment import Claim, Experiment
from ..training import ExactFlow
from .common import observables
from .weight_decay import imbalance

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

_DEPTH, _INPUTS, _OUTPUTS, _SAMPLES = 3, 10, 5, 200
_T1 = 3e4
_FLOW = ExactFlow(_T1, rtol=1e-9)
_TIMES = np.concatenate([[0.0], np.geomspace(1e-3, _T1, 90)])


class LowRank(nets.AbstractInitialisation):
    """Products of Gaussian fan_out × rank and rank × fan_in matrices; entries of standard deviation scale / √fan_in."""

    scale: float | Float[Array, ""] = 1.0
    rank: int = eqx.field(static=True, default=2)

    def __call__(self, key: PRNGKeyArray, widths: tuple[int, ...], dtype: DTypeLike) -> Weights:
        keys = jax.random.split(key, (len(widths) - 1, 2))
        draw = lambda key, *shape: jax.random.normal(key, shape, dtype)
        return tuple(
            (draw(left, fan_out, self.rank) @ draw(right, self.rank, fan_in)) * (self.scale / (self.rank * fan_in) ** 0.5)
            for (left, right), fan_out, fan_in in zip(keys, widths[1:], widths[:-1], strict=True)
        )


class MeanField(nets.AbstractInitialisation):
    """Gaussian entries of standard deviation scale / √inputs in the first layer and scale / fan_in in the others."""

    scale: float | Float[Array, ""] = 1.0

    def __call__(self, key: PRNGKeyArray, widths: tuple[int, ...], dtype: DTypeLike) -> Weights:
        first, *others = nets.Gaussian(self.scale)(key, widths, dtype)
        return (first, *(W / W.shape[1] ** 0.5 for W in others))


INITS = {
    "Gaussian": nets.Gaussian,
    "orthogonal": nets.Orthogonal,
    "PyTorch default": nets.FanInUniform,
    "mean-field": MeanField,
    "rank 2": LowRank,
}


def grid(quick: bool) -> Grid:
    """Shapes × scales × seeds."""
    return Grid(
        init=INITS, scale=[0.01, 0.03, 0.3, 3.0] if quick else [0.01, 0.03, 0.1, 0.3, 1.0, 3.0], seed=range(8 if quick else 16)
    )


def one_run(key: PRNGKeyArray, init: Callable[..., nets.AbstractInitialisation], scale: float) -> Trajectory:
    """Three linear layers on the data of a linear teacher with label noise."""
    data_key, net_key = jax.random.split(key)
    data = linear_teacher(data_key, _SAMPLES, _INPUTS, _OUTPUTS, noise=0.1)
    net = nets.MLP([_INPUTS] * _DEPTH + [_OUTPUTS], key=net_key, init=init(scale))
    observe = observables(1 / _DEPTH) | {"imbalance": imbalance}
    return _FLOW(net, data, net_key, observe=observe, save_at=_TIMES, progress=False)
