"""All runs as one labeled dataset, with a dimension for each axis; and finished runs as rows of a table."""

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray

from ...checks import wrong
from ...run.trees import has_nan
from ..grid import Grid
from ..result import RunResult
from .names import name_at_end, own_name, require_own_names

MISSING = "missing"

Index = tuple[int, ...]
Results = Mapping[Index, RunResult]
Pieces = Mapping[Index, np.ndarray]
Sizes = Mapping[str, int]  # dimension → size


def assemble(
    axes: Mapping[str, Sequence],
    coordinates: Mapping[str, tuple[tuple[str, ...], np.ndarray]],
    results: Results,
    attrs: Mapping[str, Any],
) -> xarray.Dataset:
    """One dataset of all runs.

    Each observable is a variable along the axes, time and its own axes `name[1]`, …, which have the largest length of
    any run; `name_at_end` is its last value. `status`, `reason` and `end_time` say how and when a run ended. Counts and
    notes are variables, too, but a note that is the same for all runs is an attribute; if an axis has the same name,
    they are called `name_of_run`. Values that a run did not reach, or does not have, are NaN or "".

    If all runs were observed at the same times, as far as they went, `time` is a coordinate. A run that ended early was
    also observed at its end; this value is only in `name_at_end`. If the times differ, `times` is a variable.

    **Arguments:** `axes`: dimension → labels along it; `coordinates`: further labels, with their dimensions; `results`:
    place along the axes → run, without missing runs; `attrs`: attributes of the dataset.
    **Raises:** ValueError that names an observable whose number of axes differs between runs, or whose name is used
    twice.
    """
    shape = tuple(len(labels) for labels in axes.values())
    results = {index: results[index] for index in sorted(results)}
    taken = {*axes, *coordinates}
    observed = _names(run.observed for run in results.values())
    require_own_names(observed, _names((*run.counts, *run.notes) for run in results.values()), taken)
    time = _common_times(results.values())
    reached = {index: len(run.times) if time is None else _on_grid(run, time) for index, run in results.items()}
    sizes = {"time": max(reached.values(), default=0)}
    table = _Table(tuple(axes), shape)
    for name in observed:
        values = {index: run.observed[name] for index, run in results.items() if name in run.observed}
        table.add_observable(name, values, reached, sizes)
    if time is None:
        table.add("times", {i: run.times for i, run in results.items()}, sizes)
    table.add("step", {i: run.steps[: reached[i]] for i, run in results.items()}, sizes)
    table.add_words("status", {i: run.status for i, run in results.items()}, MISSING)
    table.add_words("reason", {i: run.reason for i, run in results.items()}, "it has not run")
    table.add("end_time", {i: np.asarray(run.end_time, float) for i, run in results.items()}, {})
    _add_counts(table, results, taken)
    agreed = _add_notes(table, results, taken)
    coords = {name: (name, _words_as_objects(labels)) for name, labels in axes.items()}
    coords |= {name: (dims, _words_as_objects(labels)) for name, (dims, labels) in coordinates.items()}
    coords |= {} if time is None else {"time": ("time", time)}
    return xarray.Dataset(table.variables, coords, {**attrs, **agreed})


def catalog_of(grid: Grid) -> dict[str, Any]:
    """All labels and keys of a grid, as JSON: `dimensions`, further `coordinates`, and the `keys` of its runs."""
    coordinates = {name: [list(dims), labels.tolist()] for name, (dims, labels) in grid.coordinates.items()}
    return {"dimensions": grid.dimensions, "coordinates": coordinates, "keys": [setting.key for setting in grid]}


def assemble_cataloged(
    catalog: Mapping[str, Any], results: Mapping[str, RunResult], attrs: Mapping[str, Any]
) -> xarray.Dataset:
    """The same from the catalog of a grid, and from runs by their keys."""
    places = zip(catalog["keys"], np.ndindex(*map(len, catalog["dimensions"].values())), strict=True)
    placed = {index: results[key] for key, index in places if key in results}
    coordinates = {name: (tuple(dims), np.asarray(labels)) for name, (dims, labels) in catalog["coordinates"].items()}
    return assemble(catalog["dimensions"], coordinates, placed, attrs)


def summary(runs: Iterable[tuple[Mapping[str, Any], str, RunResult]]) -> list[dict[str, Any]]:
    """One row for each run, with numbers and words under their names in the dataset.

    **Arguments:** `runs`: the settings, the key and the result of each run.
    """
    return [
        {
            **settings,
            "key": key,
            "status": run.status,
            "reason": run.reason,
            "end_time": run.end_time,
            **{own_name(name, settings): count for name, count in run.counts.items()},
            **{own_name(name, settings): note for name, note in run.notes.items()},
            own_name("seconds", settings): run.seconds,
            **{name_at_end(n): value[-1].item() for n, value in run.observed.items() if value.ndim == 1 and len(value)},
        }
        for settings, key, run in runs
    ]


class _Table:
    """Variables along the axes of a sweep."""

    def __init__(self, axes: tuple[str, ...], shape: tuple[int, ...]):
        self.axes, self.shape = axes, shape
        self.variables: dict[str, xarray.Variable] = {}

    def add(self, name: str, pieces: Pieces, sizes: Sizes, attrs: Mapping[str, Any] | None = None) -> None:
        """A variable of numbers, with further dimensions of the given sizes."""
        array = _gather(self.shape, tuple(sizes.values()), pieces)
        self.variables[name] = xarray.Variable((*self.axes, *sizes), array, attrs)

    def add_words(self, name: str, words: Mapping[Index, str], default: str) -> None:
        """A variable of strings."""
        array = np.full(self.shape, default, object)
        for index, word in words.items():
            array[index] = word
        self.variables[name] = xarray.Variable(self.axes, array)

    def add_observable(self, name: str, pieces: Pieces, reached: Mapping[Index, int], sizes: Sizes) -> None:
        """An observable at the times that the runs reached, and at their ends."""
        if len(ranks := sorted({piece.ndim - 1 for piece in pieces.values()})) > 1:
            was = f"one of results with {' and '.join(map(str, ranks))} axes"
            raise wrong(f'observe["{name}"]', "a function whose result has as many axes in every run", was)
        shapes = zip(*(piece.shape[1:] for piece in pieces.values()), strict=True)
        lengths = {f"{name}[{axis}]": set(found) for axis, found in enumerate(shapes, start=1)}
        longest = {dim: max(found) for dim, found in lengths.items()}
        padded = [dim for dim, found in lengths.items() if len(found) > 1]
        attrs = {"padded": padded} if padded else {}
        series = {index: piece[: reached[index]] for index, piece in pieces.items()}
        ends = {index: np.asarray(piece[-1]) for index, piece in pieces.items() if len(piece)}
        self.add(name, series, {**sizes, **longest}, attrs | {"status": _status(series.values())})
        self.add(name_at_end(name), ends, longest, attrs | {"status": _status(ends.values())})


def _gather(shape: tuple[int, ...], own: tuple[int, ...], pieces: Pieces) -> np.ndarray:
    """One array with each piece at its place, from the start of every axis; the rest is NaN."""
    dtype = np.result_type(*(piece.dtype for piece in pieces.values())) if pieces else np.dtype(float)
    gapless = len(pieces) == math.prod(shape) and all(piece.shape == own for piece in pieces.values())
    if not gapless and not np.issubdtype(dtype, np.inexact):
        dtype = np.dtype(float)
    array = np.zeros((*shape, *own), dtype) if gapless else np.full((*shape, *own), np.nan, dtype)
    for index, piece in pieces.items():
        array[(*index, *(slice(length) for length in piece.shape))] = piece
    return array


def _common_times(runs: Iterable[RunResult]) -> np.ndarray | None:
    """The times that all runs share, each as far as it went; None if they differ."""
    observed = [run for run in runs if len(run.times)]
    if not observed:
        return np.zeros(0)
    # Of two runs with equally many times, the last time of a completed or longer run is more likely a shared one.
    longest = max(observed, key=lambda run: (len(run.times), run.status == "completed", run.times[-1])).times
    shared = all(_on_grid(run, longest) + (run.status != "completed") >= len(run.times) for run in observed)
    return longest if shared else None


def _on_grid(run: RunResult, times: np.ndarray) -> int:
    """The number of times of the run, from the first one, that agree with the shared times."""
    shorter = min(len(run.times), len(times))
    differing = np.flatnonzero(run.times[:shorter] != times[:shorter])
    return int(differing[0]) if differing.size else shorter


def _add_counts(table: _Table, results: Results, taken: Collection[str]) -> None:
    for name in _names(run.counts for run in results.values()):
        counts = {index: run.counts.get(name) for index, run in results.items()}
        known = {i: np.asarray(count) for i, count in counts.items() if count is not None}
        table.add(own_name(name, taken), known, {})


def _add_notes(table: _Table, results: Results, taken: Collection[str]) -> dict[str, str]:
    """Add notes that differ between runs, and return the others; runs without notes do not count."""
    agreed = {}
    runs = [run for run in results.values() if run.notes]
    for name in _names(run.notes for run in runs):
        values = {run.notes.get(name) for run in runs}
        if len(values) == 1:
            agreed[own_name(name, taken)] = runs[0].notes[name]
        else:
            words = {i: run.notes[name] for i, run in results.items() if name in run.notes}
            table.add_words(own_name(name, taken), words, "")
    return agreed


def _names(names_of_runs: Iterable[Iterable[str]]) -> list[str]:
    """All names that any run has, in the order of the runs."""
    return list(dict.fromkeys(itertools.chain.from_iterable(names_of_runs)))


def _status(arrays: Iterable[np.ndarray]) -> str:
    return "undefined" if any(has_nan(array) for array in arrays) else "defined"


def _words_as_objects(labels: Sequence | np.ndarray) -> np.ndarray:
    """Words as Python objects, which xarray writes without a warning: Zarr v3 does not specify numpy's strings."""
    array = np.asarray(labels)
    return array.astype(object) if array.dtype.kind == "U" else array
