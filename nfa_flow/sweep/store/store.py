"""The finished runs of one sweep on disk: kept whatever is killed, and written by any number of processes.

A store is a Zarr v3 hierarchy. Its root carries what the runs were computed with, and which differences from that were
accepted since. Finished runs arrive in parts that are never changed again: each is written beside the store and renamed
into place, so a reader sees all of it or nothing, and writers need no locks. A part is named after its runs and what
they were computed with; whoever comes second with the same runs drops theirs. The group `grid` says what the runs are
called, from the moment when the sweep began; `result` is the dataset of a sweep that ended.
"""

import csv
import datetime
import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import xarray

from ...checks import wrong
from ...run.files import NEW, partial_folder, remove_abandoned, rename_unless_there, swap
from ...run.intact import digests_of, set_attributes
from ...run.storage import WRITE
from ..identity.differences import differences, is_accepted, told
from ..identity.values import digest
from ..result import RunResult
from .parts import Layout, attributes, layout_of, pack, unpack

FORMAT = 2  # of what is written; the first one, without a number, did not know what computed its runs
DIGESTS = "digests"  # attribute of the result
_HOW_TO_READ = 'nf.load_sweep(path), or any program of Zarr that opens the group "result"'
_COLUMNS_OF_A_SUMMARY = ("key", "status")  # by which it is known
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Change the permissions there"),
}


class Store:
    """The finished runs of one sweep, by the keys that identify them.

    Nothing is written before `begin`.

    **Arguments:** `path`: the store's folder, created if it is not there; `settings`: what decides the results, as
    JSON; `about`: what is worth knowing besides (versions, device), as JSON; `accept`: names of settings, each with all
    that belongs to it, that may differ from those of the finished runs.
    **Raises:** ValueError where `path` holds something else, or runs with other settings, and where another file has
    the name of the summary.
    """

    def __init__(
        self, path: str | os.PathLike, settings: dict[str, Any], about: dict[str, Any], accept: Sequence[str] = ()
    ):
        self.path = Path(path).absolute()
        self._settings, self._about, self._accept = settings, about, accept
        self._made_with = fingerprint(settings)
        remove_abandoned(self.path.resolve())
        if self.csv_path.exists() and not _is_summary(self.csv_path):
            raise wrong("store", f"a path whose summary replaces no other file ({self.csv_path})", str(self.path))
        self._compare()

    @property
    def csv_path(self) -> Path:
        """Where the summary is."""
        return self.path.with_name(self.path.name.removesuffix(".zarr") + ".csv")

    @property
    def accepted(self) -> list[dict[str, Any]]:
        """The differences that were accepted so far: when, and what of them."""
        return attributes(self.path)["accepted"] if self.path.exists() else []

    def begin(self, grid: Mapping[str, Any]) -> None:
        """Create the store if it is not there, and say what the runs of this sweep are called.

        **Arguments:** `grid`: as `assemble` needs it, with the keys of all runs, as JSON.
        **Raises:** OSError where the store cannot be written; as the class, where another process created it meanwhile.
        """
        with self._partial() as partial:
            # In this order: another process may put its store there at any moment, whole.
            if not _is_occupied(self.path):
                (partial / "store" / "runs").mkdir(parents=True)
                _write_group(partial / "store", self._root([]))
                _write_group(partial / "store" / "runs", {})
                # Renaming onto an empty folder replaces it; where another process was faster, its store stays.
                rename_unless_there(partial / "store", self.path.resolve())
            if found := self._compare():
                _replace_group(partial, self.path, self._root(self._log(found)))
            (self.path / "grid").mkdir(exist_ok=True)
            _replace_group(partial, self.path / "grid", grid)
            with suppress(FileNotFoundError):  # it is of the last sweep, and this one may end without
                os.rename(self.path / "result", partial / "last result")

    def keys(self) -> set[str]:
        """The keys of all finished runs, those that other processes wrote since included."""
        return {key for part in parts_of(self.path) for key in attributes(part)["keys"]}

    def results(self, keys: Set[str]) -> dict[str, RunResult]:
        """Those of these runs that are finished, bit for bit as they were written."""
        return results_in(self.path, keys)

    def write(self, results: Mapping[str, RunResult]) -> None:
        """Add finished runs; those of equal shapes become one part. Writing the same runs again changes nothing.

        **Raises:** OSError saying what is in the store and what to do.
        """
        alike: dict[Layout, dict[str, RunResult]] = {}
        for key in sorted(results):
            alike.setdefault(layout_of(results[key]), {})[key] = results[key]
        for layout, part in alike.items():
            name = digest("\n".join([self._made_with, *part]))
            with self._partial() as partial:
                pack(layout, part, self._made_with).to_zarr(partial / name, mode="w", **WRITE)
                rename_unless_there(partial / name, self.path / "runs" / name)

    def conclude(self, dataset: xarray.Dataset, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace the assembled dataset and the summary, a CSV file beside the store with one row for each run.

        **Raises:** OSError saying what is in the store and what to do.
        """
        columns = list(dict.fromkeys(name for row in rows for name in row)) or _COLUMNS_OF_A_SUMMARY
        with self._partial() as partial:
            dataset.to_zarr(partial / NEW, mode="w", **WRITE)
            set_attributes(partial / NEW / "zarr.json", {DIGESTS: digests_of(partial / NEW)})
            with open(partial / "summary.csv", "w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, columns)
                table.writeheader()
                table.writerows(rows)
            swap(partial, self.path / "result")
            os.replace(partial / "summary.csv", self.csv_path)

    def _compare(self) -> dict[str, tuple[Any, Any]]:
        """How the settings of the store differ from ours; raise where that is not accepted, or it is no such store."""
        if not _is_occupied(self.path):
            return {}
        if not is_store(self.path):
            raise wrong("store", "a new path or the store of this sweep", what_else(self.path))
        root = attributes(self.path)
        if root.get("format") != FORMAT:
            was = f"{self.path}, which another version of nfa_flow wrote: its results can be read by `load_sweep`"
            raise wrong("store", "a new path, or a store of this version", was)
        found = differences(root["settings"], self._settings)
        kept = len(self.keys()) if found else 0
        refused = {name: pair for name, pair in found.items() if kept and not is_accepted(name, self._accept)}
        if refused:
            raise ValueError(
                "`store` must be a new path or the store of this very sweep, "
                f"but was {self.path}, whose settings differ:\n{told(refused)}\n"
                f"To keep its {kept} finished runs knowingly, add accept={json.dumps(list(refused))} "
                f"(on the command line: --accept {' '.join(refused)})."
            )
        return found

    def _root(self, accepted: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        about = {"how_to_read": _HOW_TO_READ, "format": FORMAT, "about": self._about}
        return about | {"settings": self._settings, "accepted": accepted}

    def _log(self, found: Mapping[str, tuple[Any, Any]]) -> list[dict[str, Any]]:
        """What has been accepted, with these differences added; of a store without runs nothing needs to be."""
        if not self.keys():
            return []
        root = attributes(self.path)
        entry = {
            "on": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "made_with": fingerprint(root["settings"]),
            "finished_runs": len(self.keys()),
            "differences": {name: {"was": old, "is": new} for name, (old, new) in found.items()},
        }
        return [*root["accepted"], entry]

    @contextmanager
    def _partial(self) -> Iterator[Path]:
        """A folder of our own on the disk of the store, but outside of it: Zarr would list it. Gone afterwards."""
        try:
            with partial_folder(self.path.resolve()) as partial:
                yield partial
        except OSError as error:
            raise self._explained(error) from error

    def _explained(self, error: OSError) -> OSError:
        said, advice = error.strerror or str(error), _ADVICE.get(error.errno or 0, "Free space or change permissions")
        try:
            kept = f" The {len(self.keys())} finished runs in it are intact." if is_store(self.path) else ""
        except OSError:  # out of reach altogether
            kept = ""
        return OSError(f"The store {self.path} cannot be written: {said}.{kept} {advice} and run the same call again.")


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Of all that decides the results, for the parts of a store."""
    return digest(json.dumps(settings, sort_keys=True))


def parts_of(path: Path) -> list[Path]:
    """The parts of a store that belong to its settings, or to settings that were accepted, ordered by name.

    So which of two parts with the same run comes first does not depend on the disk.
    """
    try:
        names = sorted(name for name in os.listdir(path / "runs") if "." not in name)
    except FileNotFoundError:
        return []
    root = attributes(path)
    known = {fingerprint(root["settings"]), *(each["made_with"] for each in root["accepted"])}
    parts = [path / "runs" / name for name in names]
    return [part for part in parts if attributes(part)["made_with"] in known]


def results_in(path: Path, keys: Set[str]) -> dict[str, RunResult]:
    """Those of these runs that a store holds."""
    results: dict[str, RunResult] = {}
    for part in reversed(parts_of(path)):  # of one run in two parts, the first counts
        results |= unpack(part, keys)
    return results


def _is_occupied(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or bool(os.listdir(path)))


def is_store(path: Path) -> bool:
    """Whether a folder is the store of a sweep."""
    try:
        return {"settings", "about"} <= attributes(path).keys()
    except (OSError, ValueError):
        return False


def what_else(path: Path) -> str:
    """What a path that is no store holds, in words."""
    was_one = (path / "runs" / "zarr.json").is_file() and (path / "grid" / "zarr.json").is_file()
    return f"one whose {path / 'zarr.json'} is damaged" if was_one else f"{path}, which holds something else"


def _is_summary(path: Path) -> bool:
    try:
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            return set(_COLUMNS_OF_A_SUMMARY) <= set(next(csv.reader(file), ()))
    except (OSError, csv.Error):
        return False


def _write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    (folder / "zarr.json").write_text(json.dumps(group, indent=2), encoding="utf-8")


def _replace_group(partial: Path, folder: Path, attributes: Mapping[str, Any]) -> None:
    """Give a group other attributes, in one moment."""
    _write_group(partial, attributes)
    os.replace(partial / "zarr.json", folder / "zarr.json")
