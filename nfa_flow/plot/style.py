"""Size, fonts and colors of all figures, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, which color-blind readers can distinguish, and Tol's wine; black is for theory.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#882255")
GRAY = "#777777"
AT_START = "at $t=0$"
TIME = "time $t$ (learning rate × step)"
STEPS = "steps of an optimizer"  # label of the time axis if time counts steps
_MOST_COLUMNS = 6
_FONT_SIZE = 9.0
_LABELS = {
    "loss": "loss $\\mathcal{L}$",
    "cosine": "cos(NFM, AGOP$^{\\alpha}$)",
    "alignment": "alignment of NFM and AGOP$^{\\alpha}$",
    "relative_error": "relative error of NFM $\\propto$ AGOP$^{\\alpha}$",
    "exponent.exponent": "fitted exponent $\\hat\\alpha$",
    "best.cosine": "cos(NFM, AGOP$^{\\alpha}$), best $\\alpha$",
    "best.relative_error": "relative error of NFM $\\propto$ AGOP$^{\\alpha}$, best $\\alpha$",
}
_SETTINGS: dict[Any, Any] = {
    "font.size": _FONT_SIZE,
    "axes.titlesize": _FONT_SIZE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": _FONT_SIZE,
}


def house_style() -> AbstractContextManager[None]:
    """A context in which matplotlib makes new artists in the house style."""
    import matplotlib.pyplot as plt

    return plt.rc_context(_SETTINGS)


def new_figure(columns: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of `columns` axes in a row, row after row, in the house style."""
    import matplotlib.pyplot as plt

    # Outside the context: at its end a backend loaded inside would lose its settings, and notebooks would lose figures.
    figure = plt.figure(figsize=(3.6 * columns, 2.9 * rows), layout="constrained", dpi=150)
    with house_style():
        axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def set_axes(
    ax: Axes, values: np.ndarray, name: str, label: str | None, xscale: str = "log", xlabel: str = TIME
) -> None:
    """Axes for an observable against time; the vertical axis is logarithmic if the values span two decades."""
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() > 0 and finite.max() > 100 * finite.min():
        ax.set_yscale("log")
    if not finite.size:
        ax.text(0.5, 0.5, "undefined", transform=ax.transAxes, ha="center")
    ax.set(xscale=xscale, xlabel=xlabel, ylabel=label or label_of(name))


def legend_below(figure: Figure, entries: Mapping[str, Any], title: str | None = None) -> None:
    """One legend for all axes, from label → artist, in as many columns as fit the figure."""
    if not entries:
        return

    def draw(columns: int, fontsize: float) -> float:
        """Draw the legend and return its width, in widths of the figure."""
        for legend in figure.legends:
            legend.remove()
        sizes: Any = {"fontsize": fontsize, "title_fontsize": fontsize, "title": title}
        place: Any = {"loc": "outside lower center", "ncols": columns}
        legend = figure.legend(entries.values(), entries.keys(), **sizes, **place)
        return legend.get_window_extent().width / figure.bbox.width

    with house_style():
        columns = min(len(entries), _MOST_COLUMNS)
        while (width := draw(columns, _FONT_SIZE)) > 1 and columns > 1:
            columns -= 1
        if width > 1:
            draw(columns, 0.95 * _FONT_SIZE / width)  # letters shrink a little less than in proportion
    rows = -(-len(entries) // columns)  # further rows and the title make the figure higher, not the axes smaller
    figure.set_figheight(figure.get_figheight() + 0.2 * (rows - 1) + (0 if title is None else 0.4))


def legend_inside(ax: Axes, entries: Mapping[str, Any], title: str | None = None) -> None:
    """A small legend inside the axes, transparent because it may cover curves."""
    if entries:
        with house_style():
            small: Any = {"fontsize": 7.5, "title_fontsize": 7.5, "alignment": "left"}
            behind: Any = {"frameon": True, "framealpha": 0.8, "edgecolor": "none"}
            ax.legend(entries.values(), entries.keys(), title=title, **small, **behind)


def entries_of(*axes: Axes) -> dict[str, Any]:
    """Label → artist, for all artists in these axes with a label."""
    return {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}


def label_of(name: str) -> str:
    """The label of an observable in figures."""
    return _LABELS.get(name, name)


def color_of(i: int, count: int) -> Any:
    """Distinct colors or, if there are too many, colors from dark to light."""
    if count <= len(PALETTE):
        return PALETTE[i]
    from matplotlib import colormaps

    return colormaps["viridis"](0.9 * i / (count - 1))


def text_of(value: Any) -> str:
    """A setting as text in a legend or on an axis."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def swatch(color: Any = GRAY, **style: Any) -> Any:
    """The symbol of a color or a style in a legend: a line of no length."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, **style)
