"""The finished runs of one sweep on disk: safe from any kill, and written by any number of processes.

A store is a Zarr group. Its arrays are the labeled result, as it was when a sweep last began or ended: after a kill it
shows the runs that were finished when that sweep began. Beside these arrays, the group `runs` holds the finished runs
in parts that are never changed. Each part is written beside the store and renamed into place, so a reader sees all of
it or nothing, and writers need no locks. The name of a part is a digest of its runs and of everything with which they
were computed; a process that comes second with the same runs drops its part. The attributes of `runs` are the catalog
of the runs of the last sweep.
"""

import csv
import datetime
import errno
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import xarray

from ...checks import wrong
from ...run.files import partial_folder, remove_abandoned, rename_unless_there
from ..identity.differences import as_text, differences, is_accepted
from ..identity.values import digest
from ..result import RunResult
from .arrays import METADATA, Damaged, attributes_of, write_dataset, write_group
from .parts import about_part, layout_of, part_of, results_of

FORMAT = 3  # earlier ones are in `old_formats`
RUNS = "runs"
OF_A_STORE = ("format", "how_to_read", "written")  # attributes of the root besides those of the result
OF_A_RESULT = ("settings", "about", "accepted")  # attributes of the root even while it shows no result
_HOW_TO_READ = "xr.open_zarr(path) for the result; nf.load_sweep(path) also while the sweep runs and after a kill"
_COLUMNS_OF_A_SUMMARY = ("key", "status")  # by which a summary is recognized
_LONGEST_TURN = 10.0  # seconds: no process takes longer to replace a result
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Change the permissions there"),
}


class Store:
    """The finished runs of one sweep, by the keys that identify them.

    Nothing is written before `begin`.

    **Arguments:** `path`: the folder of the store, created if it does not exist; `settings`: everything that decides
    the results, as JSON; `about`: further information (versions, device), as JSON; `accept`: names of settings that may
    differ from those of the finished runs; a name includes all settings that begin with it and a dot.
    **Raises:** ValueError if `path` holds something else, or runs with other settings, or if another file has the name
    of the summary.
    """

    def __init__(
        self, path: str | os.PathLike, settings: dict[str, Any], about: dict[str, Any], accept: Sequence[str] = ()
    ):
        self.path = Path(path).absolute()
        self._settings, self._about, self._accept = settings, about, accept
        remove_abandoned(self.path.resolve())
        if self.csv_path.exists() and not _is_summary(self.csv_path):
            raise wrong("store", f"a path whose summary replaces no other file ({self.csv_path})", str(self.path))
        self.accepted = self._compare()  # the differences that were accepted so far, with dates

    @property
    def csv_path(self) -> Path:
        """The path of the summary."""
        return self.path.with_name(self.path.name.removesuffix(".zarr") + ".csv")

    def begin(self, catalog: Mapping[str, Any]) -> None:
        """Create the store if it does not exist. `catalog`: that of its grid (`catalog_of`).

        **Raises:** OSError if the store cannot be written; ValueError, as for the class, if another process has created
        another one meanwhile.
        """
        with self._partial() as partial:
            # In this order: another process may put its store there at any moment, whole.
            if not _is_occupied(self.path):
                (partial / "store" / RUNS).mkdir(parents=True)
                write_group(partial / "store", self._root(), {})
                write_group(partial / "store" / RUNS, catalog)
                # Renaming replaces an empty folder; if another process was faster, its store stays.
                rename_unless_there(partial / "store", self.path.resolve())
            self.accepted = self._compare()

    def keys(self) -> set[str]:
        """The keys of all finished runs, including those that other processes have written."""
        return {key for part in parts_of(self.path) for key in about_part(part)["keys"]}

    def results(self, keys: Set[str]) -> dict[str, RunResult]:
        """The finished runs with these keys, bit for bit as they were written."""
        return results_in(self.path, keys)

    def write(self, runs: Mapping[str, tuple[Mapping[str, Any], RunResult]]) -> None:
        """Add finished runs, given as key → (settings, result); runs of equal shapes become one part.

        Writing the same runs again changes nothing.

        **Raises:** OSError that says what is in the store and what to do.
        """
        alike: dict[tuple[Any, ...], list[str]] = {}
        for key in sorted(runs):
            alike.setdefault(layout_of(runs[key][1]), []).append(key)
        made_with = fingerprint(self._settings)
        for keys in alike.values():
            name = digest("\n".join([made_with, *keys]))
            with self._partial() as partial:
                part = part_of({key: runs[key] for key in keys})
                write_dataset(part, partial / name, {"made_with": made_with, "keys": keys})
                rename_unless_there(partial / name, self.path / RUNS / name)

    def show(self, dataset: xarray.Dataset, catalog: Mapping[str, Any]) -> None:
        """Replace the result that the store shows, and the catalog of its runs.

        Meanwhile the store shows its settings alone, and a reader takes the finished runs from the parts.

        **Raises:** OSError that says what is in the store and what to do.
        """
        with self._partial() as partial:
            new, none = partial / "new", partial / "none"
            write_dataset(dataset, new, self._root())
            (new / RUNS).mkdir()
            write_group(new / RUNS, catalog)
            none.mkdir()
            write_group(none, self._root(), {})
            with self._alone():
                os.replace(none / METADATA, self.path / METADATA)
                for array in _arrays_in(self.path):
                    os.rename(array, none / array.name)
                os.replace(new / RUNS / METADATA, self.path / RUNS / METADATA)
                for array in _arrays_in(new):
                    os.rename(array, self.path / array.name)
                os.replace(new / METADATA, self.path / METADATA)

    def summarize(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace the summary, a CSV file beside the store with a row for each run. **Raises:** OSError, as `show`."""
        columns = list(dict.fromkeys(name for row in rows for name in row)) or _COLUMNS_OF_A_SUMMARY
        with self._partial() as partial:
            with open(partial / "summary.csv", "w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, columns)
                table.writeheader()
                table.writerows(rows)
            os.replace(partial / "summary.csv", self.csv_path)

    def _root(self) -> dict[str, Any]:
        about = attributes_of_result(self._settings, self._about, self.accepted)
        return about | dict(zip(OF_A_STORE, (FORMAT, _HOW_TO_READ, _now()), strict=True))

    def _compare(self) -> list[dict[str, Any]]:
        """The accepted differences. **Raises:** ValueError for other differences, and if this is no such store."""
        if not _is_occupied(self.path):
            return []
        if not is_store(self.path):
            raise wrong("store", "a new path or the store of this sweep", what_else(self.path))
        if attributes_of(self.path).get("format") != FORMAT:
            was = f"{self.path}, which another version of nfa_flow wrote: its results can be read by `load_sweep`"
            raise wrong("store", "a new path, or a store of this version", was)
        settings, accepted = made_with(self.path)
        found, kept = differences(settings, self._settings), len(self.keys())
        refused = {name: pair for name, pair in found.items() if kept and not is_accepted(name, self._accept)}
        if refused:
            raise ValueError(
                "`store` must be a new path or the store of this very sweep, "
                f"but was {self.path}, whose settings differ:\n{as_text(refused)}\n"
                f"To keep its {kept} finished runs knowingly, add accept={json.dumps(list(refused))} "
                f"(on the command line: --accept {' '.join(refused)})."
            )
        if not found:
            return accepted
        entry = {
            "on": _now(),
            "made_with": fingerprint(settings),
            "finished_runs": kept,
            "differences": {name: {"was": old, "is": new} for name, (old, new) in found.items()},
        }
        return [*accepted, entry] if kept else []  # without finished runs, nothing needs to be accepted

    @contextmanager
    def _partial(self) -> Iterator[Path]:
        """A temporary folder on the disk of the store, but outside of it, because Zarr would list it."""
        try:
            with partial_folder(self.path.resolve()) as partial:
                yield partial
        except OSError as error:
            raise self._explained(error) from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Inside, no other process replaces the result, except after it has waited for a process that was killed."""
        turn, deadline = self.path / ".turn", time.monotonic() + _LONGEST_TURN
        while time.monotonic() < deadline:
            with suppress(FileExistsError):
                turn.mkdir()
                break
            time.sleep(0.01)
        try:
            yield
        finally:
            shutil.rmtree(turn, ignore_errors=True)

    def _explained(self, error: OSError) -> OSError:
        said, advice = error.strerror or str(error), _ADVICE.get(error.errno or 0, "Free space or change permissions")
        try:
            kept = f" The {len(self.keys())} finished runs in it are intact." if is_store(self.path) else ""
        except OSError:  # the store cannot even be read
            kept = ""
        return OSError(f"The store {self.path} cannot be written: {said}.{kept} {advice} and run the same call again.")


def attributes_of_result(settings: Any, about: dict[str, Any], accepted: list[dict[str, Any]]) -> dict[str, str]:
    """Attributes of the dataset of a sweep that say how it was computed."""
    said = {"settings": json.dumps(settings), "about": json.dumps(about)}
    return said | ({"accepted": json.dumps(accepted)} if accepted else {})


def fingerprint(settings: Mapping[str, Any]) -> str:
    """A digest of everything that decides the results, which parts have as an attribute."""
    return digest(json.dumps(settings, sort_keys=True))


def made_with(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The settings of a store, and the accepted differences from them."""
    root = attributes_of(path)
    return json.loads(root["settings"]), json.loads(root.get("accepted", "[]"))


def parts_of(path: Path) -> list[Path]:
    """The parts of a store that were computed with its settings or with accepted ones.

    They are ordered by name, so that the order of two parts with the same run does not depend on the disk.
    """
    try:
        names = sorted(name for name in os.listdir(path / RUNS) if "." not in name)
    except FileNotFoundError:
        return []
    settings, accepted = made_with(path)
    known = {fingerprint(settings), *(each["made_with"] for each in accepted)}
    parts = [path / RUNS / name for name in names]
    return [part for part in parts if about_part(part)["made_with"] in known]


def results_in(path: Path, keys: Set[str]) -> dict[str, RunResult]:
    """The runs with these keys in a store. **Raises:** ValueError that names a damaged file."""
    results: dict[str, RunResult] = {}
    for part in reversed(parts_of(path)):  # if two parts have the same run, the first one counts
        results |= results_of(part, keys)
    return results


def is_store(path: Path) -> bool:
    """Whether a folder is the store of a sweep."""
    try:
        return {"settings", "about"} <= attributes_of(path).keys()
    except (OSError, Damaged):
        return False


def what_else(path: Path) -> str:
    """The content of a path that is no store, in words."""
    was_one = (path / RUNS / METADATA).is_file()
    return f"one whose {path / METADATA} is damaged" if was_one else f"{path}, which holds something else"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _is_occupied(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or bool(os.listdir(path)))


def _arrays_in(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if each.is_dir() and each.name[0] != "." and each.name != RUNS]


def _is_summary(path: Path) -> bool:
    try:
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            return set(_COLUMNS_OF_A_SUMMARY) <= set(next(csv.reader(file), ()))
    except (OSError, csv.Error):
        return False
