"""Files and folders that appear whole under their name or not at all, whatever interrupts the writing.

Everything is written into a folder of its own next to the target, on the same disk, and renamed into place. A file is
replaced by one renaming. A folder takes two: first the old one is moved into the folder of its own, then the new one,
which is complete by then, takes its place. `standing` finds the result again if a kill happens between the two.
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
    """`value` as a path; TypeError if it is neither a string nor a path, ValueError if no disk can hold such a name."""
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise TypeError(f"`{argument}` must be a path, but was {value!r}.")
    try:
        if b"\0" not in os.fsencode(value):
            return Path(value)
    except UnicodeEncodeError:
        pass
    raise wrong(argument, "a path that a disk can hold", repr(os.fspath(value)))


def require_parents(argument: str, path: Path) -> None:
    """Raise ValueError if one of the parent folders of `path` is a file."""
    taken = next((each for each in path.parents if each.exists() and not each.is_dir()), None)
    if taken is not None:
        raise wrong(argument, "a path in a folder", f"{path}, where {taken} is a file")


def write_file(path: Path, write: Callable[[Path], object]) -> Path:
    """Call `write` with a temporary path of the same name, and move the file that it writes to `path`."""
    with partial_folder(path) as partial:
        write(partial / path.name)
        os.replace(partial / path.name, path)
    remove_abandoned(path)
    return path


def write_folder(path: Path, write: Callable[[Path], object]) -> Path:
    """Call `write` with the path of a new folder, and move that folder to `path`, where it replaces an older one."""
    target = path.resolve()  # a link stays, and leads to the new one
    settle(target)
    with partial_folder(target) as partial:
        write(partial / NEW)
        swap(partial, target)
    remove_abandoned(target)
    return path


def swap(partial: Path, target: Path) -> None:
    """Move the folder `NEW` of `partial` to `target`; several processes may do this at the same time."""
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
    """Rename a folder, unless there is another one that is not empty: then both stay."""
    try:
        os.rename(new, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def standing(path: Path) -> Path | None:
    """`path` if it exists, otherwise the folder that would have replaced it before a kill, otherwise None."""
    if not path.exists():
        for partial in _partials(path):
            if (partial / _OLD).exists() and (partial / NEW).exists():
                return partial / NEW
            if (partial / _OLD).exists():
                return partial / _OLD
    return path if path.exists() else None


def settle(path: Path) -> None:
    """Finish a replacement that a kill interrupted, so that `path` itself exists."""
    if (left := standing(path)) not in (None, path):
        with suppress(OSError):  # another process may be just about to do so
            os.rename(left, path)


def read_folder(path: Path, read: Callable[[Path], _T]) -> _T:
    """The result of `read` on a folder that others may replace at the same time: of one version, never parts of two.

    **Raises:** FileNotFoundError if there is none; whatever `read` raises.
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
    """A new folder next to `path` for one attempt to write it; it is deleted afterwards."""
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
    """Delete what killed processes left, but nothing that a running one may still be writing."""
    for partial in _partials(path):
        with suppress(OSError):
            if time.time() - partial.stat().st_mtime > _ABANDONED_AFTER:
                shutil.rmtree(partial)


def _identity(folder: Path) -> tuple[int, int] | None:
    """An identifier of a folder, different for the folder that replaces it."""
    try:
        stat = folder.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns
