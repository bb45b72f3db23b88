"""The text of a value that describes it completely, and digests of values that are too long to read."""

import enum
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ...run.drive import is_key

_LONGEST = 2000  # characters of an entry
_MOST_NUMBERS = 4  # of an array, written out
_ATOMS = (bool, int, float, complex, str, bytes, type(None), type(...), slice, range)
_ATOMS += (enum.Enum, pathlib.PurePath, jax.Device, np.dtype, np.generic)
_BRACKETS = {list: "[{}]", tuple: "({})", set: "{{{}}}", frozenset: "{{{}}}"}


def is_plain(value: Any) -> bool:
    """Whether the `literal` of a value describes it completely."""
    if type(value) is dict:
        return is_plain([*value.keys(), *value.values()])
    return all(map(is_plain, value)) if type(value) in _BRACKETS else isinstance(value, _ATOMS)


def literal(value: Any) -> str:
    """The repr of a value, with sets in the same order in every process."""
    if type(value) is dict:
        return f"{{{', '.join(f'{literal(name)}: {literal(each)}' for name, each in value.items())}}}"
    if type(value) not in _BRACKETS:
        return repr(value)
    items = map(literal, value)
    return _BRACKETS[type(value)].format(", ".join(sorted(items) if isinstance(value, set | frozenset) else items))


def is_array(value: Any) -> bool:
    """Whether a value is an array of numbers or of PRNG keys."""
    return is_key(value) or (hasattr(type(value), "__array__") and not isinstance(value, Mapping | np.generic))


def array_text(value: Any) -> str:
    """Type and shape of an array or a PRNG key, with its numbers if they are few, otherwise with their digest."""
    array = np.asarray(jax.random.key_data(value) if is_key(value) else value)
    kind = f"{getattr(value, 'dtype', array.dtype)}{list(np.shape(value))}"
    if array.size <= _MOST_NUMBERS:
        return f"{kind} {array.tolist()}"
    return f"{kind} {digest(repr(array.tolist()) if array.dtype.hasobject else array.tobytes())}"


def digest(content: str | bytes) -> str:
    """Sixteen characters that differ if the contents differ."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]


def shortened(text: str) -> str:
    """The text, or its beginning and its digest if it is long."""
    return text if len(text) <= _LONGEST else f"{text.splitlines()[0][:80]} … {len(text)} characters {digest(text)}"
