"""Parts of a store: finished runs of equal shapes as one labeled dataset, written once and never changed.

A part has the dimension `run`. For each run it has the settings, times, observables, status, counts and notes, under
the same names as in the result: `xr.open_zarr(path / "runs" / part)`.
"""

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import xarray

from ..result import RunResult
from .arrays import Damaged, attributes_of, read_dataset
from .names import own_name

RUN = "run"
_Labels = Mapping[str, Any]


def layout_of(result: RunResult) -> tuple[Any, ...]:
    """The names, shapes and types that are the same for all runs of a part."""
    arrays = {"": result.times, " ": result.steps, **result.observed}
    shapes = tuple((name, array.dtype.name, array.shape) for name, array in arrays.items())
    return shapes, tuple((name, type(count)) for name, count in result.counts.items()), tuple(result.notes)


def part_of(runs: Mapping[str, tuple[_Labels, RunResult]]) -> xarray.Dataset:
    """The part with some runs of one layout, given as key → (settings, result)."""
    settings, results = zip(*runs.values(), strict=True)
    first, taken = results[0], settings[0].keys()
    counts = {name: None if count is None else own_name(name, taken) for name, count in first.counts.items()}
    notes = {name: own_name(name, taken) for name in first.notes}
    seconds = own_name("seconds", taken)
    series = {"times": [each.times for each in results], "step": [each.steps for each in results]}
    series |= {name: [each.observed[name] for each in results] for name in first.observed}
    columns = {name: [getattr(each, name) for each in results] for name in ("status", "reason", "end_time")}
    columns |= {shown: [each.counts[name] for each in results] for name, shown in counts.items() if shown}
    columns |= {shown: [each.notes[name] for each in results] for name, shown in notes.items()}
    columns[seconds] = [each.seconds for each in results]
    variables = {name: (_dims(name, arrays[0].ndim), np.stack(arrays)) for name, arrays in series.items()}
    coords = {name: [labels[name] for labels in settings] for name in taken} | {RUN: list(runs)}
    about = {"observed": list(first.observed), "counts": counts, "notes": notes, "seconds": seconds}
    variables |= {name: (RUN, _column(values)) for name, values in columns.items()}
    return xarray.Dataset(variables, {name: (RUN, _column(values)) for name, values in coords.items()}, about)


def results_of(part: Path, keys: Set[str]) -> dict[str, RunResult]:
    """The runs with these keys in a part, bit for bit as they were written.

    **Raises:** ValueError that names a damaged file.
    """
    if keys.isdisjoint(about_part(part)["keys"]):
        return {}
    try:
        dataset = read_dataset(part)
    except Damaged as error:
        raise _named(error, part) from error
    about, columns = dataset.attrs, {name: variable.values for name, variable in dataset.variables.items()}
    results = {}
    for i, key in enumerate(columns[RUN]):
        if key in keys:
            results[key] = RunResult(
                times=columns["times"][i],
                steps=columns["step"][i],
                observed={name: columns[name][i] for name in about["observed"]},
                status=columns["status"][i],
                reason=columns["reason"][i],
                end_time=columns["end_time"][i].item(),
                counts={
                    name: None if shown is None else columns[shown][i].item() for name, shown in about["counts"].items()
                },
                notes={name: columns[shown][i] for name, shown in about["notes"].items()},
                seconds=columns[about["seconds"]][i].item(),
            )
    return results


def about_part(part: Path) -> dict[str, Any]:
    """The attributes of a part, including the `keys` of its runs. **Raises:** ValueError that names a damaged file."""
    try:
        return attributes_of(part)
    except Damaged as error:
        raise _named(error, part) from error


def _named(error: Damaged, part: Path) -> ValueError:
    return ValueError(f"{error}: remove {part} and run the sweep again, other runs are kept.")


def _column(values: list[Any]) -> np.ndarray:
    return np.asarray(
        values, object if isinstance(values[0], str) else None
    )  # numpy's strings lose zeros at their ends


def _dims(name: str, ndim: int) -> tuple[str, ...]:
    return (RUN, "time", *(f"{name}[{axis}]" for axis in range(1, ndim)))
