"""CelebA, faces with attributes, from its published files."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from ..checks import require_choice, require_instance, require_integer, wrong
from .dataset import Dataset

_SPLITS = {"train": 0, "validation": 1, "test": 2}
_SQUARE = (0, 20, 178, 198)  # left, upper, right and lower edge of the middle of an image of 178 × 218 pixels


def celeba(
    path: str | Path, attribute: str, *, split: str = "train", size: int = 64, samples: int | None = None
) -> Dataset:
    """Aligned faces of CelebA, with the labels of one attribute.

    **Arguments:** `path`: the folder with img_align_celeba (a folder of .jpg files), list_attr_celeba.txt and
    list_eval_partition.txt; `attribute`: one of the 40 in list_attr_celeba.txt, such as "Smiling"; `split`: "train"
    (162 770 images), "validation" (19 867) or "test" (19 962); `size`: of the images, whose middle square is scaled
    to it; `samples`: how many of the first images of the split to read, or None for all.
    **Returns:** n samples of shape 3 × size × size with values in [0, 1], and labels 1 (the face has the attribute)
    and 0.
    **Raises:** FileNotFoundError if a file is missing; ValueError for another `attribute` or `split`, and for files
    that are not those of CelebA.
    **Source:** Liu, Luo, Wang & Tang 2015 (CelebA).
    """
    require_choice("split", split, _SPLITS)
    require_instance("path", path, (str, Path), "a path")
    require_integer("size", size, at_least=1)
    if samples is not None:
        require_integer("samples", samples, at_least=1)
    folder = Path(path)
    _, names, *rows = _lines(folder, "list_attr_celeba.txt")
    require_choice("attribute", attribute, names.split())
    column = 1 + names.split().index(attribute)
    has_attribute = {fields[0]: fields[column] == "1" for fields in map(str.split, rows)}
    parts = map(str.split, _lines(folder, "list_eval_partition.txt"))
    files = [name for name, part in parts if int(part) == _SPLITS[split]][:samples]
    missing = [name for name in files if name not in has_attribute]
    if missing or not files:
        what = f"no attributes of {missing[0]}" if missing else f"no images of the split {split!r}"
        raise wrong("path", "CelebA's folder, in which both lists agree", f"{path}, with {what}")
    images = np.stack([_image(folder / "img_align_celeba" / name, size) for name in files])
    return Dataset(images, np.array([has_attribute[name] for name in files], int))


def _lines(folder: Path, name: str) -> list[str]:
    if not (folder / name).is_file():
        raise FileNotFoundError(f"`path` must be CelebA's folder, with {name}, but {folder} is not.")
    lines = [line for line in (folder / name).read_text().splitlines() if line.strip()]
    if len(lines) < 3 and name.startswith("list_attr"):
        raise wrong("path", "CelebA's folder", f"one whose {name} does not hold attributes")
    return lines


def _image(file: Path, size: int) -> Float[np.ndarray, "3 size size"]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            if image.size != (178, 218):
                raise wrong(
                    "path",
                    "CelebA's folder, with aligned images of 178 × 218",
                    f"one of {image.width} × {image.height} pixels",
                )
            square = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=_SQUARE)
    except FileNotFoundError:
        raise FileNotFoundError(f"`path` must be CelebA's folder, with all images, but there is no {file}.") from None
    except (UnidentifiedImageError, OSError) as error:
        raise wrong("path", "CelebA's folder", f"one whose {file.name} cannot be read ({error})") from error
    return np.moveaxis(np.asarray(square, np.float32), 2, 0) / 255
