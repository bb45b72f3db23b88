"""Checks of arguments that all figures share; each raises an error of one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..checks import described, require_instance, wrong


def require_dataset(dataset: Any) -> None:
    """Raise unless it is a dataset of xarray."""
    import xarray

    require_instance("dataset", dataset, xarray.Dataset, "an `xarray.Dataset`, as `nf.sweep` returns it")


def require_axes(ax: Any) -> None:
    """Raise unless it is None or axes of matplotlib."""
    from matplotlib.axes import Axes

    require_instance("ax", ax, (Axes, type(None)), "axes of matplotlib, or None for new ones")


def require_words(**words: Any) -> None:
    """Raise for an argument that is neither a string nor None; a `name` must be a string."""
    for argument, value in words.items():
        require_instance(argument, value, str if argument == "name" else (str, type(None)), "a string")


def require_names(names: Any, known: Sequence[str]) -> None:
    """Raise unless these are one or several strings in a sequence."""
    is_sequence = isinstance(names, Sequence) and not isinstance(names, str | bytes)
    if not is_sequence or not names or not all(isinstance(name, str) for name in names):
        raise wrong("names", f"a sequence of names of scalar observables, {list(known)}", described(names))


def require_quantiles(quantiles: Any) -> None:
    """Raise unless these are the two ends of a range within [0, 1]."""
    must_be = "two numbers with 0 ≤ low < high ≤ 1"
    try:
        low, high = quantiles
        is_range = bool(0 <= low < high <= 1)
    except (TypeError, ValueError):
        raise wrong("quantiles", must_be, described(quantiles)) from None
    if not is_range:
        raise wrong("quantiles", must_be, quantiles)
