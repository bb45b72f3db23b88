"""MNIST, Fashion-MNIST and other sets in the same files."""

import gzip
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ..checks import require_choice, require_instance, wrong
from .dataset import Dataset

_FILES = {"train": ("train-images", "train-labels"), "test": ("t10k-images", "t10k-labels")}


def mnist(path: str | Path, *, split: str = "train") -> Dataset:
    """The images of MNIST, or of another set in the same files, as those of Fashion-MNIST, with their class labels.

    **Arguments:** `path`: the folder of the four published files, such as train-images-idx3-ubyte.gz, packed or not;
    `split`: "train" (60 000 images in both sets) or "test" (10 000).
    **Returns:** n samples of shape 1 × 28 × 28 with values in [0, 1], and labels 0 to 9.
    **Raises:** FileNotFoundError if the folder or a file is missing; ValueError for another `split`, and for files of
    another format.
    **Source:** LeCun, Cortes & Burges (MNIST, the "IDX" format); Xiao, Rasul & Vollgraf 2017 (Fashion-MNIST).
    """
    require_choice("split", split, _FILES)
    require_instance("path", path, (str, Path), "a path")
    images, labels = (_read(_find(Path(path), name), axes) for name, axes in zip(_FILES[split], (3, 1), strict=True))
    if len(images) != len(labels):
        raise wrong("path", "a folder with a label for every image", f"{path}: {len(images)} and {len(labels)} labels")
    return Dataset(images[:, None] / 255.0, labels)


def _find(folder: Path, name: str) -> Path:
    for file in sorted(folder.glob(f"{name}[-.]idx?-ubyte*")):
        if file.suffix in ("", ".gz") or file.name.endswith("ubyte"):
            return file
    raise FileNotFoundError(f"`path` must be a folder with the file {name}-idx…-ubyte or its .gz, but {folder} is not.")


def _read(file: Path, axes: int) -> UInt8[np.ndarray, "..."]:
    """The array in a file: two zeros, its type (8: bytes), its number of axes, their lengths, its numbers."""
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise wrong("path", "a folder of files that can be read", f"one whose {file.name} cannot ({error})") from error
    begin = 4 + 4 * axes
    shape = np.frombuffer(content[4:begin], ">u4") if len(content) >= begin else []
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) != begin + np.prod(shape, dtype=int):
        raise wrong(
            "path", f"a folder of IDX files of bytes with {axes} axes", f"one whose {file.name} is another file"
        )
    return np.frombuffer(content[begin:], np.uint8).reshape(*map(int, shape))
