"""Figures of the benchmark: error against work for every problem and horizon, and the growth of cost."""

import textwrap
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter
from solver_problems import PROBLEMS
from solver_results import TRUSTED, Results, spent

from nfa_flow.plot.style import PALETTE, house_style, new_figure

_BLUE, _VERMILION, _GREEN, _PINK, _ORANGE, _SKY, _, _WINE = PALETTE
# Ours with solid lines, peers dashed; the markers tell apart what the colors do not.
_LOOKS: dict[str, tuple[str, str, Any]] = {
    "default": ("black", "P", "-"),
    "Piecewise": (_WINE, "h", "-"),
    "Smoothed": ("#44aa99", "d", "-"),
    "NDF": (_BLUE, "o", "-"),
    "TSRKC3": (_GREEN, "s", "-"),
    "RKC2": (_SKY, "D", "-"),
    "CVODE": (_VERMILION, "v", "--"),
    "Kvaerno5": ("#7a5230", "X", "--"),
    "Tsit5": (_ORANGE, "^", "--"),
    "Dopri5": ("#b09000", "<", "--"),
    "Dopri8": (_PINK, ">", "--"),
    "torchdiffeq": ("#777777", "p", "--"),
    "RK4": ("black", "*", "--"),
}
_LABELS = {"CVODE": "CVODE (BDF, GMRES)", "torchdiffeq": "torchdiffeq (dopri5)"}


def draw_work_precision(results: Results, horizons: dict[str, list[float]], stem: Path) -> list[Path]:
    """Two figures, against seconds and against gradients, with a row for each problem and a column for each horizon."""
    return [
        _grid(results, horizons, "seconds", "time (s)", stem),
        _grid(results, horizons, "gradients", "gradients + Hessian-vector products", stem),
    ]


def draw_scaling(results: Results, stem: Path) -> list[Path]:
    """The cost of NDF against the horizon, and its cost and memory against the number of parameters."""
    solves = [entry for entry in results.all["scaling"].values() if entry["status"] == "completed"]
    by_horizon = [entry for entry in solves if entry["what"] == "solve" and entry["problem"] == "tanh"]
    by_size = [entry for entry in solves if entry["what"] == "solve" and entry["problem"] != "tanh"]
    memory = {entry["problem"]: entry for entry in solves if entry["what"] == "memory"}
    work = lambda entry: spent(entry, "gradients")
    by_size = [
        entry | memory[entry["problem"]] | {"work": work(entry)} for entry in by_size if entry["problem"] in memory
    ]
    figure, (left, middle, right) = new_figure(3)
    with house_style():
        times = [entry["t1"] for entry in by_horizon]
        left.plot(times, [work(entry) for entry in by_horizon], "o-", color=_BLUE, label="gradients + products")
        left.plot(times, [entry["steps"] for entry in by_horizon], "s-", color=_VERMILION, label="steps")
        left.set(xlabel="horizon $T$", ylabel="count", title="tanh, rtol $10^{-6}$")
        P = [entry["P"] for entry in by_size]
        middle.plot(P, [entry["work"] for entry in by_size], "o-", color=_BLUE, label="gradients + products")
        middle.plot(P, [entry["steps"] for entry in by_size], "s-", color=_VERMILION, label="steps")
        middle.set(xlabel="parameters $P$", ylabel="count", title="tanh, $T=100$, rtol $10^{-4}$")
        right.plot(P, [entry["vectors"] for entry in by_size], "o-", color=_BLUE)
        right.set(
            xlabel="parameters $P$",
            ylabel="memory (vectors of length $P$)",
            title="beyond the arguments, by XLA's account",
        )
        for ax in (left, middle):
            ax.set(xscale="log", yscale="log", ylim=(10, 1e4))
            ax.legend()
        right.set(xscale="log", ylim=(0, None))
    return [_saved(figure, stem, "scaling")]


def _grid(results: Results, horizons: dict[str, list[float]], work: str, label: str, stem: Path) -> Path:
    rows, columns = len(horizons), max(map(len, horizons.values()))
    figure = plt.figure(figsize=(max(3.6 * columns, 7), 2.7 * rows + 0.9), layout="constrained", dpi=150)
    with house_style():
        axes = figure.subplots(rows, columns, squeeze=False)
        for row, (problem, times) in zip(axes, horizons.items(), strict=True):
            for ax, t1 in zip(row, times, strict=False):
                _panel(ax, results, problem, t1, work)
                ax.set_title(f"{PROBLEMS[problem].title}, $T={t1:g}$", pad=18)  # room for what timed out
            for ax in row[len(times) :]:
                ax.set_visible(False)
            row[0].set_ylabel("relative error of the parameters")
        for column in axes.T:
            [ax for ax in column if ax.get_visible()][-1].set_xlabel(label)
        shown = {cell["method"] for cell in results.all["cells"].values()}
        handles = [_handle(method) for method in _LOOKS if method in shown]
        gray: dict[str, Any] = {"color": "#777777", "markerfacecolor": "none"}
        handles.append(Line2D([], [], marker="o", linestyle="", label="below 3 × reference's error", **gray))
        handles.append(Line2D([], [], linestyle=":", label="reference's own error", **gray))
        figure.legend(handles=handles, loc="outside lower center", ncols=max(2 * columns, 4))
    return _saved(figure, stem, work)


def _panel(ax: Axes, results: Results, problem: str, t1: float, work: str) -> None:
    uncertainty = results.uncertainty(problem, t1) or 0.0
    late, errors, x, unknown = [], [], [], False
    for method in _LOOKS:
        cells = results.cells(problem, t1, method)
        late += [method] * any(cell["status"] == "timed out" for cell in cells)
        # Kvaerno5 does not count its gradients.
        done = [cell for cell in cells if cell["status"] == "completed" and cell["error"] and cell[work] is not None]
        errors += [cell["error"] for cell in done]
        x += [spent(cell, work) for cell in done]
        unknown |= any(cell["status"] == "completed" and cell["error"] is None for cell in cells)
        _curve(ax, method, done, work, trusted_above=TRUSTED * uncertainty)
    if errors:
        # Whole decades: labels between them would overlap.
        decades = 10.0 ** np.array([np.floor(np.log10(min(x))), np.ceil(np.log10(max(x)))])
        ax.set(xscale="log", yscale="log", xlim=decades * [0.8, 1.25])
        ax.xaxis.set_minor_formatter(NullFormatter())
    else:
        ax.text(
            0.5, 0.5, "no reference solution" if unknown else "nothing measured", transform=ax.transAxes, ha="center"
        )
        ax.set(xticks=[], yticks=[])
    if errors and uncertainty > min(errors) / 100:
        ax.axhline(uncertainty, color="#777777", linestyle=":", linewidth=1)
    if late:
        text = textwrap.fill(f"timed out at some tolerance: {', '.join(late)}", 64)
        note = ax.text(0.5, 1.015, text, transform=ax.transAxes, fontsize=5.5, color="#555555", ha="center")
        note.set_in_layout(False)


def _curve(ax: Axes, method: str, cells: list[dict], work: str, *, trusted_above: float) -> None:
    color, marker, line = _LOOKS[method]
    x = [spent(cell, work) for cell in cells]
    y = [cell["error"] for cell in cells]
    ax.plot(x, y, line, color=color, linewidth=1.2, zorder=3 if line == "-" else 2)
    for xi, yi in zip(x, y, strict=True):
        inside = color if yi >= trusted_above else "white"
        ax.plot(xi, yi, marker, color=color, markersize=4.5, markerfacecolor=inside, zorder=4)


def _handle(method: str) -> Line2D:
    color, marker, line = _LOOKS[method]
    return Line2D([], [], color=color, marker=marker, linestyle=line, markersize=4.5, label=_LABELS.get(method, method))


def _saved(figure, stem: Path, what: str) -> Path:
    path = stem.with_name(f"{stem.name}-{what}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
    return path
