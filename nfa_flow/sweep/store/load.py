"""Read a stored sweep: the dataset that it ended with, or what was finished of it when it was killed."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray

from ...checks import wrong
from ...run.files import read_folder, require_path
from ...run.intact import damaged_metadata, first_damage
from ...run.storage import READ
from ..grid import Grid
from .assemble import assemble
from .parts import attributes, unreadable
from .store import DIGESTS, is_store, results_in, what_else


def load(path: str | os.PathLike) -> xarray.Dataset:
    """See `load_sweep`."""
    path = require_path("path", path)
    if not path.exists():
        raise FileNotFoundError(f"There is no sweep at {path}.")
    if not is_store(path):
        raise wrong("path", "the store of a sweep", what_else(path))
    # Another process may be replacing the result, and for a moment there is none.
    for wait in (0.0, 0.01, 0.1, 0.3, 0.3):
        time.sleep(wait)
        with suppress(FileNotFoundError):
            return read_folder(path / "result", _read)
    return _finished(path)


def _read(result: Path) -> xarray.Dataset:
    if (metadata := damaged_metadata(result)) is not None:
        raise _damaged(metadata, result)
    if damage := first_damage(result, attributes(result).get(DIGESTS, {})):
        raise _damaged(damage[0], result)
    try:
        dataset = xarray.load_dataset(result, **READ)
    except Exception as error:  # of whatever Zarr decodes
        raise _damaged(unreadable(result), result) from error
    dataset.attrs.pop(DIGESTS, None)
    return _with_plain_words(dataset)


def _damaged(file: Path, result: Path) -> ValueError:
    return ValueError(f"{file} is damaged: remove {result}, then the finished runs are read instead.")


def grid_to_json(grid: Grid, keys: "list[str]") -> dict[str, Any]:
    """What the runs of a grid are called, in the order of the grid."""
    coordinates = {name: [list(dims), labels.tolist()] for name, (dims, labels) in grid.coordinates.items()}
    return {"dimensions": grid.dimensions, "coordinates": coordinates, "keys": keys}


def attributes_of(settings: Any, about: dict[str, Any], accepted: list[dict[str, Any]]) -> dict[str, str]:
    """What the dataset of a sweep says of what it was made with. When the store was made is in the store alone."""
    about = {name: value for name, value in about.items() if name != "created"}
    said = {"settings": json.dumps(settings), "about": json.dumps(about)}
    return said | ({"accepted": json.dumps(accepted)} if accepted else {})


def _finished(path: Path) -> xarray.Dataset:
    """The runs of the last sweep that were finished when it was interrupted, or are by now."""
    root, nothing = attributes(path), f"No run of the sweep at {path} has finished yet: run the sweep again."
    if not (path / "grid" / "zarr.json").exists():
        raise FileNotFoundError(nothing)
    grid = attributes(path / "grid")
    indices = np.ndindex(*map(len, grid["dimensions"].values()))
    keys = dict(zip(grid["keys"], indices, strict=True))
    results = {keys[key]: result for key, result in results_in(path, keys.keys()).items()}
    if not results:
        raise FileNotFoundError(nothing)
    coordinates = {name: (tuple(dims), np.asarray(labels)) for name, (dims, labels) in grid["coordinates"].items()}
    attrs = attributes_of(root["settings"], root["about"], root["accepted"])
    return assemble(grid["dimensions"], coordinates, results, attrs)


def _with_plain_words(dataset: xarray.Dataset) -> xarray.Dataset:
    """Strings as Python's own: `Dataset.where` and `reindex` of xarray fail on numpy's `StringDType`."""
    return dataset.assign({n: v.astype(object) for n, v in dataset.variables.items() if v.dtype.kind == "T"})
