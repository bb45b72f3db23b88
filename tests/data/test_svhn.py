import numpy as np
import pytest
from scipy.io import savemat

from nfa_flow.data import svhn

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)
LABELS = np.array([10, 1, 9, 10], np.uint8)


def write(folder, X=None, y=LABELS, split="test"):
    """As the published files: height × width × color × n, and the digit 0 as the label 10."""
    X = IMAGES.transpose(2, 3, 1, 0) if X is None else X
    savemat(folder / f"{split}_32x32.mat", {"X": X, "y": y[:, None]})
    return folder


def test_images_and_labels_are_those_of_the_file(tmp_path):
    data = svhn(write(tmp_path), split="test")
    np.testing.assert_array_equal(data.x, IMAGES / 255)
    np.testing.assert_array_equal(data.y, [0, 1, 9, 0])


def test_files_that_are_missing_or_others_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="`path` must be a folder with the file train_32x32.mat"):
        svhn(write(tmp_path))
    for content in (dict(X=IMAGES), dict(y=LABELS - 1), dict(y=LABELS[:3])):
        with pytest.raises(ValueError, match="one whose test_32x32.mat does not hold labeled images"):
            svhn(write(tmp_path, **content), split="test")
    (tmp_path / "test_32x32.mat").write_bytes(b"no matrix")
    with pytest.raises(ValueError, match="one whose test_32x32.mat cannot be read"):
        svhn(tmp_path, split="test")
