"""Whether a folder that was written once, such as a Zarr group, is unchanged.

Zarr reads zeros if a file is missing, and leaves out an array whose metadata are missing. So the digests of all files
are stored.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path


def digests_of(folder: Path) -> dict[str, str]:
    """The digest of each file in a folder, by relative path; empty for metadata, which other programs may change."""
    return {file: "" if is_metadata(file) else _digest(folder / file) for file in files_in(folder)}


def first_damage(folder: Path, digests: Mapping[str, str]) -> tuple[Path, str] | None:
    """The first file of a folder that has changed, and how."""
    for file, digest in digests.items():
        if not (folder / file).is_file():
            return folder / file, "is missing"
        if digest and _digest(folder / file) != digest:
            return folder / file, "is not as it was written"
    for file in ["zarr.json", *filter(is_metadata, digests or files_in(folder))]:
        try:
            json.loads((folder / file).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return folder / file, "is no JSON"
    return None


def files_in(folder: Path) -> list[str]:
    """All files in a folder, by their relative paths."""
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def is_metadata(file: str) -> bool:
    """Whether a file holds the attributes of a Zarr group or array."""
    return file.rpartition("/")[2] == "zarr.json"


def set_attributes(file: Path, attributes: Mapping[str, object]) -> None:
    """Add attributes to those of a Zarr group."""
    group = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(group | {"attributes": group.get("attributes", {}) | attributes}), encoding="utf-8")


def _digest(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
