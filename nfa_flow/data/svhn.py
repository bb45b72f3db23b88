"""Street View House Numbers from their published files."""

from pathlib import Path
from typing import Any

import numpy as np

from ..checks import require_choice, require_instance, wrong
from .dataset import Dataset

_SPLITS = ("train", "test", "extra")


def svhn(path: str | Path, *, split: str = "train") -> Dataset:
    """The cropped digits of Street View House Numbers (format 2), with their class labels.

    **Arguments:** `path`: the folder of the published files train_32x32.mat, test_32x32.mat and extra_32x32.mat;
    `split`: "train" (73 257 images), "test" (26 032) or "extra" (531 131).
    **Returns:** n samples of shape 3 × 32 × 32 with values in [0, 1], and labels 0 to 9.
    **Raises:** FileNotFoundError if the file is missing; ValueError for another `split`, and for another file.
    **Source:** Netzer et al. 2011, http://ufldl.stanford.edu/housenumbers.
    """
    from scipy.io import loadmat

    require_choice("split", split, _SPLITS)
    require_instance("path", path, (str, Path), "a path")
    file = Path(path) / f"{split}_32x32.mat"
    if not file.is_file():
        raise FileNotFoundError(f"`path` must be a folder with the file {file.name}, but {path} is not.")
    try:
        content: Any = loadmat(file)
        images, labels = content["X"], content["y"].ravel()
    except Exception as error:  # of many kinds, for a file of another format
        raise wrong("path", "SVHN's folder", f"one whose {file.name} cannot be read ({error})") from error
    is_svhn = images.ndim == 4 and images.dtype == np.uint8 and images.shape[:3] == (32, 32, 3)
    if not is_svhn or images.shape[3] != len(labels) or not set(labels.tolist()) <= set(range(1, 11)):
        raise wrong("path", "SVHN's folder", f"one whose {file.name} does not hold labeled images")
    return Dataset(np.moveaxis(images, (3, 2), (0, 1)) / 255.0, labels % 10)  # 10 stands for the digit 0
