"""Stores of earlier versions, which `load_sweep` can read, but in which no sweep continues.

Until format 2, the result was a separate group, and a part was rows of bytes with their layout in its attributes. The
first format, without a number, did not describe the function that computed its runs.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import xarray

from ...run.storage import READ
from ..result import RunResult
from .arrays import Damaged, attributes_of, read_dataset
from .assemble import assemble_cataloged


def load_old(path: Path) -> xarray.Dataset:
    """The result in a store, or the dataset of the finished runs. **Raises:** FileNotFoundError if there is none."""
    try:
        if (path / "result").exists():
            return read_dataset(path / "result")
        results = {key: result for part in sorted((path / "runs").glob("*/")) for key, result in _runs_of(part)}
        if not results or not (path / "grid").exists():
            raise FileNotFoundError(f"No run of the sweep at {path} has finished.")
        return assemble_cataloged(attributes_of(path / "grid"), results, {})
    except Damaged as error:
        raise ValueError(f"{error}.") from error


def _runs_of(part: Path) -> list[tuple[str, RunResult]]:
    about = attributes_of(part)
    rows = xarray.load_dataset(part, **READ)["values"].values
    return [
        (key, _result(run, dict(_split(about["layout"], row.tobytes()))))
        for key, run, row in zip(about["keys"], about["runs"], rows, strict=True)
    ]


def _split(layout: list[Any], row: bytes) -> list[tuple[str, np.ndarray]]:
    arrays, start = [], 0
    for name, dtype, shape in layout:
        count = math.prod(shape)
        arrays.append((name, np.frombuffer(row, dtype, count, start).reshape(shape)))
        start += np.dtype(dtype).itemsize * count
    return arrays


def _result(run: dict[str, Any], arrays: dict[str, np.ndarray]) -> RunResult:
    number = lambda value: float(value) if isinstance(value, str) else value  # JSON has no NaN and no infinity
    return RunResult(
        times=arrays.pop("times"),
        steps=arrays.pop("steps"),
        observed={name.removeprefix("observed."): array for name, array in arrays.items()},
        status=run["status"],
        reason=run["reason"],
        end_time=number(run["end_time"]),
        counts={name: number(count) for name, count in run["counts"].items()},
        notes=run["notes"],
        seconds=number(run["seconds"]),
    )
