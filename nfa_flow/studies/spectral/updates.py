"""Optimizers whose updates have a given spectral norm, beside gradient descent and Adam: what is alike, what is not.

All start as `Spectral` has it. Gradient descent and Adam get its learning rates; normalized updates, which are
−η √(fan_out/fan_in) G/‖G‖_*, need none. Muon makes all singular values about equal, and optax scales that by
√max(1, fan_out/fan_in), which is the spectral condition where a layer does not narrow. The read-out does: there
√(fan_out/fan_in) is smaller by √(fan_in/fan_out), by which "Muon, rescaled" divides its updates.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from ...plot.style import GRAY, color_of, legend_below, new_figure
from ...sweep import Grid
from ..claims import Claim, judged, reported
from ..old_experiment import OldExperiment, quantiles
from ..width_fits import WITHIN, exponent, set_widths, told
from .common import LAYERS, draw_sizes, powers_as_text, shape_of, verdict
from .norms import CASES, STEPS, claim_powers, grid_of, of_layer, one_run, powers_of_step

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = ["GD, Spectral", "Adam, Spectral", "normalized", "Muon", "Muon, rescaled"]
_HIDDEN, _READ_OUT = 1, 2


def grid(quick: bool) -> Grid:
    """Widths × optimizers × seeds; a step of Muon costs a dozen products of hidden matrices."""
    return grid_of(NAMES, [64, 128, 256] if quick else [64, 128, 256, 512])


_PANELS = (
    ("update", _HIDDEN, "$\\|\\Delta W\\|_*/(n_l/n_{l-1})^{1/2}$"),
    ("update", _READ_OUT, "$\\|\\Delta W\\|_*/(n_l/n_{l-1})^{1/2}$"),
    ("stable_rank", _HIDDEN, "stable rank of $\\Delta W$"),
    ("alignment", _HIDDEN, "$\\|\\Delta W h\\|\\,/\\,\\|\\Delta W\\|_*\\|h\\|$"),
    ("change", _HIDDEN, "change of features, rms"),
    ("moved", _HIDDEN, "$\\|\\Delta W\\|_F\\,/\\,\\|W(0)\\|_F$"),
)


def figure(dataset: "xarray.Dataset") -> "Figure":
    """After one step, against width: norms, stable rank, alignment with features, change of features and of weights."""
    from matplotlib.lines import Line2D

    sheet, axes = new_figure(3, rows=2)
    lines: dict[str, Any] = {}
    for ax, (name, layer, label) in zip(axes, _PANELS, strict=True):
        for i, case in enumerate(NAMES):
            values = of_layer(dataset.sel(case=case), name, layer, 1)
            power = powers_of_step(CASES[case])[layer] if name == "update" else None
            lines[case] = draw_sizes(ax, values, color_of(i, len(NAMES)), power)
        _draw_baseline(ax, dataset, name)
        set_widths(ax, dataset["width"].values)
        ax.set(title=f"{LAYERS[layer]}, one step", ylabel=label)
    lines["theory"] = Line2D([], [], color="black", linestyle="--", linewidth=0.9)
    lines["without relation to the features"] = Line2D([], [], color=GRAY, linestyle=":", linewidth=1.2)
    legend_below(sheet, lines, f"median and 10–90 % over {dataset.sizes['seed']} networks; all start as Spectral")
    return sheet


def _draw_baseline(ax: "Axes", dataset: "xarray.Dataset", name: str) -> None:
    """A Gaussian matrix; updates with the same singular values, turned at random; and the power −½ of low ranks."""
    n = dataset["width"].values
    if name == "stable_rank":
        ax.plot(n, n / 4, color=GRAY, linestyle=":", linewidth=1.2)
    if name == "alignment":
        for i, case in enumerate(NAMES):
            null = turned(of_layer(dataset.sel(case=case), "stable_rank", _HIDDEN, 1)).median("seed")
            ax.plot(n, null, color=color_of(i, len(NAMES)), linestyle=":", linewidth=1.2)
    if name == "moved":
        start = float(of_layer(dataset.sel(case=NAMES[0]), name, _HIDDEN, 1).isel(width=0).median())
        ax.plot(n, start * (n / n[0]) ** -0.5, "k--", linewidth=0.9, zorder=5)


def turned(stable_rank: "xarray.DataArray") -> "xarray.DataArray":
    """The alignment of a matrix with the same singular values, turned at random: √(stable rank / fan_in)."""
    fan_in = np.array([shape_of(int(width))[_HIDDEN] for width in stable_rank["width"].values])
    return (stable_rank / stable_rank["width"].copy(data=fan_in)) ** 0.5


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """The norms, the exactness of normalized ones, what low rank means for the weights, and the ranks."""
    found = [_claim_exact(dataset.sel(case="normalized"))]
    for name in NAMES:
        found += [claim_powers(dataset, name, step) for step in (1, STEPS)]
    found += [
        _claim_power(dataset, "alignment", 0.0, "‖ΔWh‖/(‖ΔW‖_*‖h‖)"),
        _claim_power(dataset, "change", 0.0, "change of features, rms"),
        _claim_power(dataset, "moved", -0.5, "‖ΔW‖_F/‖W(0)‖_F, although ‖ΔW‖_*/‖W(0)‖_* stays"),
    ]
    return found + [_report(dataset.sel(case=name), name) for name in NAMES]


def _claim_exact(runs: "xarray.Dataset") -> Claim:
    ratios = runs["layers.update"].sel(time=1) / CASES["normalized"].rate
    off = float(np.abs(ratios - 1).max())
    statement = "normalized, 1 step: ‖ΔW_l‖_* = η √(fan_out/fan_in) in all layers"
    return judged(statement, "off by ≤ 1e-5", f"off by ≤ {off:.1g}", off <= 1e-5, runs.sel(time=[1]), ["layers.update"])


def _claim_power(dataset: "xarray.Dataset", name: str, power: float, what: str) -> Claim:
    """Of the hidden layer, under gradient descent as Spectral has it."""
    fit = exponent(of_layer(dataset.sel(case=NAMES[0]), name, _HIDDEN, 1))
    statement = f"{NAMES[0]}, 1 step, hidden layer: power of n of {what}"
    expected, runs = f"{powers_as_text([power])}, {WITHIN}", dataset.sel(case=NAMES[0])
    return judged(statement, expected, told(fit), verdict([fit], [power]), runs)


def _report(runs: "xarray.Dataset", name: str) -> Claim:
    widest = runs.isel(width=-1)
    rank = of_layer(widest, "stable_rank", _HIDDEN, 1)
    alignment, n = of_layer(widest, "alignment", _HIDDEN, 1), int(widest["width"])
    null = turned(of_layer(runs, "stable_rank", _HIDDEN, 1)).isel(width=-1)
    loss = runs["loss_at_end"] / runs["loss"].isel(time=0)
    measured = (
        f"stable rank {quantiles(rank)} of {n}; alignment {quantiles(alignment)}, turned at random {quantiles(null)}; "
        f"loss after {STEPS} steps {quantiles(loss)} of the first"
    )
    return reported(f"{name}, 1 step, n = {n}, hidden layer", measured, runs)


UPDATES = OldExperiment(
    name="updates",
    question="Do normalized updates and Muon keep to the condition, and are their updates like those of GD and Adam?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(10, 80),
)
