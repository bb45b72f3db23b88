"""Read a stored sweep: its result, and runs that were finished after the result was written."""

import os
from pathlib import Path
from typing import Any

import xarray

from ...checks import wrong
from ...run.files import read_folder, require_path
from .arrays import Damaged, attributes_of, is_whole, read_dataset
from .assemble import MISSING, assemble_cataloged
from .old_formats import load_old
from .parts import about_part
from .store import FORMAT, OF_A_RESULT, OF_A_STORE, RUNS, is_store, parts_of, results_in, what_else


def load(path: str | os.PathLike) -> xarray.Dataset:
    """The dataset of a stored sweep, as `load_sweep` returns it."""
    path = require_path("path", path)
    if not path.exists():
        raise FileNotFoundError(f"There is no sweep at {path}.")
    if not is_store(path):
        raise wrong("path", "the store of a sweep", what_else(path))
    if attributes_of(path).get("format", 1) < FORMAT:
        return load_old(path)
    try:
        shown, grid = read_folder(path, _shown)
    except Damaged as error:
        raise ValueError(f"{error}: run the sweep again, which writes its result anew.") from error
    keys = grid["keys"]
    if shown is not None:
        missing = {key for key, status in zip(keys, shown["status"].values.flat, strict=False) if status == MISSING}
        finished = {key for part in parts_of(path) for key in about_part(part)["keys"]} if missing else set()
        if len(missing) < len(keys) and missing.isdisjoint(finished):
            return shown
    results = results_in(path, set(keys))
    if not results:
        raise FileNotFoundError(f"No run of the sweep at {path} has finished yet: run the sweep again.")
    root = attributes_of(path)
    attrs = {name: root[name] for name in OF_A_RESULT if name in root}
    return assemble_cataloged(grid, results, attrs)


def _shown(path: Path) -> tuple[xarray.Dataset | None, dict[str, Any]]:
    """The result that the store shows, or None while it is being replaced; and the catalog of the runs."""
    grid = attributes_of(path / RUNS)
    if not is_whole(attributes_of(path)):
        return None, grid
    dataset = read_dataset(path)
    for name in OF_A_STORE:
        del dataset.attrs[name]
    return dataset, grid
