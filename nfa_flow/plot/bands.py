"""Observables of a sweep against time: medians and quantile bands over one of its dimensions, usually the seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import wrong
from .arguments import require_axes, require_dataset, require_names, require_quantiles, require_words
from .style import (
    AT_START,
    GRAY,
    PALETTE,
    STEPS,
    TIME,
    color_of,
    legend_below,
    legend_inside,
    new_figure,
    set_axes,
    text_of,
)

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TIME, _TIMES = "time", "times"
_QUANTILES = (0.1, 0.9)
_LINESTYLES: tuple[Any, ...] = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))  # dotted lines are values at t = 0


def bands(
    dataset: xarray.Dataset,
    name: str,
    *,
    over: str = "seed",
    hue: str | None = None,
    ax: Axes | None = None,
    label: str | None = None,
    quantiles: tuple[float, float] = _QUANTILES,
    legend: bool = True,
) -> Axes:
    """One scalar observable of a sweep against time: its median and quantiles over the seeds, for each other setting.

    Quantiles are over the runs with a finite value at that time; the legend gives their number. Time is logarithmic; a
    dotted line shows the median at t = 0. The vertical axis is logarithmic if positive values span two decades.

    **Arguments:** `dataset`: of a sweep; `name`: of a scalar observable in it; `over`: the dimension of medians and
    bands; `hue`: the dimension shown by colors, by default the first of the others with several values; one further
    dimension is shown by line styles; `ax`: axes to draw into; `label`: of the vertical axis; `quantiles`: ends of the
    band; `legend`: whether to draw a legend in the axes.
    **Returns:** the axes.
    **Raises:** ValueError naming `name`, `over` or `hue` if the dataset does not have it, `over` if its runs were
    observed at different times, and `dataset` if it has more dimensions than can be shown.
    """
    require_axes(ax)
    require_words(label=label)
    require_quantiles(quantiles)
    curves = _curves(dataset, name, over, hue)
    ax = new_figure()[1][0] if ax is None else ax
    _draw(ax, curves, quantiles)
    set_axes(ax, np.concatenate([curve.values.ravel() for curve in curves]), name, label, xlabel=_time_label(dataset))
    if legend:
        legend_inside(ax, _entries(curves), _title(over, quantiles))
    return ax


def sweep_overview(
    dataset: xarray.Dataset, names: Sequence[str], *, over: str = "seed", hue: str | None = None
) -> Figure:
    """Several observables of a sweep side by side, with one legend; arguments as in `bands`."""
    require_dataset(dataset)
    require_names(names, _known(dataset))
    panels = {name: _curves(dataset, name, over, hue) for name in names}
    figure, axes = new_figure(len(names))
    for (name, curves), ax in zip(panels.items(), axes, strict=True):
        _draw(ax, curves, _QUANTILES)
        drawn = np.concatenate([curve.values.ravel() for curve in curves])
        set_axes(ax, drawn, name, None, xlabel=_time_label(dataset))
    legend_below(figure, _entries(sum(panels.values(), [])), _title(over, _QUANTILES))
    return figure


@dataclass(frozen=True)
class _Curve:
    """Runs with the same settings; NaN for undefined values."""

    setting: str  # the meaning of its color
    style: str  # the meaning of its line style
    times: np.ndarray
    values: np.ndarray  # run × time
    color: Any
    linestyle: Any

    @property
    def counts(self) -> np.ndarray:
        """The number of runs with a defined value, at each time with at least one; 0 if there is no such time."""
        counts = np.isfinite(self.values).sum(axis=0)
        return counts[counts > 0] if counts.any() else np.zeros(1, int)


def _curves(dataset: xarray.Dataset, name: str, over: str, hue: str | None) -> list[_Curve]:
    """One curve for each combination of the dimensions other than `over` and time."""
    require_dataset(dataset)
    require_words(name=name, over=over, hue=hue)
    if name not in _known(dataset):
        raise wrong("name", f"a scalar observable of this dataset, {_known(dataset)}", repr(name))
    dims = [str(dim) for dim in dataset[name].dims if dim != _TIME]
    if over not in dims:
        raise wrong("over", f"a dimension of `{name}`, {dims}", repr(over))
    others = [dim for dim in dims if dim != over]
    if hue is not None and hue not in others:
        raise wrong("hue", f"another dimension of `{name}`, {others}", repr(hue))
    several = [dim for dim in others if dataset.sizes[dim] > 1]
    hue = next(iter(several), None) if hue is None else hue
    styled = [dim for dim in several if dim != hue]
    if len(styled) > 1 or (styled and dataset.sizes[styled[0]] > len(_LINESTYLES)):
        sizes = ", ".join(f"{dim} of {dataset.sizes[dim]}" for dim in several)
        enough = f"small enough for colors and {len(_LINESTYLES)} line styles (first `dataset.sel({styled[-1]}=…)`)"
        raise wrong("dataset", enough, f"over {sizes}")
    return [_curve(dataset, name, over, place, hue) for place in _places(dataset, others)]


def _known(dataset: xarray.Dataset) -> list[str]:
    """The scalar observables of a dataset."""
    return [str(name) for name, variable in dataset.data_vars.items() if _is_scalar(str(name), variable)]


def _is_scalar(name: str, variable: xarray.DataArray) -> bool:
    own_axes = any("[" in str(dim) for dim in variable.dims)
    return _TIME in variable.dims and not own_axes and name != _TIMES and variable.dtype.kind in "iuf"


def _places(dataset: xarray.Dataset, dims: Sequence[str]) -> Iterator[dict[str, int]]:
    for index in np.ndindex(*(dataset.sizes[dim] for dim in dims)):
        yield dict(zip(dims, index, strict=True))


def _curve(dataset: xarray.Dataset, name: str, over: str, place: Mapping[str, int], hue: str | None) -> _Curve:
    runs = dataset.isel(place)
    text = {dim: f"{dim} = {text_of(runs[dim].item()) if dim in runs else i}" for dim, i in place.items()}
    styled = next((dim for dim in place if dim != hue and dataset.sizes[dim] > 1), None)
    return _Curve(
        setting="" if hue is None else text[hue],
        style="" if styled is None else text[styled],
        times=_times(runs, over),
        values=runs[name].transpose(over, _TIME).to_numpy().astype(float),
        color=PALETTE[0] if hue is None else color_of(place[hue], dataset.sizes[hue]),
        linestyle=_LINESTYLES[0 if styled is None else place[styled]],
    )


def _times(runs: xarray.Dataset, over: str) -> np.ndarray:
    """The times at which runs with the same settings were observed."""
    if _TIME in runs.coords:
        return runs[_TIME].to_numpy()
    if _TIMES not in runs:
        raise wrong("dataset", f"one of a sweep, with `{_TIME}` as a coordinate or `{_TIMES}` as a variable", "without")
    if over not in runs[_TIMES].dims:
        return runs[_TIMES].to_numpy()
    times = runs[_TIMES].transpose(over, _TIME).to_numpy()
    latest = np.fmax.reduce(times)  # NaN after the end of a run
    if (np.fmin.reduce(times) < latest).any():
        raise wrong("over", "a dimension along which all runs were observed at the same times (`save_at`)", repr(over))
    return latest


def _time_label(dataset: xarray.Dataset) -> str:
    """The label of the time axis, which is the number of steps of optimizers for `time_per_step=1`."""
    times = dataset.get(_TIMES, dataset[_TIME])
    if not {"batch", "step"} <= {*dataset.attrs, *dataset.variables}:
        return TIME
    counts = (dataset["step"] == times) | np.isnan(times) | (dataset["step"] == 0)
    return f"time $t$ ({STEPS})" if bool(counts.all()) else TIME


def _draw(ax: Axes, curves: Sequence[_Curve], quantiles: tuple[float, float]) -> None:
    for curve in curves:
        defined = np.isfinite(curve.values).any(axis=0) & np.isfinite(curve.times)
        times, values = curve.times[defined], curve.values[:, defined]
        values = np.where(np.isfinite(values), values, np.nan)
        ends = np.nanquantile(values, (quantiles[0], 0.5, quantiles[1]), axis=0)
        low, median, high = ends.reshape(3, len(times))  # NumPy drops the 3 if there are no times
        later, style = times > 0, {"color": curve.color, "linestyle": curve.linestyle, "linewidth": 1.4}
        ax.plot(times[later], median[later], **style)
        if later.any():  # an empty band would break a logarithmic axis
            ax.fill_between(times[later], low[later], high[later], color=curve.color, alpha=0.2, linewidth=0)
        for start in median[times == 0]:
            ax.axhline(start, color=curve.color, linestyle=":", linewidth=1, zorder=0)


def _entries(curves: Sequence[_Curve]) -> dict[str, Any]:
    """Label → artist: the meaning of colors and line styles in all curves and panels."""
    from matplotlib.lines import Line2D

    entries = {}
    for setting, color in {curve.setting: curve.color for curve in curves}.items():
        counts = np.concatenate([curve.counts for curve in curves if curve.setting == setting])
        entries[_with_count(setting, counts, len(curves[0].values))] = Line2D([], [], color=color, linewidth=1.4)
    for curve in curves:
        if curve.style:
            entries[curve.style] = Line2D([], [], color=GRAY, linestyle=curve.linestyle, linewidth=1.4)
    if any((curve.times == 0).any() for curve in curves):
        entries[AT_START] = Line2D([], [], color=GRAY, linestyle=":", linewidth=1)
    return entries


def _with_count(setting: str, counts: np.ndarray, runs: int) -> str:
    """A label with the number of runs, from the smallest to the largest if it changes with time."""
    fewest, most = counts.min(), counts.max()
    count = f"n = {most}" if fewest == most else f"n = {fewest}–{most}"
    count = count if fewest == runs else f"{count} of {runs}"
    return f"{setting} ({count})" if setting else count


def _title(over: str, quantiles: tuple[float, float]) -> str:
    low, high = (f"{100 * quantile:g}" for quantile in quantiles)
    return f"median and {low}–{high} % over {over}"
