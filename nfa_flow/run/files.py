"""Files and folders that appear whole under their name or not at all, whatever interrupts the writing.

Everything is written into a folder of its own beside the target, on the same disk, and renamed into place. A file is
replaced by one renaming. A folder takes two: the old one steps aside, into the same folder, and the new one, which is
complete by then, takes its place. What a kill between the two leaves is found again by `standing`.
"""

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from ..checks import wrong

_ABANDONED_AFTER = 3600.0  # seconds: nobody writes one file or folder for so long
NEW, _OLD = "new", "old"

_T = TypeVar("_T")


def require_path(argument: str, value: Any) -> Path:
    """`value` as a path; TypeError for anything else than a string or a path, ValueError for what no disk holds."""
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise TypeError(f"`{argument}` must be a path, but was {value!r}.")
    try:
        if b"\0" not in os.fsencode(value):
            return Path(value)
    except UnicodeEncodeError:
        pass
    raise wrong(argument, "a path that a disk can hold", repr(os.fspath(value)))


def require_parents(argument: str, path: Path) -> None:
    """Raise ValueError where a file is in the place of one of the folders that lead to `path`."""
    taken = next((each for each in path.parents if each.exists() and not each.is_dir()), None)
    if taken is not None:
        raise wrong(argument, "a path in a folder", f"{path}, where {taken} is a file")


def write_file(path: Path, write: Callable[[Path], object]) -> Path:
    """Call `write` with a path of the same name elsewhere, and move what it writes there to `path`."""
    with partial_folder(path) as partial:
        write(partial / path.name)
        os.replace(partial / path.name, path)
    remove_abandoned(path)
    return path


def write_folder(path: Path, write: Callable[[Path], object]) -> Path:
    """Call `write` with the path of a new folder, and put that in the place of `path`, which may be an older one."""
    target = path.resolve()  # a link stays, and leads to the new one
    settle(target)
    with partial_folder(target) as partial:
        write(partial / NEW)
        swap(partial, target)
    remove_abandoned(target)
    return path


def swap(partial: Path, target: Path) -> None:
    """Put the folder `NEW` of `partial` in the place of `target`, which several processes may do at once."""
    new, old = partial / NEW, partial / _OLD
    try:
        while new.exists():
            shutil.rmtree(old, ignore_errors=True)
            with suppress(FileNotFoundError):
                os.rename(target, old)
            try:
                rename_unless_there(new, target)
            except FileNotFoundError:
                if new.exists():  # otherwise another process has just put it there, by `settle`
                    raise
    except BaseException:
        with suppress(OSError):
            os.rename(old, target)  # fails where the new one is in place
        raise


def rename_unless_there(new: Path, target: Path) -> None:
    """Rename a folder; where there is another one that is not empty, both stay."""
    try:
        os.rename(new, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def standing(path: Path) -> Path | None:
    """`path` where something is, otherwise what a kill kept from taking its place, otherwise None."""
    if not path.exists():
        for partial in _partials(path):
            if (partial / _OLD).exists() and (partial / NEW).exists():
                return partial / NEW
            if (partial / _OLD).exists():
                return partial / _OLD
    return path if path.exists() else None


def settle(path: Path) -> None:
    """Do what a kill has kept from being done, so that `path` itself is what stands."""
    if (left := standing(path)) not in (None, path):
        with suppress(OSError):  # another process may be just about to do so
            os.rename(left, path)


def read_folder(path: Path, read: Callable[[Path], _T]) -> _T:
    """`read` of a folder that others may replace meanwhile: all of one version, never parts of two.

    **Raises:** FileNotFoundError where there is none; what `read` raises.
    """
    while True:
        folder = standing(path)
        if folder is None:
            raise FileNotFoundError(f"There is nothing at {path}.")
        before = _identity(folder)
        try:
            result = read(folder)
        except Exception:
            if before is not None and before == _identity(folder):
                raise
        else:
            if before == _identity(folder):
                return result


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` for one attempt to write it; gone afterwards."""
    partial = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        if path.exists() or not (partial / _OLD).exists():
            shutil.rmtree(partial, ignore_errors=True)


def _partials(path: Path) -> list[Path]:
    ours = re.compile(re.escape(path.name) + r"\.\d+-[0-9a-f]{8}\.partial")
    return sorted(each for each in path.parent.glob("*.partial") if ours.fullmatch(each.name))


def remove_abandoned(path: Path) -> None:
    """Clear what killed processes left, and nothing that a living one may still be writing."""
    for partial in _partials(path):
        with suppress(OSError):
            if time.time() - partial.stat().st_mtime > _ABANDONED_AFTER:
                shutil.rmtree(partial)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Differs for a folder that took the place of another."""
    try:
        stat = folder.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns
