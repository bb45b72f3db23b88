"""Does the best learning rate of a narrow network serve a wide one? The loss after some steps against rate and width.

Where weights and updates keep to the spectral condition, it does. The standard start with one rate for all layers is
unstable at rates above the order 1/n, which moves the best one. The neural tangent parametrization transfers it too,
under gradient descent, although it learns no features in the limit: transfer alone does not tell them apart.
"""

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ... import measure, nets
from ...descent import gradient_descent
from ...plot.style import GRAY, color_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, batched, looped
from ...width import WidthExponent
from ..claims import Claim, finished, judged, reported
from ..old_experiment import OldExperiment, quantiles
from ..width_fits import TOLERANCE, WITHIN, exponent, set_widths, told
from .common import (
    ADAM,
    GD,
    MUON,
    NORMALIZED,
    ONE_RATE,
    ONE_RATE_ADAM,
    Case,
    draw_sizes,
    network,
    optimizer,
    places,
    powers_as_text,
    shade_of,
    task,
    verdict,
)

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEPS = 30
# The rates are about the best ones at width 64. Muon and normalized updates, which take long to compile, come last.
CASES = {
    "GD, Spectral": Case(nets.Spectral(), GD, 0.8),
    "GD, SP, one rate": Case(ONE_RATE, GD, 0.2),
    "Adam, Spectral": Case(nets.Spectral("adam"), ADAM, 1.6),
    "Adam, SP, one rate": Case(ONE_RATE_ADAM, ADAM, 0.04),
    "GD, NTP": Case(nets.NTP(), GD, 16.0),
    "normalized": Case(nets.Spectral(), NORMALIZED, 0.2),
    "Muon": Case(nets.Spectral(), MUON, 0.05),
}
# The power of n of the largest rate that is stable, or nothing where none is promised.
POWERS = {name: -1.0 if "one rate" in name else None if name == MUON else 0.0 for name in CASES}


def grid(quick: bool) -> Grid:
    """Widths × how many of the cases × cases × octaves of the learning rate, about the case's own × seeds."""
    count = 4 if quick else len(CASES)
    return Grid(
        width=looped([64, 128, 256] if quick else [64, 128, 256, 512]),
        count=looped([count]),
        case=batched(places(CASES, list(CASES)[:count])),
        octave=np.arange(-3.5, 1.6, 0.5).tolist() if quick else np.arange(-4.5, 1.6, 0.5).tolist(),
        seed=range(8),
    )


def one_run(key: PRNGKeyArray, width: int, count: int, case: int | Array, octave: float | Array) -> Trajectory:
    """Some full-batch steps of one of the first `count` cases, by its place, at 2^octave times its learning rate."""
    data, cases = task(), list(CASES.values())[:count]
    net = network(key, width, [each.scheme for each in cases], case)
    rate = jnp.asarray([each.rate for each in cases])[case] * 2.0**octave
    method = optimizer(cases, width, case, rate)
    observe = {"loss": measure.loss}
    options: dict[str, Any] = {"time_per_step": 1.0, "progress": False}  # time counts steps
    return gradient_descent(net, data, method, STEPS, save_at=[0, STEPS], observe=observe, **options)


def losses(dataset: "xarray.Dataset") -> "xarray.DataArray":
    """The losses at the end over those at the start; infinite where a run blew up."""
    ratio = dataset["loss_at_end"] / dataset["loss"].isel(time=0)
    return ratio.where(finished(dataset) & np.isfinite(ratio), np.inf)


def best_rates(runs: "xarray.Dataset", name: str) -> "xarray.DataArray":
    """The best learning rate of each network of a case; NaN where that is the lowest or the highest tried.

    It is the vertex of the parabola through the lowest loss and its two neighbors, all in logarithms.
    """
    values = losses(runs).transpose("width", "seed", "octave")
    octaves = values["octave"].values
    # What is worse than the start tells nothing by how much.
    table = np.log(np.clip(values.values, 1e-300, 10.0))
    lowest = table.argmin(axis=-1)
    inner = np.clip(lowest, 1, len(octaves) - 2)
    left, middle, right = (np.take_along_axis(table, (inner + i)[..., None], -1)[..., 0] for i in (-1, 0, 1))
    bend = left - 2 * middle + right
    offset = np.where(bend > 0, (left - right) / (2 * np.where(bend > 0, bend, 1)), 0)
    place = np.where(inner == lowest, octaves[inner] + offset * (octaves[1] - octaves[0]), np.nan)
    return values.isel(octave=0, drop=True).copy(data=CASES[name].rate * 2.0**place)


def figure(dataset: "xarray.Dataset") -> "Figure":
    """The loss against the learning rate for all widths, case by case, and the best rates against width."""
    from matplotlib.lines import Line2D

    runs = dataset.isel(count=0)
    names, widths = runs["case"].values, runs["width"].values
    columns = -(-(len(names) + 1) // 2)
    sheet, axes = new_figure(columns, rows=2)
    for ax in axes[len(names) + 1 :]:
        ax.remove()
    last = axes[len(names)]
    for i, (ax, name) in enumerate(zip(axes, names, strict=False)):
        color = color_of(i, len(names))
        _draw_losses(ax, runs.sel(case=name), name)
        ax.set_title(name, color=color)
        draw_sizes(last, best_rates(runs.sel(case=name), name), color, POWERS[name])
    set_widths(last, widths)
    last.set(title="best rates (colors of titles)", ylabel="learning rate $\\eta$")
    entries: dict[str, Any] = {
        f"$n = {n}$": Line2D([], [], color=shade_of(i, len(widths)), marker="o", markersize=3.5)
        for i, n in enumerate(widths)
    }
    entries["untrained"] = Line2D([], [], color=GRAY, linestyle=":", linewidth=1.2)
    entries["theory"] = Line2D([], [], color="black", linestyle="--", linewidth=0.9)
    legend_below(sheet, entries, f"median and 10–90 % over {runs.sizes['seed']} networks")
    return sheet


def _draw_losses(ax: "Axes", runs: "xarray.Dataset", name: str) -> None:
    widths, values = runs["width"].values, losses(runs).transpose("width", "seed", "octave")
    rates = CASES[name].rate * 2.0 ** values["octave"].values
    for i, rows in enumerate(np.minimum(values.values, 1e3)):
        low, median, high = np.quantile(rows, (0.1, 0.5, 0.9), axis=0)
        ax.plot(rates, median, color=shade_of(i, len(widths)), marker="o", markersize=3)
        ax.fill_between(rates, low, high, color=shade_of(i, len(widths)), alpha=0.2, linewidth=0)
    ax.axhline(1.0, color=GRAY, linestyle=":", linewidth=1.2)
    lowest = float(values.min())
    ax.set(xscale="log", yscale="log", ylim=(0.7 * lowest, 3.0), xlabel="learning rate $\\eta$")
    ax.xaxis.set_minor_formatter("")
    ax.set_ylabel(f"loss after {STEPS} steps / at the start")


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """How the best rate moves, and what the best one of the narrowest networks costs the widest."""
    runs, found = dataset.isel(count=0), []
    for name in runs["case"].values:
        found.append(_claim_best(runs.sel(case=name), name))
    return found + [_report(runs.sel(case=name), name) for name in runs["case"].values]


def _claim_best(runs: "xarray.Dataset", name: str) -> Claim:
    """That the best rate stays or, where the largest stable rate falls, that it falls too."""
    fit, power = exponent(best_rates(runs, name)), POWERS[name]
    statement, measured = f"{name}: power of n of the best learning rate", told(fit)
    if np.isnan(fit.exponent):
        measured = "undefined: some networks do best at the end of the rates tried"
    if power is None:
        return reported(statement, measured, runs)
    if power == 0:
        expected, holds = f"0, {WITHIN}", verdict([fit], [0.0])
    else:
        law = powers_as_text([power])
        expected, holds = f"< −{TOLERANCE:g} by two standard errors; the largest stable rate as {law}", _falls(fit)
    if np.isnan(fit.exponent):
        holds = None
    return judged(statement, expected, measured, holds, runs, despite="rates above the largest stable one")


def _falls(fit: WidthExponent) -> bool | None:
    if fit.exponent + 2 * fit.error < -TOLERANCE:
        return True
    return None if fit.exponent - 2 * fit.error <= -TOLERANCE else False


def _report(runs: "xarray.Dataset", name: str) -> Claim:
    values, n = losses(runs), runs["width"].values
    narrow = values.isel(width=0).median("seed").argmin("octave")
    wide = values.isel(width=-1)
    measured = (
        f"loss {quantiles(wide.isel(octave=int(narrow)))} of the start, "
        f"at its own best rate {quantiles(wide.min('octave'))}"
    )
    return reported(f"{name}: the best rate of n = {n[0]} on n = {n[-1]}", measured, runs)


TRANSFER = OldExperiment(
    name="transfer",
    question="Does the best learning rate of a narrow network serve a wide one?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(25, 500),
)
