"""Data sets of other libraries: sequences of pairs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..checks import require_integer, wrong
from .dataset import Dataset


def from_torch(pairs: Any, samples: int | None = None) -> Dataset:
    """A map-style `torch.utils.data.Dataset`, such as one of torchvision, or any other sequence of pairs (x, y).

    PyTorch is not needed: items may be tensors on the CPU, arrays or numbers. Integer targets become class labels.

    **Arguments:** `pairs`: a sequence of (input, target), all of the same shapes; `samples`: how many of the first
    pairs to take, or None for all.
    **Returns:** the data set.
    **Raises:** ValueError if `pairs` is no sequence of pairs of the same shapes, and as for `Dataset`.
    """
    must_be = "a sequence of pairs (input, target), such as a `torch.utils.data.Dataset`"
    if not hasattr(pairs, "__len__") or not hasattr(pairs, "__getitem__"):
        raise wrong("pairs", must_be, f"a {type(pairs).__name__}")
    if samples is not None:
        require_integer("samples", samples, at_least=1)
    count = len(pairs) if samples is None else min(samples, len(pairs))
    items: Sequence[Any] = [pairs[i] for i in range(count)]
    if not items or any(not isinstance(item, tuple | list) or len(item) != 2 for item in items):
        raise wrong("pairs", must_be, "empty" if not items else "one with items that are not pairs")
    try:
        x, y = (np.stack([np.asarray(each) for each in part]) for part in zip(*items, strict=True))
    except (TypeError, ValueError) as error:
        raise wrong("pairs", f"{must_be}, all of the same shapes", f"one that cannot be stacked ({error})") from error
    return Dataset(x, y)
