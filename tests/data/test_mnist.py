import gzip

import numpy as np
import pytest

from nfa_flow.data import mnist

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (5, 28, 28), np.uint8), np.array([3, 1, 4, 1, 9], np.uint8)


def idx(array):
    """As the format is described: 0, 0, 8 for bytes, the number of axes, big-endian lengths, the numbers."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write(folder, images=None, labels=None, name="train-{}-idx{}-ubyte"):
    (folder / name.format("images", 3)).write_bytes(idx(IMAGES) if images is None else images)
    (folder / name.format("labels", 1)).write_bytes(idx(LABELS) if labels is None else labels)
    return folder


@pytest.mark.parametrize("name", ["train-{}-idx{}-ubyte", "train-{}.idx{}-ubyte", "train-{}-idx{}-ubyte.gz"])
def test_images_and_labels_are_those_of_the_files(tmp_path, name):
    is_packed = name.endswith(".gz")
    pack = gzip.compress if is_packed else bytes
    data = mnist(write(tmp_path, pack(idx(IMAGES)), pack(idx(LABELS)), name))
    np.testing.assert_array_equal(data.x, IMAGES[:, None] / 255)
    np.testing.assert_array_equal(data.y, LABELS)
    assert data.has_labels and data.x.shape == (5, 1, 28, 28)


def test_the_test_images_have_their_own_files(tmp_path):
    write(write(tmp_path), idx(IMAGES[:2]), idx(LABELS[:2]), "t10k-{}-idx{}-ubyte")
    assert (mnist(tmp_path).samples, mnist(tmp_path, split="test").samples) == (5, 2)


def test_files_that_are_missing_or_others_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="`path` must be a folder with the file train-images-idx"):
        mnist(tmp_path)
    wrong = {"images": idx(IMAGES)[:-1], "labels": idx(IMAGES)}
    for name, content in wrong.items():
        with pytest.raises(ValueError, match=f"one whose train-{name}-idx.-ubyte is another file"):
            mnist(write(tmp_path, **{name: content}))
    with pytest.raises(ValueError, match="a label for every image, but was .*: 5 and 2 labels"):
        mnist(write(tmp_path, labels=idx(LABELS[:2])))
    for file in tmp_path.iterdir():
        file.unlink()
    broken = gzip.compress(idx(IMAGES))[:-20]
    with pytest.raises(ValueError, match="one whose train-images-idx3-ubyte.gz cannot"):
        mnist(write(tmp_path, broken, gzip.compress(idx(LABELS)), "train-{}-idx{}-ubyte.gz"))
    with pytest.raises(ValueError, match='`split` must be one of "train", "test"'):
        mnist(tmp_path, split="extra")
