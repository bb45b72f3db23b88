"""Numbers at the end of the runs of a sweep, against a setting, with medians and quantiles (usually over seeds)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import wrong
from .arguments import require_axes, require_dataset, require_quantiles, require_words
from .style import color_of, entries_of, label_of, legend_inside, new_figure, text_of

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

_QUANTILES = (0.1, 0.9)
_AT_END = "_at_end"
_MOST_TICKS = 7
_MOST_LETTERS = 40


def at_end(
    dataset: xarray.Dataset,
    name: str,
    *,
    against: str,
    over: str = "seed",
    hue: str | None = None,
    ax: Axes | None = None,
    label: str | None = None,
    quantiles: tuple[float, float] = _QUANTILES,
) -> Axes:
    """One number of each run of a sweep, such as an observable at its end, against one of its settings.

    Medians over the seeds, joined by lines, with bars for the quantiles. Settings that are words are placed at equal
    distances, as are numbers of different magnitudes if zero is one of them. The vertical axis is logarithmic if
    positive values span two decades.

    **Arguments:** `dataset`: of a sweep; `name`: of a scalar observable, drawn at its end, or of another number of each
    run; `against`: the dimension along the horizontal axis; `over`: the dimension of medians and bars; `hue`: the
    dimension shown by colors; `ax`: axes to draw into, otherwise new ones with a legend; `label`: of the vertical axis;
    `quantiles`: ends of the bars.
    **Returns:** the axes.
    **Raises:** ValueError naming `name`, `against`, `over` or `hue` if the dataset does not have it, and `dataset` if
    it has other dimensions.
    """
    require_dataset(dataset)
    require_words(name=name, against=against, over=over, hue=hue, label=label)
    require_axes(ax)
    require_quantiles(quantiles)
    values = _values(dataset, name, against, over, hue)
    is_own = ax is None
    ax = new_figure()[1][0] if is_own else ax
    draw_ends(ax, values, against, over, hue, quantiles)
    ax.set_ylabel(label or label_of(name))
    if is_own:
        low, high = (f"{100 * each:g}" for each in quantiles)
        legend_inside(ax, entries_of(ax), hue and f"{hue.replace('_', ' ')}; median, {low}–{high} % over {over}")
    return ax


def draw_ends(
    ax: Axes,
    values: xarray.DataArray,
    against: str,
    over: str = "seed",
    hue: str | None = None,
    quantiles: tuple[float, float] = _QUANTILES,
) -> np.ndarray:
    """Draw values over these dimensions like `at_end`, and return the positions of `against` along the axis."""
    places, is_numeric = _places(values[against].values)
    groups = [(None, values)] if hue is None else [(value, values.sel({hue: value})) for value in values[hue].values]
    drawn = [i for i, (_, group) in enumerate(groups) if np.isfinite(group.to_numpy()).any()]  # side by side
    for i, (value, group) in enumerate(groups):
        low, median, high = quantiles_over(group.transpose(over, against).to_numpy(), quantiles)
        is_aside = not is_numeric and i in drawn
        shift = 0.4 * ((drawn.index(i) + 0.5) / len(drawn) - 0.5) if is_aside else 0.0
        bars: Any = (median - low, high - median)
        style = {"color": color_of(i, len(groups)), "marker": "o", "markersize": 3.5, "capsize": 2, "linewidth": 1.2}
        ax.errorbar(places + shift, median, yerr=bars, label=None if value is None else text_of(value), **style)
    _set_axes(ax, values[against].values, places, is_numeric, against)
    finite = values.to_numpy()[np.isfinite(values.to_numpy())]
    if finite.size and finite.min() > 0 and finite.max() > 100 * finite.min():
        ax.set_yscale("log")
    return places


def _values(dataset: xarray.Dataset, name: str, against: str, over: str, hue: str | None) -> xarray.DataArray:
    """The number of each run, along the drawn dimensions; dimensions with one value are left out."""
    chosen = name + _AT_END if name + _AT_END in dataset else name
    known = [str(each) for each, variable in dataset.data_vars.items() if _is_number_of_a_run(variable, dataset)]
    if chosen not in known:
        raise wrong("name", f"a number that each run has, {known}", repr(name))
    for argument, dim in {"against": against, "over": over, "hue": hue}.items():
        if dim is not None and dim not in dataset[chosen].dims:
            raise wrong(argument, f"a dimension of `{name}`, {list(dataset[chosen].dims)}", repr(dim))
    if hue in (against, over) or against == over:
        raise wrong(
            "hue" if against != over else "over", "another dimension than the other arguments", repr(hue or over)
        )
    used, values = {against, over, hue}, dataset[chosen]
    values = values.squeeze([dim for dim in values.dims if dim not in used and dataset.sizes[dim] == 1])
    rest = [dim for dim in values.dims if dim not in used]
    if rest:
        raise wrong("dataset", f"without further dimensions (first `dataset.sel({rest[0]}=…)`)", f"over {rest}")
    return values


def _is_number_of_a_run(variable: xarray.DataArray, dataset: xarray.Dataset) -> bool:
    return variable.dims == dataset["status"].dims and variable.dtype.kind in "iuf"


def quantiles_over(values: np.ndarray, quantiles: tuple[float, float] = _QUANTILES) -> np.ndarray:
    """Low quantile, median and high quantile of finite values over the first axis; NaN if there are none."""
    ends = np.full((3, values.shape[1]), np.nan)
    for i, column in enumerate(values.T):
        finite = column[np.isfinite(column)]
        if finite.size:
            ends[:, i] = np.quantile(finite, (quantiles[0], 0.5, quantiles[1]))
    return ends


def _places(labels: np.ndarray) -> tuple[np.ndarray, bool]:
    """Positions along the axis; equally spaced for words, and for numbers of different magnitudes with a zero."""
    is_numeric = labels.dtype.kind in "iuf" and not (_spans_decades(labels) and labels.min() <= 0)
    return (labels if is_numeric else np.arange(len(labels), dtype=float)), is_numeric


def _spans_decades(labels: np.ndarray) -> bool:
    sizes = np.abs(labels[labels != 0])
    return bool(sizes.size and sizes.max() > 8 * sizes.min())


def _set_axes(ax: Axes, labels: np.ndarray, places: np.ndarray, is_numeric: bool, against: str) -> None:
    if is_numeric and _spans_decades(labels):
        ax.set_xscale("log")
    if not is_numeric or len(labels) <= _MOST_TICKS:
        texts = [text_of(label) for label in labels.tolist()]
        is_crowded = sum(map(len, texts)) > _MOST_LETTERS
        ax.set_xticks(
            places, texts, **({"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if is_crowded else {})
        )
        ax.set_xticks([], minor=True)
    ax.set_xlabel(against.replace("_", " "))
