"""Observables of one or several runs against time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import ArrayLike

from ..checks import described, wrong
from ..run.trajectory import Trajectory
from ..run.trees import flatten
from .arguments import require_axes, require_names, require_words
from .style import AT_START, GRAY, PALETTE, STEPS, TIME, entries_of, legend_below, legend_inside, new_figure, set_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LARGEST = 1e100
_MOST_COLUMNS = 4

Runs = Trajectory | Mapping[str, Trajectory]


def observable(runs: Runs, name: str, *, ax: Axes | None = None, label: str | None = None, legend: bool = True) -> Axes:
    """One scalar observable against time, for one run or several by name.

    The first run is drawn thicker (by convention the exact flow). Time is logarithmic (linear if no time is positive);
    a dotted line shows the value at t = 0. The vertical axis is logarithmic if positive values span two decades; values
    from 1e100 on are left out. If the time of a run is the number of steps of an optimizer instead of the time of the
    flow, its label says so.

    **Arguments:** `runs`: a `Trajectory`, or label → `Trajectory`; `name`: of a scalar observable that at least one of
    them has (a leaf of a tree as `observable.leaf`); `ax`: axes to draw into; `label`: of the vertical axis; `legend`:
    whether to draw a legend in the axes.
    **Returns:** the axes.
    **Raises:** ValueError naming `runs` for anything else, and `name` if no run has such a scalar observable.
    """
    runs = _by_label(runs)
    require_words(name=name, label=label)
    require_axes(ax)
    curves = {key: _drawable(scalars[name]) for key, run in runs.items() if name in (scalars := _scalars(run))}
    if not curves:
        raise wrong("name", f"a scalar observable of these runs, {sorted(_names(runs))}", repr(name))
    ax = new_figure()[1][0] if ax is None else ax
    logarithmic = any(np.any(np.asarray(runs[key].times) > 0) for key in curves)
    counting = [key for key in curves if _counts_steps(runs[key])]
    for i, (key, values) in enumerate(curves.items()):
        times, width = np.asarray(runs[key].times), 2.4 if i == 0 and len(curves) > 1 else 1.3
        shown = times > 0 if logarithmic else np.isfinite(times)
        text = f"{key} ({STEPS})" if key in counting and len(counting) < len(curves) else key
        ax.plot(times[shown], values[shown], color=PALETTE[i % len(PALETTE)], label=text, linewidth=width)
    initial = next((values[0] for key, values in curves.items() if float(runs[key].times[0]) == 0), np.nan)
    if np.isfinite(initial):
        ax.axhline(initial, color=GRAY, linestyle=":", linewidth=1, label=AT_START, zorder=0)
    xlabel = f"time $t$ ({STEPS})" if len(counting) == len(curves) else TIME
    drawn = np.concatenate(list(curves.values()))
    set_axes(ax, drawn, name, label, "log" if logarithmic else "linear", xlabel)
    if legend:
        legend_inside(ax, entries_of(ax))
    return ax


def _by_label(runs: Runs) -> dict[str, Trajectory]:
    runs = {"": runs} if isinstance(runs, Trajectory) else runs
    if not isinstance(runs, Mapping) or not runs or not all(isinstance(run, Trajectory) for run in runs.values()):
        raise wrong("runs", "a `Trajectory`, or a mapping from labels to some", described(runs))
    for run in runs.values():
        run.require_one_run("runs")
    return {str(key): run.reached() for key, run in runs.items()}


def _scalars(run: Trajectory) -> dict[str, ArrayLike]:
    return {name: values for name, values in flatten(run.observed).items() if values.ndim == 1}


def _names(runs: Mapping[str, Trajectory]) -> list[str]:
    """Every scalar observable, in the order of the runs."""
    return list(dict.fromkeys(name for run in runs.values() for name in _scalars(run)))


def _counts_steps(run: Trajectory) -> bool:
    """Whether the time of a run is the number of steps of an optimizer."""
    return "batch" in dict(run.notes) and np.array_equal(np.asarray(run.times), np.asarray(run.steps))


def _drawable(values: ArrayLike) -> np.ndarray:
    """The values without the last ones of a diverged run, which are too large for an axis."""
    drawable = np.array(values, float)
    drawable[~(np.abs(drawable) < _LARGEST)] = np.nan
    return drawable


def overview(runs: Runs, names: Sequence[str] | None = None) -> Figure:
    """Several observables of the same runs side by side, with one legend.

    **Arguments:** `runs`: as in `observable`; `names`: of scalar observables, by default all that the runs have.
    **Returns:** the figure.
    **Raises:** ValueError naming `names` if there are none, and as `observable`.
    """
    runs = _by_label(runs)
    names = _names(runs) if names is None else names
    require_names(names, sorted(_names(runs)))
    columns = min(len(names), _MOST_COLUMNS)
    figure, axes = new_figure(columns, -(-len(names) // columns))
    for name, ax in zip(names, axes, strict=False):
        observable(runs, name, ax=ax, legend=False)
    for ax in axes[len(names) :]:
        ax.remove()
    legend_below(figure, entries_of(*figure.axes))
    return figure
