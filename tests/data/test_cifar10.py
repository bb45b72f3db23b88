import io
import pickle
import tarfile
from struct import pack

import jax.numpy as jnp
import numpy as np
import pytest

from nfa_flow.data import cifar10

NAMES = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
LABELS = {name: [(3 * k + j) % 10 for j in range(4)] for k, name in enumerate(NAMES)}
IMAGES = {name: np.random.default_rng(k).integers(0, 256, (4, 3072), np.uint8) for k, name in enumerate(NAMES)}
BATCHES = {name: pickle.dumps({b"data": IMAGES[name], b"labels": LABELS[name]}, 2) for name in NAMES}
TRAIN_IMAGES = np.concatenate([IMAGES[name] for name in NAMES[:5]])


def _string(text):
    """As Python 2 pickled it, in a form that Python 3 does not write."""
    content = text if isinstance(text, bytes) else text.encode()
    return b"U" + bytes([len(content)]) + content if len(content) < 256 else b"T" + pack("<i", len(content)) + content


def _published(name):
    """The pickle of a batch in the layout of the published files: by Python 2, protocol 2, with all four entries."""
    images, labels = IMAGES[name], LABELS[name]
    dtype = (
        b"cnumpy\ndtype\n" + _string("u1") + b"K\x00K\x01\x87R(K\x03" + _string("|") + b"NNN" + 2 * b"J\xff\xff\xff\xff"
    )
    shape = b"M" + pack("<H", len(images)) + b"M" + pack("<H", 3072) + b"\x86"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + _string("b") + b"\x87R"
    array = empty + b"(K\x01" + shape + dtype + b"K\x00tb\x89" + _string(images.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    names = b"](" + b"".join(_string(f"image_s_{k:06}.png") for k in range(len(labels))) + b"e"
    entries = {"data": array, "labels": numbers, "batch_label": _string("batch 1 of 5"), "filenames": names}
    return b"\x80\x02}(" + b"".join(_string(key) + value for key, value in entries.items()) + b"u."


PUBLISHED = {
    "cifar-10-batches-py": {name: _published(name) for name in NAMES} | {"batches.meta": b"", "readme.html": b""},
    "cifar-10-batches-bin": {
        f"{name}.bin": np.column_stack([np.uint8(LABELS[name]), IMAGES[name]]).tobytes() for name in NAMES
    }
    | {"batches.meta.txt": b"", "readme.html": b""},
}


def _published_folder(path, files):
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def _published_archive(path, files):
    with tarfile.open(path.with_suffix(".tar.gz"), "w:gz") as archive:
        archive.add(_published_folder(path, files), path.name)
    return path.with_suffix(".tar.gz")


@pytest.mark.parametrize("build", [_published_folder, _published_archive])
@pytest.mark.parametrize("layout", PUBLISHED)
def test_the_layouts_of_the_published_files_are_read(layout, build, tmp_path):
    path = build(tmp_path / layout, PUBLISHED[layout])
    train, test = (cifar10(path, split=split, images=True, standardize=False) for split in ("train", "test"))
    np.testing.assert_allclose(train.x, TRAIN_IMAGES.reshape(-1, 3, 32, 32) / 255, rtol=1e-15)
    assert train.y.tolist() == sum((LABELS[name] for name in NAMES[:5]), [])
    np.testing.assert_allclose(test.x, IMAGES["test_batch"].reshape(-1, 3, 32, 32) / 255, rtol=1e-15)
    assert test.y.tolist() == LABELS["test_batch"]


def test_a_binary_file_of_another_length_is_named(tmp_path):
    path = _published_folder(tmp_path / "bin", {"test_batch.bin": bytes(3073 + 1)})
    with pytest.raises(ValueError, match="`path` must be CIFAR-10's .* one whose test_batch.bin cannot be read"):
        cifar10(path, split="test")


def _folder(tmp_path, **changes):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, content in (BATCHES | changes).items():
        (folder / name).write_bytes(content)
    return folder


def _archive(tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in reversed(NAMES):  # the published archive is not in order either
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(BATCHES[name])
            archive.addfile(member, io.BytesIO(BATCHES[name]))
    return path


@pytest.mark.parametrize("build", [_folder, _archive])
def test_the_training_images_come_in_the_order_of_the_batches(tmp_path, build):
    data = cifar10(build(tmp_path), standardize=False)
    assert (data.samples, data.inputs, data.outputs) == (20, 3072, 10)
    np.testing.assert_allclose(data.x, TRAIN_IMAGES / 255, rtol=1e-15)
    np.testing.assert_array_equal(data.y.argmax(axis=1), np.concatenate([LABELS[name] for name in NAMES[:5]]))
    np.testing.assert_array_equal(data.y.sum(axis=1), np.ones(20))


def test_the_test_images_are_their_own_split(tmp_path):
    data = cifar10(_folder(tmp_path), split="test", standardize=False)
    np.testing.assert_allclose(data.x, IMAGES["test_batch"] / 255, rtol=1e-15)


def test_inputs_are_standardized_unless_asked_otherwise(tmp_path):
    x = cifar10(_folder(tmp_path)).x
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-13)
    np.testing.assert_allclose(jnp.mean(x**2, axis=0), 1, rtol=1e-13)


def test_an_archive_is_read_without_leaving_files(tmp_path):
    cifar10(_archive(tmp_path), split="test")
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-python.tar.gz"]


def test_batches_pickled_by_old_numpy_and_python_2_are_read(tmp_path):
    old = BATCHES["test_batch"].replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core.multiarray" in old
    data = cifar10(_folder(tmp_path, test_batch=old), split="test", standardize=False)
    np.testing.assert_allclose(data.x, IMAGES["test_batch"] / 255, rtol=1e-15)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_names_other_functions_is_refused_before_they_run(tmp_path, protocol):
    content = pickle.dumps({b"data": Trap(tmp_path / "sprung"), b"labels": [0]}, protocol)
    with pytest.raises(ValueError, match=r"`path` .* test_batch cannot be read \(refused _?io.open"):
        cifar10(_folder(tmp_path, test_batch=content), split="test")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps([1, 2], 2),
        pickle.dumps({b"data": IMAGES["test_batch"]}, 2),
        pickle.dumps({b"data": IMAGES["test_batch"], b"labels": [0]}, 2),
        pickle.dumps({b"data": IMAGES["test_batch"], b"labels": [0, 1, 2, 10]}, 2),
        pickle.dumps({b"data": IMAGES["test_batch"].astype(float), b"labels": [0, 1, 2, 3]}, 2),
    ],
    ids=["empty", "text", "list", "no labels", "too few labels", "label 10", "floats"],
)
def test_a_file_that_is_no_batch_is_named(tmp_path, content):
    with pytest.raises(
        ValueError, match="`path` must be CIFAR-10's folder or tar archive, but was one whose test_batch"
    ):
        cifar10(_folder(tmp_path, test_batch=content), split="test")


def test_a_file_that_is_no_archive_is_an_error(tmp_path):
    (tmp_path / "cifar.tar.gz").write_text("not an archive")
    with pytest.raises(ValueError, match="`path` must be CIFAR-10's folder or tar archive, but was .*cifar.tar.gz"):
        cifar10(tmp_path / "cifar.tar.gz")


def test_a_truncated_archive_is_an_error(tmp_path):
    path = _archive(tmp_path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ValueError, match="`path` must be CIFAR-10's folder or tar archive"):
        cifar10(path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError):
        cifar10(tmp_path / "nothing")
    (_folder(tmp_path) / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="`path` must hold the CIFAR-10 files data_batch_3, but"):
        cifar10(tmp_path / "cifar-10-batches-py")


def test_an_unknown_split_is_named(tmp_path):
    with pytest.raises(ValueError, match='`split` must be one of "train", "test", but was \'validation\''):
        cifar10(tmp_path, split="validation")
