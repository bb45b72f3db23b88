"""CIFAR-10 from its published files: Python pickles, of which no code is run, or the binary version."""

import codecs
import gzip
import io
import pickle
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8

from ..checks import require_choice, require_instance, wrong
from .dataset import Dataset
from .whitening import standardize as standardized

_FILES = {"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]}

# All that a pickled NumPy array needs. NumPy renamed its core package in 2.0; files of either age mean this function.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}

Batch = tuple[UInt8[np.ndarray, "n pixels"], Int[np.ndarray, " n"]]


def cifar10(path: str | Path, *, split: str = "train", standardize: bool = True, images: bool = False) -> Dataset:
    """The CIFAR-10 images with one-hot targets; the inputs are 32 × 32 pixels in red, then in green, then in blue.

    **Arguments:**
    - `path`: one of the published archives cifar-10-python.tar.gz and cifar-10-binary.tar.gz, which is not unpacked on
      the disk, or its folder, cifar-10-batches-py or cifar-10-batches-bin.
    - `split`: "train" (50 000 images) or "test" (10 000).
    - `standardize`: whether to shift and scale every input to mean 0 and variance 1 over the split; otherwise inputs
      are in [0, 1].
    - `images`: whether samples have the shape 3 × 32 × 32 and their class labels, 0 to 9, for convolutional networks
      and the cross entropy.

    **Returns:** n samples, 3072 inputs, 10 outputs; or images and labels.
    **Raises:** FileNotFoundError if `path` or one of its batches is missing; ValueError for another `split`, or for
    files that are not those of CIFAR-10, such as a pickle that names anything not needed for a NumPy array.
    **Source:** Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html (the Python and the binary version).
    """
    require_choice("split", split, _FILES)
    require_instance("path", path, (str, Path), "a path")
    path, names = Path(path), _FILES[split]
    if not path.exists():
        raise FileNotFoundError(f"`path` must be CIFAR-10's folder or tar archive, but there is no {path}.")
    batches = _from_folder(path, names) if path.is_dir() else _from_archive(path, names)
    missing = [name for name in names if name not in batches]
    if missing:
        raise FileNotFoundError(f"`path` must hold the CIFAR-10 files {', '.join(missing)}, but {path} does not.")
    pixels, labels = (np.concatenate(parts) for parts in zip(*(batches[name] for name in names), strict=True))
    pixels = jnp.asarray(pixels, float) / 255
    data = Dataset(pixels.reshape(-1, 3, 32, 32), labels) if images else Dataset(pixels, np.eye(10)[labels])
    return standardized(data) if standardize else data


def _from_folder(folder: Path, names: list[str]) -> dict[str, Batch]:
    files = {name: folder / file for name in names for file in (name, f"{name}.bin") if (folder / file).is_file()}
    return {name: _read(file.read_bytes(), file.name) for name, file in files.items()}


def _from_archive(path: Path, names: list[str]) -> dict[str, Batch]:
    batches = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:  # in the order of the file: going back would decompress it from the start again
                file_name = PurePosixPath(member.name).name
                name = file_name.removesuffix(".bin")
                if name in names and member.isfile() and (file := archive.extractfile(member)):
                    batches[name] = _read(file.read(), file_name)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise wrong("path", "CIFAR-10's folder or tar archive", f"{path}, which cannot be read ({error})") from error
    return batches


def _read(content: bytes, name: str) -> Batch:
    must_be = "CIFAR-10's folder or tar archive"
    try:
        images, labels = _rows(content) if name.endswith(".bin") else _pickled(content)
    except Exception as error:  # a malformed pickle can raise anything
        raise wrong("path", must_be, f"one whose {name} cannot be read ({error})") from error
    is_batch = (
        isinstance(images, np.ndarray)
        and images.dtype == np.uint8
        and labels.dtype.kind == "i"
        and images.shape == (labels.size, 3072)
        and labels.ndim == 1
        and set(labels.tolist()) <= set(range(10))
    )
    if not is_batch:
        raise wrong("path", must_be, f"one whose {name} does not hold labeled images")
    return images, labels


def _rows(content: bytes) -> Batch:
    """Of the binary version: a row for each image, of its label and its pixels."""
    rows = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    return rows[:, 1:], rows[:, 0].astype(int)


def _pickled(content: bytes) -> Batch:
    batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    return batch[b"data"], np.asarray(batch[b"labels"])


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles NumPy arrays, numbers, strings and containers, and refuses everything else before it can act."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"refused {module}.{name}: a NumPy array does not need it")
        return _ALLOWED[module, name]
