"""Observables of one or several runs against time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import ArrayLike

from ..checks import wrong
from ..trajectory import Trajectory, flatten
from .style import AT_START, GREY, PALETTE, legend_below, new_figure, set_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LARGEST = 1e100

Runs = Trajectory | Mapping[str, Trajectory]


def observable(runs: Runs, name: str, *, ax: Axes | None = None, label: str | None = None) -> Axes:
    """One scalar observable against time, for one run or several by name.

    The first run is drawn thicker (by convention the exact flow). Time is logarithmic (linear where none is positive);
    the value at t = 0, which has no place there, is a dotted line. The vertical axis is logarithmic where positive
    values span two decades; values from 1e100 on are left out.

    **Arguments:** `runs`: a `Trajectory`, or label → `Trajectory`; `name`: of a scalar observable that at least one of
    them has (a leaf of a tree as `observable.leaf`); `ax`: axes to draw into; `label`: of the vertical axis.
    **Returns:** the axes.
    **Raises:** ValueError naming `name` when no run has such a scalar observable.
    """
    runs = {"": runs} if isinstance(runs, Trajectory) else runs
    for run in runs.values():
        run.require_one_run("observable")
    curves = {key: values for key, run in runs.items() if (values := flatten(run.observed).get(name)) is not None}
    curves = {key: _drawable(values) for key, values in curves.items() if values.ndim == 1}
    if not curves:
        known = sorted({key for run in runs.values() for key, v in flatten(run.observed).items() if v.ndim == 1})
        raise wrong("name", f"a scalar observable of these runs, {known}", repr(name))
    ax = new_figure()[1][0] if ax is None else ax
    logarithmic = any(np.any(np.asarray(runs[key].times) > 0) for key in curves)
    for i, (key, values) in enumerate(curves.items()):
        times, width = np.asarray(runs[key].times), 2.4 if i == 0 and len(curves) > 1 else 1.3
        shown = times > 0 if logarithmic else np.isfinite(times)
        ax.plot(times[shown], values[shown], color=PALETTE[i % len(PALETTE)], label=key, linewidth=width)
    initial = next((values[0] for key, values in curves.items() if float(runs[key].times[0]) == 0), np.nan)
    if np.isfinite(initial):
        ax.axhline(initial, color=GREY, linestyle=":", linewidth=1, label=AT_START, zorder=0)
    set_axes(ax, np.concatenate(list(curves.values())), name, label, "log" if logarithmic else "linear")
    return ax


def _drawable(values: ArrayLike) -> np.ndarray:
    """Without the last values of a run that blew up, which no axis holds."""
    drawable = np.array(values, float)
    drawable[~(np.abs(drawable) < _LARGEST)] = np.nan
    return drawable


def overview(runs: Runs, names: Sequence[str] = ("loss", "alignment")) -> Figure:
    """Several observables of the same runs side by side, with one legend; arguments as in `observable`."""
    if isinstance(names, str) or not names:
        raise wrong("names", "a sequence of names of observables", repr(names))
    figure, axes = new_figure(len(names))
    for name, ax in zip(names, axes, strict=True):
        observable(runs, name, ax=ax)
    entries = {
        label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True) if label
    }
    legend_below(figure, entries)
    return figure
