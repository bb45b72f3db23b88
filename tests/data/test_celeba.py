import numpy as np
import pytest
from PIL import Image

from nfa_flow.data import celeba

NAMES = [f"{k:06}.jpg" for k in range(1, 5)]
GRAYS, SMILES, PARTS = [0, 80, 160, 240], [1, -1, -1, 1], [0, 2, 0, 0]


@pytest.fixture
def folder(tmp_path):
    """Four faces of one gray each, with bright bands above and below the middle square."""
    (tmp_path / "img_align_celeba").mkdir()
    for name, gray in zip(NAMES, GRAYS, strict=True):
        pixels = np.full((218, 178, 3), 255, np.uint8)
        pixels[20:198] = gray
        Image.fromarray(pixels).save(tmp_path / "img_align_celeba" / name, quality=100)
    rows = [f"{name} -1  {smile}" for name, smile in zip(NAMES, SMILES, strict=True)]
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join(["4", "Bald Smiling", *rows]) + "\n")
    parts = [f"{name} {part}" for name, part in zip(NAMES, PARTS, strict=True)]
    (tmp_path / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    return tmp_path


def test_the_middle_of_the_images_comes_with_the_labels_of_the_attribute(folder):
    data = celeba(folder, "Smiling", size=8)
    assert data.x.shape == (3, 3, 8, 8)
    grays = np.array([0, 160, 240]) / 255
    np.testing.assert_allclose(data.x[:, :, 2:6], np.broadcast_to(grays[:, None, None, None], (3, 3, 4, 8)), atol=0.02)
    np.testing.assert_array_equal(data.y, [1, 0, 1])
    assert celeba(folder, "Bald", size=8, samples=2).samples == 2
    np.testing.assert_array_equal(celeba(folder, "Smiling", split="test", size=8).y, [0])


def test_what_is_missing_is_named(folder):
    with pytest.raises(ValueError, match='`attribute` must be one of "Bald", "Smiling"'):
        celeba(folder, "Old")
    with pytest.raises(ValueError, match="with no images of the split 'validation'"):
        celeba(folder, "Bald", split="validation")
    (folder / "img_align_celeba" / NAMES[0]).write_bytes(b"no image")
    with pytest.raises(ValueError, match="one whose 000001.jpg cannot be read"):
        celeba(folder, "Bald")
    Image.new("RGB", (64, 64)).save(folder / "img_align_celeba" / NAMES[0])
    with pytest.raises(ValueError, match="one of 64 × 64 pixels"):
        celeba(folder, "Bald")
    (folder / "img_align_celeba" / NAMES[0]).unlink()
    with pytest.raises(FileNotFoundError, match="with all images, but there is no .*000001.jpg"):
        celeba(folder, "Bald")
    (folder / "list_eval_partition.txt").unlink()
    with pytest.raises(FileNotFoundError, match="with list_eval_partition.txt"):
        celeba(folder, "Bald")
