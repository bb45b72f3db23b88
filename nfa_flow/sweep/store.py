"""The finished runs of one sweep on disk: kept whatever is killed, and written by any number of processes.

A store is a Zarr v3 hierarchy. Its root carries what the runs were made with. Finished runs arrive in parts that are
never changed again: each is written beside the store and renamed into place, so a reader sees all of it or nothing, and
writers need no locks. A part is named after its runs; whoever comes second with the same runs drops theirs. What words
and single numbers a run has is in the part's attributes, its arrays are one row of bytes there: a part with an array
for each observable takes four times as long to open, and Zarr does not keep the bits of every NaN.
"""

import csv
import errno
import hashlib
import itertools
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray

from ..checks import wrong
from ..storage import READ, WRITE
from .result import RunResult

_ABANDONED_AFTER = 3600.0  # seconds: nobody takes that long to write a part
_SHOWN = 60
_COLUMNS_OF_A_SUMMARY = ("key", "status")  # by which it is known
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Change the permissions there"),
}

Layout = tuple[tuple[str, str, tuple[int, ...]], ...]  # name, dtype and shape of each array of a run


class Store:
    """The finished runs of one sweep, by the keys that identify them.

    **Arguments:** `path`: the store's folder, created if it is not there; `settings`: what decides the results, as
    JSON; `about`: what is worth knowing besides (versions, device), as JSON.
    **Raises:** ValueError where `path` holds something else, or a sweep with other settings, and where another file has
    the name of the summary; OSError where it cannot be created.
    """

    def __init__(self, path: str | os.PathLike, settings: dict[str, Any], about: dict[str, Any]):
        self.path = Path(path).absolute()
        self._remove_abandoned()
        if self.csv_path.exists() and not _is_summary(self.csv_path):
            raise wrong("store", f"a path whose summary replaces no other file ({self.csv_path})", str(self.path))
        # In this order: another process may put its store there at any moment, whole.
        if not _is_occupied(self.path):
            self._create({"settings": settings, "about": about})
        elif not _is_store(self.path):
            raise wrong("store", "a new path or the store of this sweep", f"{self.path}, which holds something else")
        if differing := _differences(_attributes(self.path)["settings"], json.loads(json.dumps(settings))):
            must_be = "a new path or the store of this very sweep"
            raise wrong("store", must_be, f"{self.path}, whose settings differ: {'; '.join(differing)}")

    @property
    def csv_path(self) -> Path:
        """Where the summary is."""
        return self.path.with_name(self.path.name.removesuffix(".zarr") + ".csv")

    def keys(self) -> set[str]:
        """The keys of all finished runs, those that other processes wrote since included."""
        return {key for part in self._parts() for key in _attributes(part)["keys"]}

    def results(self, keys: Set[str]) -> dict[str, RunResult]:
        """Those of these runs that are finished, bit for bit as they were written."""
        results: dict[str, RunResult] = {}
        for part in reversed(self._parts()):  # of one run in two parts, the first counts
            results |= _unpack(part, keys)
        return results

    def write(self, results: Mapping[str, RunResult]) -> None:
        """Add finished runs; those of equal shapes become one part. Writing the same runs again changes nothing.

        **Raises:** OSError saying what is in the store and what to do.
        """
        alike: dict[Layout, dict[str, RunResult]] = {}
        for key in sorted(results):
            alike.setdefault(_layout(results[key]), {})[key] = results[key]
        for layout, part in alike.items():
            name = hashlib.sha256("\n".join(part).encode()).hexdigest()[:16]
            with self._partial() as partial:
                _pack(layout, part).to_zarr(partial / name, mode="w", **WRITE)
                _rename_unless_there(partial / name, self.path / "runs" / name)

    def conclude(self, dataset: xarray.Dataset, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace the assembled dataset and the summary, a CSV file beside the store with one row for each run.

        **Raises:** OSError saying what is in the store and what to do.
        """
        columns = list(dict.fromkeys(name for row in rows for name in row)) or _COLUMNS_OF_A_SUMMARY
        with self._partial() as partial:
            dataset.to_zarr(partial / "result", mode="w", **WRITE)
            with open(partial / "summary.csv", "w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, columns)
                table.writeheader()
                table.writerows(rows)
            _replace(partial / "result", self.path / "result", aside=partial)
            os.replace(partial / "summary.csv", self.csv_path)

    def _create(self, attributes: dict[str, Any]) -> None:
        # Renaming onto an empty folder replaces it; where another process was faster, its store stays.
        with self._partial() as partial:
            (partial / "store" / "runs").mkdir(parents=True)
            _write_group(partial / "store", attributes)
            _write_group(partial / "store" / "runs", {})
            _rename_unless_there(partial / "store", self.path.resolve())

    def _parts(self) -> list[Path]:
        """Ordered by name, so that which of two parts with the same run comes first does not depend on the disk."""
        return sorted(self.path.joinpath("runs", name) for name in os.listdir(self.path / "runs") if "." not in name)

    @contextmanager
    def _partial(self) -> Iterator[Path]:
        """A folder of our own on the disk of the store, but outside of it: Zarr would list it. Gone afterwards."""
        target = self.path.resolve()
        partial = target.with_name(f"{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
        try:
            partial.mkdir(parents=True)
            yield partial
        except OSError as error:
            raise self._explained(error) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _explained(self, error: OSError) -> OSError:
        said, advice = error.strerror or str(error), _ADVICE.get(error.errno or 0, "Free space or change permissions")
        try:
            kept = f" The {len(self.keys())} finished runs in it are intact."
        except OSError:  # not created yet, or out of reach altogether
            kept = ""
        return OSError(f"The store {self.path} cannot be written: {said}.{kept} {advice} and run the same call again.")

    def _remove_abandoned(self) -> None:
        """Clear what killed processes left, and nothing that a living one may still be writing."""
        target = self.path.resolve()
        ours = re.compile(re.escape(target.name) + r"\.\d+-[0-9a-f]{8}\.partial")
        for folder in target.parent.glob("*.partial"):
            with suppress(OSError):
                if ours.fullmatch(folder.name) and time.time() - folder.stat().st_mtime > _ABANDONED_AFTER:
                    shutil.rmtree(folder)


def load(path: str | os.PathLike) -> xarray.Dataset:
    """See `load_sweep`."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no sweep at {path}.")
    if not _is_store(path):
        raise wrong("path", "the store of a sweep", f"{path}, which holds something else")
    # Another process may replace the result between two files that we read, and for a moment there is none.
    for wait in (0.0, 0.01, 0.1, 0.3, 0.3):
        time.sleep(wait)
        before = _identity(path / "result")
        try:
            dataset = xarray.load_dataset(path / "result", **READ)
        except Exception:
            if before is not None and before == _identity(path / "result"):
                raise
        else:
            if before == _identity(path / "result"):
                return _with_plain_words(dataset)
    raise FileNotFoundError(f"The sweep at {path} has no result yet: run the sweep again, finished runs are kept.")


def _is_occupied(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or bool(os.listdir(path)))


def _is_store(path: Path) -> bool:
    try:
        return {"settings", "about"} <= _attributes(path).keys()
    except (OSError, ValueError):
        return False


def _is_summary(path: Path) -> bool:
    try:
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            return set(_COLUMNS_OF_A_SUMMARY) <= set(next(csv.reader(file), ()))
    except (OSError, csv.Error):
        return False


def _attributes(group: Path) -> dict[str, Any]:
    """Read without Zarr, which is a hundred times slower."""
    text = (group / "zarr.json").read_text(encoding="utf-8")
    try:
        return json.loads(text)["attributes"]
    except (json.JSONDecodeError, KeyError):
        raise ValueError(f"{group} is damaged: remove it and run the sweep again, other runs are kept.") from None


def _write_group(folder: Path, attributes: dict[str, Any]) -> None:
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    (folder / "zarr.json").write_text(json.dumps(group, indent=2), encoding="utf-8")


def _rename_unless_there(new: Path, target: Path) -> None:
    try:
        os.rename(new, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _replace(new: Path, target: Path, aside: Path) -> None:
    """Put the folder `new` in the place of `target`, which several processes may do at once."""
    for attempt in itertools.count():
        with suppress(FileNotFoundError):
            os.rename(target, aside / f"replaced-{attempt}")
        _rename_unless_there(new, target)
        if not new.exists():
            return


def _identity(folder: Path) -> tuple[int, int] | None:
    """Differs for a folder that took the place of another."""
    try:
        stat = folder.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _arrays(result: RunResult) -> dict[str, np.ndarray]:
    observed = {f"observed.{name}": np.asarray(value) for name, value in result.observed.items()}
    return {"times": result.times, "steps": result.steps, **observed}


def _layout(result: RunResult) -> Layout:
    return tuple((name, array.dtype.name, array.shape) for name, array in _arrays(result).items())


def _pack(layout: Layout, results: Mapping[str, RunResult]) -> xarray.Dataset:
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
    return xarray.Dataset(
        {"values": (("run", "byte"), values)}, attrs={"keys": list(results), "layout": layout, "runs": runs}
    )


def _unpack(part: Path, keys: Set[str]) -> dict[str, RunResult]:
    attributes = _attributes(part)
    if keys.isdisjoint(attributes["keys"]):
        return {}
    values = xarray.load_dataset(part, **READ)["values"].values
    results = {}
    for key, run, row in zip(attributes["keys"], attributes["runs"], values, strict=True):
        if key not in keys:
            continue
        arrays = dict(_split(attributes["layout"], row))
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


def _split(layout: Sequence[Sequence[Any]], row: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    start = 0
    for name, dtype, shape in layout:
        end = start + np.dtype(dtype).itemsize * math.prod(shape)
        yield name, np.frombuffer(row[start:end].tobytes(), dtype).reshape(shape).copy()
        start = end


def _to_json(number: int | float | None) -> int | float | str | None:
    """JSON has no NaN and no infinity, so these are words."""
    return number if number is None or math.isfinite(number) else str(number)


def _from_json(number: int | float | str | None) -> Any:
    return float(number) if isinstance(number, str) else number


def _with_plain_words(dataset: xarray.Dataset) -> xarray.Dataset:
    """Strings as Python's own: `Dataset.where` and `reindex` of xarray fail on numpy's `StringDType`."""
    return dataset.assign({n: v.astype(object) for n, v in dataset.variables.items() if v.dtype.kind == "T"})


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    before, after = (dict(_flat(settings)) for settings in (old, new))
    names = [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
    return [
        f"{name} {_shortened(before.get(name, 'absent'))} → {_shortened(after.get(name, 'absent'))}" for name in names
    ]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names joined by dots → values as JSON, in which NaN equals NaN."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value, ensure_ascii=False)


def _shortened(text: str) -> str:
    half = (_SHOWN - 1) // 2
    return text if len(text) <= _SHOWN else f"{text[:half]}…{text[-half:]}"
