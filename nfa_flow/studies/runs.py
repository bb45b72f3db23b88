"""Selections from the runs of an experiment by their settings, and their numbers as text."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plot.style import text_of

if TYPE_CHECKING:
    from xarray import DataArray as Values
    from xarray import Dataset as Runs
else:  # xarray is imported only when it is used
    Runs = Values = Any

Where = Mapping[str, Any]

UNTRAINED = "untrained."  # prefix of variables with the values of untrained networks


def chosen(dataset: Runs, where: Where) -> Runs | None:
    """The runs with these settings: dimension → a label, several labels, or a function from all labels to a mask.

    None if there are no such runs: the smaller sizes of a study lack some settings.
    """
    for dim, value in where.items():
        if callable(value):
            dataset = dataset.sel({dim: value(dataset[dim])})
        elif dim in dataset.indexes and not np.isin(value, dataset[dim].values).all():
            return None
        else:
            dataset = dataset.sel({dim: value})
    return dataset if dataset["status"].size else None


def parts(dataset: Runs, each: str | Sequence[str]) -> Iterator[tuple[dict[str, Any], Runs]]:
    """For each combination of labels along some dimensions: these labels, and the runs that have them."""
    dims = [each] if isinstance(each, str) else list(each)
    for labels in itertools.product(*(dataset[dim].values.tolist() for dim in dims)):
        where = dict(zip(dims, labels, strict=True))
        yield where, dataset.sel(where)


def filled(text: str, labels: Mapping[str, Any], runs: Runs) -> str:
    """The text with `{dim}` replaced by a label, and `{first dim}`, `{last dim}`, `{every dim}` by those of the runs.

    Other braces are kept.
    """
    found = dict(labels)
    for dim, index in runs.indexes.items():
        names = [text_of(label) for label in index.tolist()]
        found |= {f"first {dim}": names[0], f"last {dim}": names[-1], f"every {dim}": ", ".join(names)}
    for name, label in found.items():
        text = text.replace(f"{{{name}}}", text_of(label))
    return text


def at_the_end(dataset: Runs, name: str) -> Values:
    """One number of each run: an observable at the end of the run, or a variable without times."""
    return dataset[f"{name}_at_end" if f"{name}_at_end" in dataset else name]


def where_first(left: Values, level: float, values: Values) -> Values:
    """The values at the first time when `left` is at most `level`, interpolated linearly in `left`.

    NaN for runs in which `left` never falls to the level; the first observation if it is there at the start.
    """
    reached = left <= level
    after = reached.argmax("time")
    before = np.maximum(after - 1, 0)
    at = lambda values, place: values.isel(time=place, drop=True)
    fall = (at(left, before) - at(left, after)).where(after > before, 1.0)
    share = ((at(left, before) - level) / fall).where(after > before, 0.0).where(reached.any("time"))
    return (1 - share) * at(values, before) + share * at(values, after)


def untrained_apart(dataset: Runs, dim: str, label: str) -> Runs:
    """The runs of the other labels; the values of this one, of untrained networks, become variables `untrained.…`."""
    untrained = dataset.sel({dim: label}, drop=True)
    trained = dataset.sel({dim: dataset[dim] != label})
    return trained.assign({f"{UNTRAINED}{name}": values for name, values in untrained.data_vars.items()})


def quantiles(values: "Values | np.ndarray", form: str = "{:.2g}") -> str:
    """Median (10 %–90 %) of the finite values, as text; "undefined" without any."""
    finite = np.asarray(values, float).ravel()
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return "undefined"
    low, median, high = (form.format(each) for each in np.quantile(finite, (0.1, 0.5, 0.9)))
    return f"{median} ({low}–{high})"


def together(dataset: Runs, names: Mapping[str, str], dim: str) -> Values:
    """Several numbers of each run along a new dimension; `names`: variable → label."""
    import xarray

    return xarray.concat([at_the_end(dataset, name) for name in names], xarray.Variable(dim, list(names.values())))


def tabulated(function: Callable[..., np.ndarray], dataset: Runs, settings: Sequence[str], dim: str) -> Values:
    """The values of a function at each combination of labels of these settings: vectors along the dimension `dim`."""
    import xarray

    plain = lambda *labels: function(*(label.item() if isinstance(label, np.generic) else label for label in labels))
    return xarray.apply_ufunc(plain, *(dataset[name] for name in settings), vectorize=True, output_core_dims=[[dim]])
