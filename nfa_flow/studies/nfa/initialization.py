"""Scale and shape of the start: small networks end nearly balanced, large ones keep what they started with.

Without weight decay the balance matrices D_l are conserved. They are of the order of scale², while the weights that fit
the data are of order one, so that the error of the ansatz at the end is of first order in D: ∝ scale². The price is the
saddle at zero: three layers leave it in a time ∝ 1/scale, as s' = 3 s^{4/3} (σ − s) from s ∝ scale³.

Layers of low rank: range(W_l) ⊂ U_l = range(W_l(0)) + range(W_{l+1}(0)ᵀ) at all times, and range(W_{l+1}ᵀ) too, because
W_l' = −W_{l+1}ᵀ(…) and W_{l+1}'ᵀ = −W_l(…). So layers that start with rank r have rank 2r at most, and the best that
the network can become is the best linear map of that rank. That subspace is unstable: rounding errors may leave it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from ... import measure, nets
from ...data import Dataset, linear_teacher
from ...flow import log_times
from ...nets.initialization import Weights
from ...plot.at_end import at_end
from ...plot.bands import bands
from ...plot.style import GRAY, color_of, house_style, label_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, batched
from ..claims import Claim, judged, reported
from ..experiment import Experiment, quantiles
from ..training import ExactFlow
from .common import EXACT, OneOf, observables
from .weight_decay import imbalance, left_out

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DEPTH, _INPUTS, _OUTPUTS, _SAMPLES, _RANK = 3, 10, 5, 200, 2
_T1 = 1e5
_FLOW = ExactFlow(_T1, rtol=1e-9)
_TIMES = np.concatenate([[0.0], log_times(1e-2, _T1, 64)])  # 9 in each decade: tenfold times are among them
_SCALES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 3.0)
_SMALL = (1e-3, 1e-2)  # scales between which slopes are taken
_SHOWN = (1e-6, 1e-3, 1e-2, 0.1, 1.0)  # scales that are drawn through time


class LowRank(nets.AbstractInitialization):
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


class MeanField(nets.AbstractInitialization):
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


def grid(quick: bool) -> Grid:
    """Shapes × scales × seeds."""
    scales = [each for each in _SCALES if each not in (1e-5, 1e-4)] if quick else _SCALES
    places = {name: place for place, name in enumerate(INITS)}
    return Grid(init=batched(places), scale=scales, seed=range(8 if quick else 16))


def one_run(key: PRNGKeyArray, init: int | Array, scale: float | Array) -> Trajectory:
    """Three linear layers on the data of a linear teacher with label noise."""
    data_key, net_key = jax.random.split(key)
    data = linear_teacher(data_key, _SAMPLES, _INPUTS, _OUTPUTS, noise=0.1)
    net = nets.MLP(
        [_INPUTS] * _DEPTH + [_OUTPUTS], key=net_key, init=OneOf(tuple(make(scale) for make in INITS.values()), init)
    )
    least = least_unlearnt(data)
    observe = observables(1 / _DEPTH) | {
        "imbalance": imbalance,
        "nfm_norm": lambda net, data: jnp.linalg.norm(measure.nfm(net)),
        "unlearnt": unlearnt,
        "least_unlearnt": lambda net, data: least,
        "rank_left": rank_left,
    }
    return _FLOW(net, data, net_key, observe=observe, save_at=_TIMES, progress=False)


def unlearnt(net: nets.MLP, data: Dataset) -> Float[Array, ""]:
    """The share that is left of the loss that a linear map can learn, 1 for f = 0, without cancellation."""
    root, best = _whitened(data)
    return jnp.sum((root.T @ net.affine()[0].T - best) ** 2) / jnp.sum(best**2)


def least_unlearnt(data: Dataset) -> Float[Array, ""]:
    """The share that the best linear map of rank 2r leaves (reduced-rank regression, Izenman 1975)."""
    s = jnp.linalg.svd(_whitened(data)[1], compute_uv=False)
    return jnp.sum(s[2 * _RANK :] ** 2) / jnp.sum(s**2)


def _whitened(data: Dataset) -> tuple[Float[Array, "d d"], Float[Array, "d c"]]:
    """R with S_xx = RRᵀ, and RᵀAᵀ = R⁻¹S_xy of the least-squares map A."""
    root = jnp.linalg.cholesky(data.S_xx)
    return root, jax.scipy.linalg.solve_triangular(root, data.S_xy, lower=True)


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


def relative_imbalance(dataset: "xarray.Dataset") -> "xarray.DataArray":
    """(Σ_l ‖D_l‖²)^{1/2}, which is conserved, at the start over ‖NFM‖ at the end, of each run."""
    return dataset["imbalance"].isel(time=0) / dataset["nfm_norm_at_end"]


def slope(values: "xarray.DataArray") -> "xarray.DataArray":
    """d log(value) / d log(scale) between two small scales."""
    small, smallest = values.sel(scale=_SMALL[1]), values.sel(scale=_SMALL[0])
    return np.log(small / smallest) / np.log(_SMALL[1] / _SMALL[0])


def figure(dataset: "xarray.Dataset") -> "Figure":
    """The error against scale, imbalance and time; when the saddle is left, what is left to learn, and the rank."""
    dataset = dataset.assign(departure=departure(dataset), highest=dataset["rank_left"].max("time"))
    sheet, axes = new_figure(3, rows=2)
    at_end(dataset, "relative_error", against="scale", hue="init", ax=axes[0]).set_title("at the end")
    _draw_power(axes[0], dataset, dataset["relative_error_at_end"], 2)
    _draw_imbalance(axes[1], dataset)
    bands(dataset.sel(init="Gaussian", scale=list(_SHOWN)), "relative_error", hue="scale", ax=axes[2])
    axes[2].set(title="Gaussian, through time", ylim=(1e-15, None))  # room for the legend
    null = float(dataset["relative_error"].isel(time=0).median())
    for ax in axes[:2]:
        ax.axhline(null, color=GRAY, linestyle=":", linewidth=1)
    label = "time when half is learnt"
    at_end(dataset, "departure", against="scale", hue="init", ax=axes[3], label=label).set_title("from the saddle")
    _draw_power(axes[3], dataset, dataset["departure"], -1)
    label = "share of the loss left to learn"
    at_end(dataset, "unlearnt", against="scale", hue="init", ax=axes[4], label=label)
    axes[4].set(title="at the end", yscale="linear")
    least = float(dataset["least_unlearnt_at_end"].median())
    _draw_theory(axes[4], dataset["scale"].values[[0, -1]], [least, least], f"best of rank {2 * _RANK}")
    label = f"$s_{2 * _RANK + 1}\\,/\\,s_1$ of $W_1$, highest ever"
    at_end(dataset, "highest", against="scale", hue="init", ax=axes[5], label=label).set_title("rank")
    handles, labels = axes[4].get_legend_handles_labels()
    entries = {label: handle for label, handle in zip(labels, handles, strict=True) if label in INITS}
    legend_below(sheet, entries, f"median and 10–90 % over {dataset.sizes['seed']} seeds; dotted: at $t=0$, untrained")
    return sheet


def _draw_imbalance(ax: "Axes", dataset: "xarray.Dataset") -> None:
    """Each run, and the line of slope 1 through the median of the Gaussian starts at a small scale."""
    error, imbalanced = dataset["relative_error_at_end"], relative_imbalance(dataset)
    for i, init in enumerate(dataset["init"].values):
        points = (values.sel(init=init).to_numpy().ravel() for values in (imbalanced, error))
        ax.scatter(*points, s=7, color=color_of(i, dataset.sizes["init"]), linewidth=0, alpha=0.6)
    at = {"init": "Gaussian", "scale": _SMALL[0]}
    x, ratio = np.array([float(imbalanced.min()), 1]), float((error / imbalanced).sel(at).median())
    ax.set(xscale="log", yscale="log", xlabel="imbalance $(\\sum_l\\|D_l\\|^2)^{1/2}$ / $\\|$NFM$\\|$ at the end")
    ax.set(title="at the end, each run", ylabel=label_of("relative_error"))
    _draw_theory(ax, x, ratio * x, "$\\propto$ imbalance")


def _draw_power(ax: "Axes", dataset: "xarray.Dataset", values: "xarray.DataArray", power: int) -> None:
    """The power law through the median of the Gaussian starts at a small scale."""
    scales = dataset["scale"].values
    median = float(values.sel(init="Gaussian", scale=_SMALL[0]).median())
    limits = ax.get_ylim()
    _draw_theory(ax, scales, median * (scales / _SMALL[0]) ** power, f"$\\propto$ scale$^{{{power}}}$")
    ax.set_ylim(limits)


def _draw_theory(ax: "Axes", x: np.ndarray, y: Any, label: str) -> None:
    (line,) = ax.plot(x, y, "k--", linewidth=1.2, zorder=5)
    with house_style():
        ax.legend([line], [label], fontsize=7.5)


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """Power laws of small starts, both ends of the scale, and the rank."""
    imbalanced = relative_imbalance(dataset)
    dataset = dataset.assign(departure=departure(dataset), imbalanced=imbalanced)
    error, left = dataset["relative_error_at_end"], dataset["unlearnt_at_end"]
    of_error, of_departure = slope(error), slope(dataset["departure"])
    small = dataset.sel(scale=list(_SMALL))
    ratio = quantiles((error / imbalanced).sel(scale=list(_SMALL)))
    full = dataset.sel(scale=[1e-3, 1e-2, 0.1, 1.0], init=dataset["init"] != _LOW_RANK)
    trained = float(full["unlearnt_at_end"].max())
    errors = ["relative_error_at_end"]
    of_imbalance = "and ∝ the imbalance (Σ‖D_l‖²)^{1/2} of the start over ‖NFM‖ at the end"
    found = [
        _claim_slope("small starts of any shape: error of the ansatz at the end ∝ scale²", of_error, 2, small, errors),
        _claim_slope(of_imbalance, of_error / slope(imbalanced), 1, small, [*errors, "imbalanced"], f"; {ratio} of it"),
        _claim_slope("they leave the saddle at zero after a time ∝ 1/scale", of_departure, -1, small, ["departure"]),
        judged(
            "full rank, scale .001 to 1: the flow without decay has fitted the data by the horizon",
            f"share of the loss left to learn ≤ {EXACT:g}",
            f"≤ {trained:.1g}",
            trained <= EXACT,
            full,
            ["unlearnt_at_end"],
        ),
    ]
    smallest, largest = dataset["scale"].values[[0, -1]]
    stays = float(left.sel(scale=smallest).min())
    found.append(
        judged(
            f"scale {smallest:g}, any shape: still at the saddle at the horizon, and the ansatz as bad as at the start",
            "share of the loss left to learn ≥ .99",
            f"≥ {stays:.4f}; {_ends(dataset.sel(scale=smallest))}",
            stays >= 0.99,
            dataset.sel(scale=smallest),
            ["unlearnt_at_end"],
        )
    )
    for init in dataset["init"].values:
        runs = dataset.sel(init=init, scale=1.0)
        found.append(reported(f"{init}, scale 1: the ansatz at the end", _ends(runs), runs))
    runs = dataset.sel(scale=largest)
    found.append(reported(f"scale {largest:g}, any shape: the ansatz at the end", _ends(runs), runs))
    return [*found, *_claims_of_rank(dataset.sel(init=_LOW_RANK))]


def _ends(runs: "xarray.Dataset") -> str:
    """The error at both ends, and how often it is undefined."""
    start, end = runs["relative_error"].isel(time=0), runs["relative_error_at_end"]
    return f"error {quantiles(end)}, {quantiles(start)} at the start{left_out(end)}"


def _claim_slope(
    statement: str,
    slopes: "xarray.DataArray",
    expected: int,
    runs: "xarray.Dataset",
    names: Sequence[str],
    further: str = "",
) -> Claim:
    within = 0.02
    off = float(np.abs(slopes.median("seed") - expected).max())
    measured = f"{quantiles(slopes, '{:.3f}')}{further}"
    return judged(statement, f"median slope {expected} ± {within:g}", measured, off <= within, runs, names)


def _claims_of_rank(runs: "xarray.Dataset") -> list[Claim]:
    """The rank is conserved by the flow; how long by what is computed, is another question at large scales."""
    highest = runs["rank_left"].max("time")
    is_small = runs["scale"] <= _SMALL[1]
    kept = float(highest.where(is_small).max())
    ends = runs[["unlearnt_at_end", "least_unlearnt_at_end"]].sel(scale=list(_SMALL))
    off = float(np.abs(ends["unlearnt_at_end"] - ends["least_unlearnt_at_end"]).max())
    lost = int((highest.sel(scale=~is_small) > EXACT).sum())
    return [
        judged(
            f"layers of rank {_RANK}, small starts: rank {2 * _RANK} at most, at all times",
            f"singular value {2 * _RANK + 1} of W_1 ≤ {EXACT:g} of the largest",
            f"≤ {kept:.1g}",
            kept <= EXACT,
            runs.sel(scale=is_small),
            ["rank_left"],
        ),
        judged(
            f"and they become the best linear map of rank {2 * _RANK}",
            f"share of the loss left to learn off by ≤ {EXACT:g}",
            f"≤ {off:.1g}; the share is {quantiles(ends['least_unlearnt_at_end'])}",
            off <= EXACT,
            runs.sel(scale=list(_SMALL)),
            ["unlearnt_at_end", "least_unlearnt_at_end"],
        ),
        reported(
            f"layers of rank {_RANK}, scales above {_SMALL[1]:g}: rounding grows along the unstable rank",
            f"rank above {2 * _RANK} in {lost} of {int((~is_small).sum()) * runs.sizes['seed']} runs",
            runs.sel(scale=~is_small),
        ),
    ]


INITIALIZATION = Experiment(
    name="initialization",
    question="What do the scale and the shape of the start make of the ansatz, without weight decay?",
    one_run=one_run,
    grid=grid,
    figure=figure,
    claims=claims,
    seconds=(20, 50),
)
