"""One place for size, fonts and colours of all figures."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, which colour-blind readers can tell apart; black is kept for theory.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
_SETTINGS: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
}


def house_style() -> AbstractContextManager[None]:
    """A context in which matplotlib makes new artists in the house style."""
    import matplotlib.pyplot as plt

    return plt.rc_context(_SETTINGS)


def new_figure(columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of `columns` axes in a row, in the house style."""
    import matplotlib.pyplot as plt

    # Outside the context: a backend loaded inside would lose its own settings, and notebooks their figures, at its end.
    figure = plt.figure(figsize=(3.6 * columns, 2.9), layout="constrained", dpi=150)
    with house_style():
        axes = figure.subplots(1, columns, squeeze=False)
    return figure, list(axes[0])
