"""A coordinate check as a figure: sizes against width, with the powers that the parametrization promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import require_instance
from ..width import CoordinateCheck, Scaling
from .style import color_of, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = {
    "activation": "activations $h_l$ at the start, rms",
    "change": "change of $h_l$ by training, rms",
    "update": "$\\|\\Delta W_l\\|_*\\,(n_{l-1}/n_l)^{1/2}$",
    "output": "outputs $f$, rms",
}
_OUTPUTS = {"output": "at the start", "output change": "change"}
_VERDICTS = {True: "holds", False: "broken", None: "open"}


def coordinate_check(check: CoordinateCheck) -> Figure:
    """Sizes of activations, their changes, updates and outputs against the width, layer by layer.

    Geometric means, and the range over the networks; dashed lines have the promised slopes. All panels span the same
    number of decades, so that slopes can be compared. The legends give the fitted powers of the width with their
    standard errors.

    **Arguments:** `check`: the result of `nf.width.coordinate_check`.
    **Returns:** the figure.
    """
    require_instance("check", check, CoordinateCheck, "a result of `nf.width.coordinate_check`")
    figure, axes = new_figure(len(_PANELS))
    figure.set_figheight(figure.get_figheight() + 0.8)
    for ax, (kind, label) in zip(axes, _PANELS.items(), strict=True):
        scalings = {name: each for name, each in check.scalings.items() if name.split()[0] == kind}
        for i, (name, scaling) in enumerate(scalings.items()):
            what = _OUTPUTS.get(name, f"$l = {name.split()[-1]}$")
            _draw(ax, check.widths, scaling, what, color_of(i, len(scalings)))
        ax.set(xscale="log", yscale="log", xlabel="width $n$", ylabel=label)
        ax.set_xticks(check.widths, [str(width) for width in check.widths])
        ax.set_xticks([], minor=True)
        with house_style():
            ax.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    _span_alike(axes)
    title = f"{check.parametrization.name}: powers of $n$, fitted and (dashed) promised: {_VERDICTS[check.passed]}"
    figure.suptitle(title, fontsize=9.0)
    return figure


def _draw(ax: Axes, widths: tuple[int, ...], scaling: Scaling, what: str, color: Any) -> None:
    n = np.asarray(widths, float)
    sizes = np.where(scaling.sizes > 0, scaling.sizes, np.nan)  # zeros and diverged sizes cannot be drawn on this axis
    mean = np.exp(np.log(sizes).mean(axis=1))
    fitted = f"{round(scaling.exponent, 2) + 0.0:+.2f} ± {scaling.error:.2f}".replace("-", "−")  # and no −0.00
    ax.plot(n, mean, color=color, marker="o", markersize=3.5, label=f"{what}: {fitted}, {_VERDICTS[scaling.holds]}")
    ax.fill_between(n, sizes.min(axis=1), sizes.max(axis=1), color=color, alpha=0.2, linewidth=0)
    if scaling.promised is not None:
        center, middle = np.exp(np.log(mean).mean()), np.exp(np.log(n).mean())
        ax.plot(n, center * (n / middle) ** scaling.promised, "k--", linewidth=1.0, zorder=5)


def _span_alike(axes: Sequence[Axes]) -> None:
    """Give all vertical axes the same number of decades: the largest one, at least two."""
    is_empty = lambda ax: not np.all(np.isfinite(ax.dataLim.intervaly))  # if all sizes are zero
    limits = [(0.0, 0.0) if is_empty(ax) else np.log10(ax.get_ylim()) for ax in axes]
    half = max(2.0, *(high - low for low, high in limits)) / 2
    for ax, (low, high) in zip(axes, limits, strict=True):
        center = (low + high) / 2
        ax.set_ylim(10 ** (center - half), 10 ** (center + half))
