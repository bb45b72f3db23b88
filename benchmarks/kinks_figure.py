"""The figure of `kinks.py`: errors of the flow across kinks, its cost against the horizon and the number of kinks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from solver_results import spent

from nfa_flow.plot.style import PALETTE, house_style, new_figure

_BLUE, _VERMILION, _GREEN, *_ = PALETTE
_THEORY: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1}


def draw(measured: dict[str, dict], path: Path) -> Path:
    """Four panels as one PNG, each with what has been measured."""
    costs = [cost for cost in measured["costs"].values() if cost["status"] == "completed"]
    figure, (tolerances, roundings, horizons, sizes) = new_figure(2, 2)
    with house_style():
        _errors(tolerances, measured["accuracy"], "exact", "rtol", 1)
        tolerances.set(xlabel="rtol", ylabel="relative error of the parameters", title="error of the exact flow")
        _errors(roundings, measured["accuracy"], "rounded", "beta", -1)
        roundings.set(xlabel="$\\beta$", title="distance of the flow with rounded kinks")
        _against(horizons, [cost for cost in costs if cost["problem"] == "relu"], "t1")
        horizons.set(xlabel="horizon $T$", title="ReLU 10-32-32-1, $n=256$")
        _against(sizes, [cost for cost in costs if "kinks" in cost], "kinks")
        sizes.set(xlabel="kinks (samples × units)", title="ReLU 10-$h$-1, $T=1$")
        for ax, place in ((tolerances, "lower right"), (roundings, "lower left"), (horizons, None), (sizes, None)):
            if ax.lines:
                ax.set(xscale="log", yscale="log")
                ax.legend(fontsize=6.5, loc=place)
        figure.savefig(path)
    plt.close(figure)
    return path


def _errors(ax: Axes, problems: dict[str, dict], flows: str, parameter: str, power: int) -> None:
    """The errors of each problem, and the law that they follow."""
    for color, marker, (title, entry) in zip(PALETTE, "osD", problems.items(), strict=False):
        x = np.array([cell[parameter] for cell in entry[flows]])
        ax.plot(x, [cell["error"] for cell in entry[flows]], marker + "-", color=color, markersize=4, label=title)
    if problems:
        ax.plot(x, x**power, **_THEORY, label={1: "rtol", -1: "$1/\\beta$"}[power])


def _against(ax: Axes, costs: Sequence[dict], parameter: str) -> None:
    """Counts, and the time of an event in gradients."""
    if not costs:
        return
    costs = sorted(costs, key=lambda cost: cost[parameter])
    x = [cost[parameter] for cost in costs]
    each = [cost["seconds"] / cost["events"] / cost["gradient_seconds"] for cost in costs]
    ax.plot(x, [cost["events"] for cost in costs], "o-", color=_BLUE, label="events")
    ax.plot(x, [spent(cost, "gradients") for cost in costs], "s-", color=_VERMILION, label="gradients + products")
    ax.plot(x, each, "D-", color=_GREEN, label="time of an event, in gradients")
    ax.set_ylim(10, 20 * max(spent(cost, "gradients") for cost in costs))  # room for the legend
