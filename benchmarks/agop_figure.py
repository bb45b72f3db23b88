"""The figure of the AGOP benchmark: time of each way, and how it grows."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from nfa_flow.plot.style import PALETTE, house_style, new_figure

_LOOKS = {
    "ours, K": (PALETTE[0], "o", "-"),
    "ours, factor": (PALETTE[2], "s", "-"),
    "ours, d × d": (PALETTE[5], "D", "-"),
    "JAX vmap(jacrev)": (PALETTE[4], "^", "--"),
    "PyTorch vmap(jacrev), 1000": (PALETTE[1], "v", "--"),
}
_AXES = {"n": "samples $n$", "d": "inputs $d$", "h": "width $h$"}


def draw(results: dict[str, Any], path: Path) -> Path:
    """Three panels, against n, d and h, as one PNG."""
    figure, axes = new_figure(3)
    with house_style():
        for ax, (axis, rows) in zip(axes, results["growth"].items(), strict=True):
            _panel(ax, axis, rows)
        axes[0].set_ylabel("seconds")
        axes[0].legend(fontsize="small")
        figure.savefig(path)
    return path


def _panel(ax: Axes, axis: str, rows: list[dict]) -> None:
    values = [row["value"] for row in rows]
    for way in rows[0]["seconds"]:
        color, marker, line = _LOOKS[way]
        ax.plot(values, [row["seconds"][way] for row in rows], line, marker=marker, color=color, label=way)
    ax.set(xscale="log", yscale="log", xlabel=_AXES[axis])
    ax.set_xticks(values, [f"{value:g}" for value in values])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(alpha=0.3)
    ax.set_ylim(top=1.5 * np.max([list(row["seconds"].values()) for row in rows]))
