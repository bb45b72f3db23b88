"""The differences between the settings of a store and those of a call: by name, with the lines that differ."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ABSENT = "absent"
_BEFORE, _AFTER = 20, 40  # characters shown around the first difference of two long texts


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The differences between two nested mappings: names joined with dots → (old value, new value)."""
    before, after = (dict(_flat(settings)) for settings in (old, json.loads(json.dumps(new))))
    pairs = {name: (before.get(name, ABSENT), after.get(name, ABSENT)) for name in dict.fromkeys([*before, *after])}
    return {name: pair for name, pair in pairs.items() if json.dumps(pair[0]) != json.dumps(pair[1])}  # NaN equals NaN


def is_accepted(name: str, accept: Sequence[str]) -> bool:
    """Whether a name, or the first part of it up to a dot, is accepted."""
    return any(name == each or name.startswith(f"{each}.") for each in accept)


def as_text(found: Mapping[str, tuple[Any, Any]]) -> str:
    """The differences as text: one line each, or the lines that differ between two longer texts."""
    return "\n".join(f"  {name}: {_as_text(*pair)}" for name, pair in found.items())


def _as_text(old: Any, new: Any) -> str:
    if isinstance(old, str) and isinstance(new, str) and "\n" in old + new and ABSENT not in (old, new):
        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), n=1, lineterm="")
        return "\n".join(["", *(f"    {line}" for line in list(lines)[2:])])  # after two lines with names of files
    old, new = (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in (old, new))
    alike = next((i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), 0)
    return " → ".join(_around(text, alike) for text in (old, new))


def _around(text: str, place: int) -> str:
    start, end = max(0, place - _BEFORE), place + _AFTER
    if len(text) <= _BEFORE + _AFTER:
        return text
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
