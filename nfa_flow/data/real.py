"""Real data: two small sets from scikit-learn, sets of OpenML by name, and your own arrays.

scikit-learn is imported when it is used, so that importing this library stays fast.
"""

import zipfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
from jaxtyping import Float, Shaped

from ..checks import require_choice, require_instance, require_integer, wrong
from .dataset import Dataset
from .whitening import standardize, standardized_columns


def digits(*, images: bool = False) -> Dataset:
    """Handwritten digits: 1797 images of 8 × 8 pixels, ten classes; inputs standardized.

    Pixels with the same value in all images become 0.

    **Arguments:** `images`: whether samples have the shape 1 × 8 × 8 and their class labels, 0 to 9, for convolutional
    networks and the cross entropy.
    **Returns:** 1797 samples, 64 inputs, 10 outputs that are one-hot targets; or images and labels.
    **Source:** `sklearn.datasets.load_digits` (installed with scikit-learn, nothing is downloaded).
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    if images:
        return standardize(Dataset(bunch.images[:, None], bunch.target))
    return standardize(Dataset(bunch.data, one_hot(bunch.target)))


def diabetes() -> Dataset:
    """Diabetes progression of 442 patients from ten measurements; inputs and target standardized.

    **Returns:** 442 samples, 10 inputs, 1 output.
    **Source:** `sklearn.datasets.load_diabetes` (installed with scikit-learn, nothing is downloaded).
    """
    from sklearn.datasets import load_diabetes

    bunch: Any = load_diabetes()
    data = standardize(Dataset(bunch.data, bunch.target))
    return Dataset(data.x, standardized_columns(data.y, data.sample_weight)[0])


def openml(name: str, *, version: int | str = 1, cache: str | Path | None = None) -> Dataset:
    """A data set of openml.org by name, such as "mnist_784"; inputs are not changed (see `standardize`).

    Categorical targets become one-hot columns in the sorted order of their labels, numeric ones stay one column each.

    **Arguments:**
    - `name`: on openml.org.
    - `version`: a number, or "active" for the version that OpenML recommends.
    - `cache`: folder for downloaded files; scikit-learn's (`SCIKIT_LEARN_DATA` or ~/scikit_learn_data) if None.

    **Returns:** n samples with the inputs and the default target of the data set.
    **Raises:** ValueError for a data set that does not exist, or has categorical inputs or missing values;
    ConnectionError if OpenML cannot be reached and the folder has no copy.
    """
    import scipy.sparse
    from sklearn.datasets import fetch_openml, get_data_home

    if isinstance(version, str):
        require_choice("version", version, ["active"])
    else:
        require_integer("version", version, at_least=1)
    try:
        bunch: Any = fetch_openml(name, version=version, data_home=cache, as_frame=False)
    except (URLError, TimeoutError, ConnectionError) as error:
        raise ConnectionError(
            f"OpenML could not be reached for {name!r} ({error}). A cached copy is used when there is one, "
            f"but {Path(get_data_home(cache)) / 'openml'} has none that is complete."
        ) from error
    categorical = [feature for feature in bunch.feature_names if feature in bunch.categories]
    if categorical:
        raise wrong("name", "a data set of numeric inputs", f"{name!r}, with categories in {', '.join(categorical)}")
    x = np.asarray(bunch.data.toarray() if scipy.sparse.issparse(bunch.data) else bunch.data, float)
    missing = int(np.isnan(x).sum())
    if missing:
        raise wrong("name", "a data set without missing values", f"{name!r}, with {missing} inputs missing")
    targets = bunch.target.reshape(len(x), -1)
    if not np.issubdtype(targets.dtype, np.number):
        targets = np.hstack([one_hot(column) for column in targets.T])
    return Dataset(x, targets)


def load_npz(path: str | Path) -> Dataset:
    """The arrays `x`, `y` and, if there is one, `weight` of a NumPy .npz archive, unchanged.

    Nothing is unpickled: arrays of Python objects are refused.

    **Arguments:** `path`: a file such as `np.savez(path, x=x, y=y)` writes; labels that are classes should be one-hot.
    **Returns:** the data set.
    **Raises:** FileNotFoundError; ValueError for another kind of file, missing or object arrays, and as for `Dataset`.
    """
    require_instance("path", path, (str, Path), "a path")
    if not Path(path).is_file():
        raise FileNotFoundError(f"`path` must be a NumPy .npz archive, but there is no file {path}.")
    try:
        archive = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise wrong("path", "a NumPy .npz archive", f"{path}, which cannot be read as one ({error})") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise wrong("path", "a NumPy .npz archive", f"{path}, which holds a single array")
    with archive:
        missing = [name for name in ("x", "y") if name not in archive]
        if missing:
            found = ", ".join(archive.files) or "nothing"
            raise wrong("path", "an archive with the arrays `x` and `y`", f"{path}, which holds {found}")
        return Dataset(**{name: _plain(archive, name, path) for name in ("x", "y", "weight") if name in archive})


def one_hot(labels: Shaped[np.ndarray, " n"]) -> Float[np.ndarray, "n c"]:
    """One column for each distinct label, in sorted order: 1 where a sample has that label, else 0."""
    classes, codes = np.unique(labels, return_inverse=True)
    return np.eye(len(classes))[codes]


def _plain(archive: np.lib.npyio.NpzFile, name: str, path: str | Path) -> np.ndarray:
    try:
        return archive[name]
    except (ValueError, zipfile.BadZipFile) as error:  # for Python objects, before they are unpickled
        raise wrong("path", "an archive of plain arrays", f"{path}, where `{name}` cannot be read ({error})") from error
