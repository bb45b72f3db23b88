"""Parts of a store: finished runs of equal shapes, written once and never changed again.

What words and single numbers a run has is in the part's attributes, its arrays are one row of bytes there: a part with
an array for each observable takes four times as long to open, and Zarr does not keep the bits of every NaN. A digest of
the rows stands beside them, as Zarr reads zeros where a file is missing.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import xarray
import zarr

from ...run.intact import damaged_metadata
from ...run.storage import READ
from ..result import RunResult

Layout = tuple[tuple[str, str, tuple[int, ...]], ...]  # name, dtype and shape of each array of a run


def layout_of(result: RunResult) -> Layout:
    """What runs of one part have in common."""
    return tuple((name, array.dtype.name, array.shape) for name, array in _arrays(result).items())


def pack(layout: Layout, results: Mapping[str, RunResult], made_with: str) -> xarray.Dataset:
    """A part of these runs, by their keys; `made_with`: digest of the settings that they were computed with."""
    rows = [b"".join(array.tobytes() for array in _arrays(result).values()) for result in results.values()]
    values = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1 if rows[0] else 0)
    runs = [
        {
            "status": result.status,
            "reason": result.reason,
            "end_time": _to_json(result.end_time),
            "counts": {name: _to_json(count) for name, count in result.counts.items()},
            "notes": result.notes,
            "seconds": _to_json(result.seconds),
        }
        for result in results.values()
    ]
    about = {"keys": list(results), "made_with": made_with, "layout": layout, "digest": _digest(values), "runs": runs}
    return xarray.Dataset({"values": (("run", "byte"), values)}, attrs=about)


def unpack(part: Path, keys: Set[str]) -> dict[str, RunResult]:
    """Those of these runs that are in a part, bit for bit as they were written.

    **Raises:** ValueError naming the files that are damaged.
    """
    about = attributes(part)
    if keys.isdisjoint(about["keys"]):
        return {}
    try:
        values = xarray.load_dataset(part, **READ)["values"].values
    except Exception as error:  # of whatever Zarr decodes
        raise damaged(unreadable(part), part) from error
    if _digest(values) != about["digest"]:
        raise damaged(part / "values", part)
    results = {}
    for key, run, row in zip(about["keys"], about["runs"], values, strict=True):
        if key not in keys:
            continue
        arrays = dict(_split(about["layout"], row))
        results[key] = RunResult(
            times=arrays.pop("times"),
            steps=arrays.pop("steps"),
            observed={name.removeprefix("observed."): array for name, array in arrays.items()},
            status=run["status"],
            reason=run["reason"],
            end_time=_from_json(run["end_time"]),
            counts={name: _from_json(count) for name, count in run["counts"].items()},
            notes=run["notes"],
            seconds=_from_json(run["seconds"]),
        )
    return results


def attributes(group: Path) -> dict[str, Any]:
    """Those of a Zarr group, read without Zarr, which is a hundred times slower."""
    try:
        return json.loads((group / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    except (FileNotFoundError, ValueError, KeyError):
        raise damaged(group / "zarr.json", group) from None


def unreadable(group: Path) -> Path:
    """The file of a Zarr group that cannot be read, as far as that can be known."""
    if (metadata := damaged_metadata(group)) is not None:
        return metadata
    for name, array in zarr.open_group(group, mode="r").arrays():
        for chunk in np.ndindex(*array.cdata_shape):
            try:
                array[tuple(slice(i * size, (i + 1) * size) for i, size in zip(chunk, array.chunks, strict=True))]
            except Exception:  # of whatever Zarr decodes
                return group.joinpath(name, "c", *map(str, chunk))
    return group


def damaged(file: Path, part: Path) -> ValueError:
    """What to do about a part of a store that cannot be read."""
    return ValueError(f"{file} is damaged: remove {part} and run the sweep again, other runs are kept.")


def _arrays(result: RunResult) -> dict[str, np.ndarray]:
    observed = {f"observed.{name}": np.asarray(value) for name, value in result.observed.items()}
    return {"times": result.times, "steps": result.steps, **observed}


def _split(layout: Sequence[Sequence[Any]], row: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    start = 0
    for name, dtype, shape in layout:
        end = start + np.dtype(dtype).itemsize * math.prod(shape)
        yield name, np.frombuffer(row[start:end].tobytes(), dtype).reshape(shape).copy()
        start = end


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]


def _to_json(number: int | float | None) -> int | float | str | None:
    """JSON has no NaN and no infinity, so these are words."""
    return number if number is None or math.isfinite(number) else str(number)


def _from_json(number: int | float | str | None) -> Any:
    return float(number) if isinstance(number, str) else number
