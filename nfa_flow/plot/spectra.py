"""The ansatz as a straight line: eigenvalues of NFM against those of AGOP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..checks import require_instance, wrong
from ..measure import Spectrum
from .arguments import require_axes, require_words
from .style import PALETTE, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def spectrum(spectrum: Spectrum, *, ax: Axes | None = None, label: str | None = None) -> Axes:
    """vᵀ NFM v against the eigenvalues of AGOP, where v are its eigenvectors, with the power law that fits best.

    If NFM ∝ AGOP^α, the points are on a line of slope α. Directions whose eigenvalue is zero up to rounding are left
    out. Call it again with the same axes to compare spectra.

    **Arguments:** `spectrum`: of one network, from `nf.measure.spectrum`; `ax`: axes to draw into; `label`: of these
    points in the legend.
    **Returns:** the axes.
    **Raises:** ValueError naming `spectrum` if it is of several networks, or has no direction to show.
    """
    require_instance("spectrum", spectrum, Spectrum, "a `Spectrum`, as `nf.measure.spectrum` returns it")
    require_words(label=label)
    require_axes(ax)
    agop, along = np.asarray(spectrum.agop), np.asarray(spectrum.nfm_along_agop)
    if agop.ndim != 1:
        raise wrong("spectrum", "that of one network", f"of shape {agop.shape}")
    use = np.isfinite(along) & (along > 0)
    if not use.any():
        raise wrong("spectrum", "one with an eigenvalue of AGOP above rounding", "without any")
    ax = new_figure()[1][0] if ax is None else ax
    color = PALETTE[len(ax.collections) % len(PALETTE)]
    x, y = agop[use], along[use]
    fitted = ""
    if len(x) > 1 and np.ptp(np.log(x)) > 1e-6:  # equal eigenvalues have no slope
        slope, constant = np.polyfit(np.log(x), np.log(y), 1)
        ax.plot(x, np.exp(constant) * x**slope, color=color, linewidth=1)
        fitted = f"$\\hat\\alpha = {slope:.3f}$"
    ax.scatter(x, y, s=10, color=color, zorder=3, label=", ".join(filter(None, (label, fitted))) or None)
    ax.set(xscale="log", yscale="log", xlabel="eigenvalue of AGOP", ylabel="$v^\\top$ NFM $v$")
    if ax.get_legend_handles_labels()[1]:
        with house_style():
            ax.legend(fontsize=7.5, handletextpad=0.2)
    return ax
