"""Scale and shape of the start: small networks end nearly balanced, large ones keep what they started with.

Without weight decay the balance matrices D_l are conserved. They are of the order of scale², while the weights that fit
the data are of order one, so that the error of the ansatz at the end is of first order in D: ∝ scale². The price is the
saddle at zero: three layers leave it in a time ∝ 1/scale, as s' = 3 s^{4/3} (σ − s) from s ∝ scale³.

Layers of low rank: range(W_l) ⊂ U_l = range(W_l(0)) + range(W_{l+1}(0)ᵀ) at all times, and range(W_{l+1}ᵀ) too, because
W_l' = −W_{l+1}ᵀ(…) and W_{l+1}'ᵀ = −W_l(…). So layers that start with rank r have rank 2r at most.
"""

from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray

from ... import measure, nets
from ...data import Dataset, linear_teacher
from ...flow import log_times
from ...nets.initialisation import Weights
from ...plot.at_end import at_end
from ...plot.bands import bands
from ...plot.style import GREY, house_style, legend_below, new_figure
from ...sweep import Grid, batched
from ...trajectory import Trajectory
from ..experiment import Claim, Experiment, quantiles
from ..training import ExactFlow
from .common import EXACT, observables

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DEPTH, _INPUTS, _OUTPUTS, _SAMPLES, _RANK = 3, 10, 5, 200, 2
_T1 = 1e5
_FLOW = ExactFlow(_T1, rtol=1e-9)
_TIMES = np.concatenate([[0.0], log_times(1e-2, _T1, 60)])
_SCALES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 3.0)
_SMALL = (1e-3, 1e-2)  # scales between which slopes are taken


class LowRank(nets.AbstractInitialisation):
    """Products of Gaussian fan_out × rank and rank × fan_in matrices; entries of standard deviation scale / √fan_in."""

    scale: float | Float[Array, ""] = 1.0
    rank: int = eqx.field(static=True, default=_RANK)

    def __call__(self, key: PRNGKeyArray, widths: tuple[int, ...], dtype: DTypeLike) -> Weights:
        keys = jax.random.split(key, (len(widths) - 1, 2))
        draw = lambda key, *shape: jax.random.normal(key, shape, dtype)
        return tuple(
            (draw(left, fan_out, self.rank) @ draw(right, self.rank, fan_in))
            * (self.scale / (self.rank * fan_in) ** 0.5)
            for (left, right), fan_out, fan_in in zip(keys, widths[1:], widths[:-1], strict=True)
        )


class MeanField(nets.AbstractInitialisation):
    """Gaussian entries of standard deviation scale / √inputs in the first layer and scale / fan_in in the others."""

    scale: float | Float[Array, ""] = 1.0

    def __call__(self, key: PRNGKeyArray, widths: tuple[int, ...], dtype: DTypeLike) -> Weights:
        first, *others = nets.Gaussian(self.scale)(key, widths, dtype)
        return (first, *(W / W.shape[1] ** 0.5 for W in others))


_LOW_RANK = f"rank {_RANK}"
INITS = {
    "Gaussian": nets.Gaussian,
    "orthogonal": nets.Orthogonal,
    "PyTorch default": nets.FanInUniform,
    "mean-field": MeanField,
    _LOW_RANK: LowRank,
}


class Chosen(nets.AbstractInitialisation):
    """One of `INITS` by its place, which may be traced, so that one program serves all of them."""

    place: int | Int[Array, ""]
    scale: float | Float[Array, ""]

    def __call__(self, key: PRNGKeyArray, widths: tuple[int, ...], dtype: DTypeLike) -> Weights:
        return jax.lax.switch(
            self.place, [lambda init=init: init(self.scale)(key, widths, dtype) for init in INITS.values()]
        )


def grid(quick: bool) -> Grid:
    """Shapes × scales × seeds."""
    scales = [each for each in _SCALES if each not in (1e-5, 1e-4)] if quick else _SCALES
    places = {name: place for place, name in enumerate(INITS)}
    return Grid(init=batched(places), scale=scales, seed=range(8 if quick else 16))


def one_run(key: PRNGKeyArray, init: int | Array, scale: float | Array) -> Trajectory:
    """Three linear layers on the data of a linear teacher with label noise."""
    data_key, net_key = jax.random.split(key)
    data = linear_teacher(data_key, _SAMPLES, _INPUTS, _OUTPUTS, noise=0.1)
    net = nets.MLP([_INPUTS] * _DEPTH + [_OUTPUTS], key=net_key, init=Chosen(init, scale))
    observe = observables(1 / _DEPTH) | {"unlearnt": unlearnt, "rank_left": rank_left}
    return _FLOW(net, data, net_key, observe=observe, save_at=_TIMES, progress=False)


def unlearnt(net: nets.MLP, data: Dataset) -> Float[Array, ""]:
    """The share that is left of the loss that a linear map can learn, 1 for f = 0."""
    learnt = jnp.trace(data.S_yy) / 2 - measure.loss(net, data)
    return 1 - learnt / (jnp.trace(data.S_xy.T @ jnp.linalg.solve(data.S_xx, data.S_xy)) / 2)


def rank_left(net: nets.MLP, data: Dataset) -> Float[Array, ""]:
    """Singular value 2r + 1 of W_1 relative to the largest: zero for layers that started with rank r."""
    s = jnp.linalg.svd(net.weights[0], compute_uv=False)
    return s[2 * _RANK] / s[0]


def departure(dataset: "xarray.Dataset") -> "xarray.DataArray":
    """When half of what can be learnt is learnt, between the times of observation; NaN where it never is."""
    left = dataset["unlearnt"].transpose(..., "time")
    times, values = np.log(_TIMES[1:]), left.to_numpy()[..., 1:]
    after = np.argmax(values <= 0.5, axis=-1)
    before = np.maximum(after - 1, 0)
    at = lambda place: np.take_along_axis(values, place[..., None], axis=-1)[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(after > before, (at(before) - 0.5) / (at(before) - at(after)), 0.0)
    time = np.exp(times[before] + share * (times[after] - times[before]))
    return left.isel(time=0, drop=True).copy(data=np.where((values <= 0.5).any(axis=-1), time, np.nan))


def slope(values: "xarray.DataArray") -> "xarray.DataArray":
    """d log(value) / d log(scale) between two small scales."""
    small, smallest = values.sel(scale=_SMALL[1]), values.sel(scale=_SMALL[0])
    return np.log(small / smallest) / np.log(_SMALL[1] / _SMALL[0])


def figure(dataset: "xarray.Dataset") -> "Figure":
    """The error against the scale and through time, when the saddle is left, and what is left to be learnt."""
    dataset = dataset.assign(departure=departure(dataset))
    sheet, axes = new_figure(4)
    at_end(dataset, "relative_error", against="scale", hue="init", ax=axes[0]).set_title("at the end")
    null = float(dataset["relative_error"].isel(time=0).median())
    axes[0].axhline(null, color=GREY, linestyle=":", linewidth=1)
    bands(dataset.sel(init="Gaussian"), "relative_error", hue="scale", ax=axes[1])
    axes[1].set(title="Gaussian, through time", ylim=(1e-15, None))  # room for the legend
    label = "time when half is learnt"
    at_end(dataset, "departure", against="scale", hue="init", ax=axes[2], label=label).set_title("from the saddle")
    label = "share of the loss left to learn"
    at_end(dataset, "unlearnt", against="scale", hue="init", ax=axes[3], label=label).set_title("at the end")
    _draw_power(axes[0], dataset, dataset["relative_error_at_end"], 2)
    _draw_power(axes[2], dataset, dataset["departure"], -1)
    handles, labels = axes[3].get_legend_handles_labels()
    entries: dict[str, Any] = dict(zip(labels, handles, strict=True))
    legend_below(sheet, entries, f"median and 10–90 % over {dataset.sizes['seed']} seeds; dotted: at $t=0$, untrained")
    return sheet


def _draw_power(ax: "Axes", dataset: "xarray.Dataset", values: "xarray.DataArray", power: int) -> None:
    """The power law through the median of the Gaussian starts at a small scale."""
    scales = dataset["scale"].values
    median = float(values.sel(init="Gaussian", scale=_SMALL[0]).median())
    limits = ax.get_ylim()
    ax.plot(scales, median * (scales / _SMALL[0]) ** power, "k--", linewidth=1.2, zorder=5)
    with house_style():
        ax.legend([ax.lines[-1]], [f"$\\propto$ scale$^{{{power}}}$"], fontsize=7.5)
    ax.set_ylim(limits)


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """Power laws of small starts, both ends of the scale, and the rank."""
    error, left = dataset["relative_error_at_end"], dataset["unlearnt_at_end"]
    of_error, of_departure = slope(error), slope(departure(dataset))
    trained = float(left.sel(scale=[1e-3, 1e-2, 0.1, 1.0]).where(dataset["init"] != _LOW_RANK).max())
    smallest, largest = dataset["scale"].values[[0, -1]]
    start = quantiles(dataset["relative_error"].isel(time=0))
    found = [
        _claim_slope("small starts of any shape: error of the ansatz at the end ∝ scale²", of_error, 2, 0.02),
        _claim_slope(
            "small starts of any shape: the saddle at zero is left after a time ∝ 1/scale", of_departure, -1, 0.1
        ),
        Claim(
            "full rank, scale .001 to 1: the flow without decay has fitted the data by the horizon",
            f"share of the loss left to learn ≤ {EXACT:g}",
            f"≤ {trained:.1g}",
            trained <= EXACT,
        ),
    ]
    for scale in (smallest, 1.0, largest):
        at = {"scale": scale}
        measured = f"error {quantiles(error.sel(at))}, {start} at the start; left to learn {quantiles(left.sel(at))}"
        found.append(Claim(f"scale {scale:g}, any shape: at the end", "reported", measured, None))
    return [*found, *_claims_of_rank(dataset.sel(init=_LOW_RANK))]


def _claim_slope(statement: str, slopes: "xarray.DataArray", expected: int, within: float) -> Claim:
    off = float(np.abs(slopes.median("seed") - expected).max())
    return Claim(statement, f"slope {expected} ± {within:g}", quantiles(slopes, "{:.3f}"), off <= within)


def _claims_of_rank(runs: "xarray.Dataset") -> list[Claim]:
    """The rank is conserved by the flow; how long by what is computed, is another question at large scales."""
    highest = runs["rank_left"].max("time")
    is_small = runs["scale"] <= _SMALL[1]
    kept = float(highest.where(is_small).max())
    left = quantiles(runs["unlearnt_at_end"].where(is_small & (runs["scale"] >= _SMALL[0])))
    lost = int((highest.sel(scale=~is_small) > EXACT).sum())
    return [
        Claim(
            f"layers of rank {_RANK}, small starts: rank {2 * _RANK} at most, at all times",
            f"singular value {2 * _RANK + 1} of W_1 ≤ {EXACT:g} of the largest",
            f"≤ {kept:.1g}; left to learn {left}",
            kept <= EXACT,
        ),
        Claim(
            f"layers of rank {_RANK}, scales above {_SMALL[1]:g}: rounding grows along the unstable rank",
            "reported",
            f"rank above {2 * _RANK} in {lost} of {int((~is_small).sum()) * runs.sizes['seed']} runs",
            None,
        ),
    ]


INITIALISATION = Experiment(
    name="initialisation",
    question="What do the scale and the shape of the start make of the ansatz, without weight decay?",
    one_run=one_run,
    grid=grid,
    figure=figure,
    claims=claims,
    seconds=(15, 40),
)
