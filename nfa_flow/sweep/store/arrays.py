"""Labeled datasets as Zarr groups that xarray reads without this library: bit for bit, and damaged files are named.

The group lists its arrays in its own metadata (consolidated metadata), so other files in its folder do not belong to
it. Its attributes include digests of all files, because Zarr reads zeros if a file is missing.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray

from ...run.intact import digests_of, first_damage
from ...run.storage import READ, WRITE, plain

METADATA = "zarr.json"
_DIGESTS = "digests"


class Damaged(ValueError):
    """A file of a store has changed since it was written."""

    def __init__(self, file: Path):
        super().__init__(f"{file} is damaged")
        self.file = file


def write_dataset(dataset: xarray.Dataset, folder: Path, attributes: Mapping[str, Any]) -> None:
    """Write a dataset as a group into a new folder, with further attributes as JSON."""
    variables = {}
    for name, variable in dataset.variables.items():
        # Zarr v3 does not specify numpy's strings of fixed length; xarray writes objects without a warning.
        values, attrs = plain(variable.astype(object).values if variable.dtype.kind == "U" else variable.values)
        # Without a fill value, every NaN keeps its bits.
        variables[name] = xarray.Variable(variable.dims, values, variable.attrs | attrs, {"_FillValue": None})
    coords = {name: variables.pop(name) for name in dataset.coords}
    stored = xarray.Dataset(variables, coords, dataset.attrs)
    stored.to_zarr(folder, mode="w", write_empty_chunks=True, **WRITE)
    arrays = {str(name): json.loads((folder / str(name) / METADATA).read_text("utf-8")) for name in dataset.variables}
    write_group(folder, {**dataset.attrs, **attributes, _DIGESTS: digests_of(folder)}, arrays)


def write_group(folder: Path, attributes: Mapping[Any, Any], arrays: Mapping[str, Any] | None = None) -> None:
    """Write the metadata of a group, with a list of its arrays unless that is None."""
    group: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    if arrays is not None:
        group["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": arrays}
    (folder / METADATA).write_text(json.dumps(group, indent=2), encoding="utf-8")


def is_whole(attributes: Mapping[str, Any]) -> bool:
    """Whether the attributes belong to a dataset that was written completely."""
    return _DIGESTS in attributes


def attributes_of(folder: Path) -> dict[str, Any]:
    """The attributes of a group, read without Zarr, which is a hundred times slower. **Raises:** Damaged."""
    try:
        return json.loads((folder / METADATA).read_text(encoding="utf-8"))["attributes"]
    except (FileNotFoundError, ValueError, KeyError):
        raise Damaged(folder / METADATA) from None


def read_dataset(folder: Path) -> xarray.Dataset:
    """The dataset in a folder, with all attributes. **Raises:** Damaged."""
    if damage := first_damage(folder, attributes_of(folder).get(_DIGESTS, {})):
        raise Damaged(damage[0])
    try:
        dataset = xarray.load_dataset(folder, **READ)
    except Exception as error:  # any error of Zarr's decoders
        raise Damaged(folder) from error
    dataset.attrs.pop(_DIGESTS, None)
    return dataset.assign({name: _restored(variable) for name, variable in dataset.variables.items()})


def _restored(variable: xarray.Variable) -> xarray.Variable:
    """The variable in its own type. Words are Python's: `where` and `reindex` of xarray fail on `StringDType`."""
    attrs = dict(variable.attrs)
    dtype = object if variable.dtype.kind == "T" else attrs.pop("dtype", variable.dtype)
    with np.errstate(invalid="ignore"):  # of a NaN in a narrower type
        return xarray.Variable(variable.dims, variable.values.astype(dtype, copy=False), attrs)
