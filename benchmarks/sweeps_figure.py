"""The figure of the sweep benchmark: how many runs a second each way does, beside a loop in Python."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from sweeps_peers import LOOP, WAYS

from nfa_flow.plot.style import GRAY, PALETTE, house_style, new_figure

_COLORS = dict(zip([way for way in WAYS if way != LOOP], [*PALETTE[:7], GRAY], strict=True))


def draw(sizes: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """One panel per mix of lanes, one group of bars per size, as one PNG."""
    mixes = list(dict.fromkeys(mix for size in sizes for mix in size["mixes"]))
    figure, axes = new_figure(len(mixes))
    entries: dict[str, Any] = {}
    with house_style():
        for ax, mix in zip(axes, mixes, strict=True):
            entries |= _panel(ax, mix, [size for size in sizes if mix in size["mixes"]])
            ax.sharey(axes[0])
        axes[0].set_ylabel("runs / s, relative to a loop")
        figure.set_figheight(3.6)
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=1 + len(mixes))
        figure.savefig(path)
    return path


def _panel(ax: Axes, mix: str, sizes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Bars, and the line of the loop. Returns its entries for the legend."""
    measured = [size["mixes"][mix]["ways"] for size in sizes]
    ways = [way for way in _COLORS if any(way in each for each in measured)]
    width, entries = 0.85 / len(ways), {}
    for i, way in enumerate(ways):
        shown = {place: each for place, each in enumerate(measured) if {way, LOOP} <= each.keys()}
        places = [place + (i - (len(ways) - 1) / 2) * width for place in shown]
        heights = [each[LOOP]["seconds"] / each[way]["seconds"] for each in shown.values()]
        entries[way] = ax.bar(places, heights, width, color=_COLORS[way])
    entries[LOOP] = ax.axhline(1, color="black", linestyle="--", linewidth=1)
    ax.set(yscale="log", title=mix, xlabel="parameters × lanes")
    ax.set_xticks(range(len(sizes)), [f"{size['parameters']:,} × {size['lanes']}" for size in sizes])
    ax.grid(visible=False, axis="x")
    return entries
