"""Unbalanced linear networks: weight decay λ shrinks their imbalance as e^{−2λt}, and the error of the ansatz with it.

NFM = AGOP^{1/L} where all balance matrices D_l vanish, and D_l(t) = e^{−2λt} D_l(0). So the relative error of the
ansatz is of first order in D, late in the run ∝ e^{−2λt}, unless everything vanishes: a mode σ of the data survives
only a decay λ < σ (L = 2) or λ < max_s s^{1/3}(σ − s) = .47 σ^{4/3} (L = 3). Where nothing survives, two layers vanish
as e^{−(λ − σ)t}, and D before them, so that the ansatz is approached until it is 0/0; three vanish as fast as D does.
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ... import measure, nets
from ...data import Dataset, linear_teacher
from ...flow import gradient_flow
from ...plot.at_end import at_end
from ...plot.bands import bands
from ...plot.style import color_of, house_style, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, batched, looped
from ..claims import Claim, judged
from ..old_experiment import OldExperiment, quantiles
from .common import EXACT, OneOf, observables

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INPUTS, _OUTPUTS, _SAMPLES = 10, 5, 200
_SHOWN = {"depth": 3, "init": "Gaussian", "weight_decay": 0.03}  # what is drawn through time

INITS = {
    "Gaussian": nets.Gaussian(),
    "orthogonal": nets.Orthogonal(),
    "λ-balanced": nets.LambdaBalanced(-0.5),
    "PyTorch default": nets.FanInUniform(),
}
COLLAPSE = 3.0  # far above the singular values of the data, so that nothing survives it
_DECAYS = (0.0, 0.01, 0.03, 0.1, 0.3, COLLAPSE)
_FRACTIONS = np.concatenate([[0.0], np.geomspace(1e-4, 1, 60)])  # of the horizon: when the network is observed


def grid(quick: bool) -> Grid:
    """Depths × initializations × decay rates × seeds."""
    return Grid(
        depth=looped([3] if quick else [2, 3]),
        init=batched({name: place for place, name in enumerate(INITS)}),
        weight_decay=_DECAYS[::2] + _DECAYS[-1:] if quick else _DECAYS,
        seed=range(8 if quick else 16),
        t1=horizon,
    )


def horizon(weight_decay: float) -> float:
    """2λt = 14 at the end, where the error is a millionth; 126 where weights below rounding are what is to be seen."""
    if weight_decay == COLLAPSE:
        return 63 / weight_decay
    return 7 / weight_decay if weight_decay else 700.0


def one_run(
    key: PRNGKeyArray, depth: int, init: int | Array, weight_decay: float | Array, t1: float | Array
) -> Trajectory:
    """A linear network of `depth` layers on the data of a linear teacher with label noise."""
    data_key, net_key = jax.random.split(key)
    data = linear_teacher(_SAMPLES, _INPUTS, _OUTPUTS, key=data_key, noise=0.1)
    net = nets.MLP([_INPUTS] * depth + [_OUTPUTS], key=net_key, init=OneOf(tuple(INITS.values()), init))
    options = {"save_at": t1 * jnp.asarray(_FRACTIONS), "rtol": 1e-9, "progress": False}
    observe = observables(1 / depth) | {"imbalance": _old_imbalance}
    return gradient_flow(net, data, t1, weight_decay=weight_decay, observe=observe, **options)


def _old_imbalance(net: nets.MLP, data: Dataset) -> Float[Array, ""]:
    """(Σ_l ‖D_l‖²_F)^{1/2}, the size of the balance matrices."""
    return jnp.sqrt(sum(jnp.sum(D**2) for D in measure.balance(net, data)))


def decay_rate(values: "xarray.DataArray", times: "xarray.DataArray", use: "xarray.DataArray") -> "xarray.DataArray":
    """−d log(value)/dt by least squares over the times to use; NaN where these are fewer than two."""
    use = use & (values > 0)
    t, log = times.where(use), np.log(values.where(use))
    t = t - t.mean("time")
    squares = (t**2).sum("time")
    return -(t * log).sum("time") / squares.where(squares > 0)


def left_out(values: "xarray.DataArray") -> str:
    """How many runs have no value because they failed or it is undefined, as an end of a sentence; "" for none."""
    count = int(values.isnull().sum())
    return f"; failed or undefined in {count} of {values.size} runs" if count else ""


def figure(dataset: "xarray.Dataset") -> "Figure":
    """Imbalance and error of the ansatz through time, and the error at the end against the decay rate."""
    dataset = dataset.sel(depth=_SHOWN["depth"])
    by_decay = dataset.sel(init=_SHOWN["init"])
    sheet, axes = new_figure(4)
    _draw_imbalance(axes[0], by_decay)
    bands(by_decay.rename(weight_decay="$\\lambda$"), "relative_error", ax=axes[1])
    axes[1].set_title(f"{_SHOWN['init']}, $L = 3$")
    _draw_law(axes[2], dataset.sel(weight_decay=_SHOWN["weight_decay"]))
    _draw_ends(axes[3], dataset)
    return sheet


def _draw_imbalance(ax: "Axes", runs: "xarray.Dataset") -> None:
    left = (runs["imbalance"] / runs["imbalance"].isel(time=0)).where(runs["weight_decay"] > 0)
    bands(_in_units_of_decay(runs.assign(left=left)), "left", hue="weight_decay", ax=ax, legend=False, label=_IMBALANCE)
    x = np.array([0, float((2 * runs["weight_decay"] * runs["times"]).max())])
    _set_linear(ax, x[1])
    _draw_exponential(ax, x, 1.0)
    ax.set_title(f"{_SHOWN['init']}, $L = 3$, $\\lambda > 0$")


_IMBALANCE = "imbalance $(\\sum_l\\|D_l\\|^2)^{1/2}$ / at $t=0$"


def _draw_law(ax: "Axes", runs: "xarray.Dataset") -> None:
    bands(_in_units_of_decay(runs), "relative_error", hue="init", ax=ax, legend=False)
    x = np.array([0, 2 * float(runs["weight_decay"]) * float(runs["times"].max())])
    _set_linear(ax, x[1])
    end = float(runs["relative_error_at_end"].sel(init=_SHOWN["init"]).median())
    _draw_exponential(ax, x, end * np.exp(x[1]))
    ax.set_title(f"$\\lambda = {_SHOWN['weight_decay']}$, $L = 3$")


def _in_units_of_decay(runs: "xarray.Dataset") -> "xarray.Dataset":
    return runs.assign(times=2 * runs["weight_decay"] * runs["times"])


def _set_linear(ax: "Axes", end: float) -> None:
    ax.set(xscale="linear", xlim=(0, end), xlabel="time in units of the decay, $2\\lambda t$")


def _draw_exponential(ax: "Axes", x: np.ndarray, start: float) -> None:
    ax.plot(x, start * np.exp(-x), "k--", linewidth=1.2, zorder=5, label="$\\propto e^{-2\\lambda t}$")
    with house_style():
        ax.legend(fontsize=7.5)


def _draw_ends(ax: "Axes", runs: "xarray.Dataset") -> None:
    at_end(runs, "relative_error", against="weight_decay", hue="init", ax=ax)
    starts = runs["relative_error"].isel(time=0).median([dim for dim in runs["status"].dims if dim != "init"])
    for i, start in enumerate(starts.values):
        ax.axhline(start, color=color_of(i, starts.size), linestyle=":", linewidth=1, zorder=0)
    defined = runs["relative_error_at_end"].notnull().any(["init", "seed"])
    for place in np.flatnonzero(~defined.values):
        ax.text(
            float(place), 0.03, "undefined", transform=ax.get_xaxis_transform(), rotation=90, ha="center", fontsize=7.5
        )
    ax.set(xlabel="weight decay $\\lambda$", title="at the end, $L = 3$", xlim=(-0.5, defined.size - 0.5))
    with house_style():
        ax.legend(fontsize=7.5, title="dotted: at $t=0$", title_fontsize=7.5)


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """The law of the imbalance, what the ansatz makes of it, and the two ends: no decay, and too much of it."""
    decayed = dataset.sel(weight_decay=dataset["weight_decay"] > 0)
    return [
        _claim_balance_decays(decayed),
        _claim_balance_stays(dataset.sel(weight_decay=0.0)),
        _claim_error_decays(decayed.sel(weight_decay=decayed["weight_decay"] < COLLAPSE)),
        _claim_error_stays(dataset),
        _claim_collapse(dataset.sel(weight_decay=COLLAPSE)),
    ]


def _claim_balance_decays(decayed: "xarray.Dataset") -> Claim:
    size = decayed["imbalance"]
    # What the flow's tolerance leaves of an imbalance is far below a hundred-thousandth of it.
    rates = decay_rate(size, decayed["times"], size > 1e-5 * size.isel(time=0)) / (2 * decayed["weight_decay"])
    off = float(np.abs(rates - 1).max())
    statement, measured = "unbalanced, weight decay λ: D_l ∝ e^{−2λt}", f"off by ≤ {100 * off:.1g} %"
    runs = decayed.assign(rates=rates)
    return judged(statement, "rate 2λ within 1 %", measured, off <= 0.01, runs, ["imbalance", "rates"])


def _claim_balance_stays(conserving: "xarray.Dataset") -> Claim:
    size = conserving["imbalance"]
    change = abs(size / size.isel(time=0) - 1).max("time")
    worst = float(change.max())
    statement, expected = "unbalanced, no decay: D_l is conserved", f"changes by ≤ {EXACT:g}"
    return judged(statement, expected, f"changes by ≤ {worst:.1g}", worst <= EXACT, conserving, ["imbalance"])


def _claim_error_decays(decayed: "xarray.Dataset") -> Claim:
    error, phase = decayed["relative_error"], 2 * decayed["weight_decay"] * decayed["times"]
    # Beyond the first order in D, the error has terms that are e^{−6} = .2 % of it from there on.
    rates = decay_rate(error, decayed["times"], phase >= 6) / (2 * decayed["weight_decay"])
    rates = rates.where(decayed["relative_error_at_end"].notnull())
    within = float((np.abs(rates - 1) <= 0.01).mean())
    ends = f"; error at the end {quantiles(decayed['relative_error_at_end'])}"
    measured = f"rate / 2λ {quantiles(rates, '{:.4f}')}, {100 * within:.0f} % of runs within 1 %{ends}"
    statement = "unbalanced, weight decay λ: error of the ansatz ∝ e^{−2λt}, late"
    expected, runs = "rate 2λ within 1 % in ≥ 90 % of runs", decayed.assign(rates=rates)
    return judged(statement, expected, measured, within >= 0.9, runs, ["rates"])


def _claim_error_stays(dataset: "xarray.Dataset") -> Claim:
    dataset = dataset.sel(weight_decay=dataset["weight_decay"] < COLLAPSE)
    ends = dataset["relative_error_at_end"]
    kept, rest = ends.sel(weight_decay=0.0), ends.sel(weight_decay=dataset["weight_decay"] > 0)
    start = quantiles(dataset["relative_error"].sel(weight_decay=0.0).isel(time=0))
    measured = f"{quantiles(kept)} at the end, {start} at the start"
    holds = bool((kept > rest.max("weight_decay")).all())
    statement, expected = "unbalanced, no decay: the ansatz stays off", "error above that with any decay"
    return judged(statement, expected, measured, holds, dataset, ["relative_error_at_end"])


def _claim_collapse(collapsed: "xarray.Dataset") -> Claim:
    ends, lowest = collapsed["relative_error_at_end"], collapsed["relative_error"].min("time")
    count, total = int(ends.isnull().sum()), ends.size
    before = "; ".join(f"L = {depth}: {quantiles(lowest.sel(depth=depth))}" for depth in lowest["depth"].values)
    measured = f"undefined in {count} of {total} runs; lowest relative error before, {before}"
    statement = f"unbalanced, λ = {COLLAPSE:g}: all weights vanish, and the ansatz is 0/0"
    return judged(statement, "undefined in all runs", measured, count == total, collapsed)


WEIGHT_DECAY = OldExperiment(
    name="weight-decay",
    question="Does weight decay bring unbalanced linear networks to the ansatz, and how fast?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(20, 60),
)
