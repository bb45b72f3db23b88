"""Parts of the runs of an experiment, by their settings, and what their numbers are as text."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plot.style import text_of

if TYPE_CHECKING:
    from xarray import DataArray as Values
    from xarray import Dataset as Runs
else:  # xarray is loaded where it is used
    Runs = Values = Any

Where = Mapping[str, Any]

UNTRAINED = "untrained."  # what untrained networks score, as the beginning of a variable's name


def chosen(dataset: Runs, where: Where) -> Runs | None:
    """The runs with these settings: dimension → a label, several labels, or a function from all labels to a mask.

    None where there are no such runs: the smaller sizes of a study do not have every setting.
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
    """The runs with each combination of labels along some dimensions, and these labels."""
    dims = [each] if isinstance(each, str) else list(each)
    for labels in itertools.product(*(dataset[dim].values.tolist() for dim in dims)):
        where = dict(zip(dims, labels, strict=True))
        yield where, dataset.sel(where)


def filled(text: str, labels: Mapping[str, Any], runs: Runs) -> str:
    """A text with labels: for `{dim}` one of these, for `{first dim}`, `{last dim}`, `{every dim}` those of the runs.

    Other braces stay.
    """
    found = dict(labels)
    for dim, index in runs.indexes.items():
        names = [text_of(label) for label in index.tolist()]
        found |= {f"first {dim}": names[0], f"last {dim}": names[-1], f"every {dim}": ", ".join(names)}
    for name, label in found.items():
        text = text.replace(f"{{{name}}}", text_of(label))
    return text


def at_the_end(dataset: Runs, name: str) -> Values:
    """A number that each run has: an observable at its end, or a variable that has no times."""
    return dataset[f"{name}_at_end" if f"{name}_at_end" in dataset else name]


def where_first(left: Values, level: float, values: Values) -> Values:
    """Values where another one is first down to a level in time, linear in that one between observations.

    NaN where it never is; the first observation where it is from the start.
    """
    reached = left <= level
    after = reached.argmax("time")
    before = np.maximum(after - 1, 0)
    at = lambda values, place: values.isel(time=place, drop=True)
    fall = (at(left, before) - at(left, after)).where(after > before, 1.0)
    share = ((at(left, before) - level) / fall).where(after > before, 0.0).where(reached.any("time"))
    return (1 - share) * at(values, before) + share * at(values, after)


def untrained_apart(dataset: Runs, dim: str, label: str) -> Runs:
    """The other runs, with the values of those of this label, which are of untrained networks, as `untrained.…`."""
    untrained = dataset.sel({dim: label}, drop=True)
    trained = dataset.sel({dim: dataset[dim] != label})
    return trained.assign({f"{UNTRAINED}{name}": values for name, values in untrained.data_vars.items()})


def quantiles(values: "Values | np.ndarray", form: str = "{:.2g}") -> str:
    """Median (10 %–90 %) of what is finite among the values, as text; "undefined" where nothing is."""
    finite = np.asarray(values, float).ravel()
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return "undefined"
    low, median, high = (form.format(each) for each in np.quantile(finite, (0.1, 0.5, 0.9)))
    return f"{median} ({low}–{high})"


def together(dataset: Runs, names: Mapping[str, str], dim: str) -> Values:
    """Several numbers that each run has, along a new dimension whose labels `names` gives them."""
    import xarray

    return xarray.concat([at_the_end(dataset, name) for name in names], xarray.Variable(dim, list(names.values())))


def tabulated(function: Callable[..., np.ndarray], dataset: Runs, settings: Sequence[str], dim: str) -> Values:
    """What a function of some settings has for each combination of their labels, vectors along a dimension."""
    import xarray

    plain = lambda *labels: function(*(label.item() if isinstance(label, np.generic) else label for label in labels))
    return xarray.apply_ufunc(plain, *(dataset[name] for name in settings), vectorize=True, output_core_dims=[[dim]])
