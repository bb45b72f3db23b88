"""Every public name with its arguments, as it is listed in public_surface.txt.

    python tests/test_public_surface.py

writes the list anew. Whoever changes it tells users in CHANGELOG.md.
"""

import inspect
import types
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path
from typing import Any

import nfa_flow as nf

LIST = Path(__file__).with_name("public_surface.txt")
PACKAGES = "data nets flow dynamics descent measure theory one_step width plot studies".split()
PLAIN = str | int | float | tuple | None


def test_public_names_and_their_arguments_are_those_of_the_list():
    listed, found = LIST.read_text(encoding="utf-8").splitlines(), list(surface())
    changes = "\n".join(unified_diff(listed, found, "listed", "found", n=0, lineterm=""))
    assert listed == found, (
        f"{changes}\nA public name or its arguments changed. Tell users in CHANGELOG.md, and write the list anew with "
        "`python tests/test_public_surface.py`."
    )


def surface() -> Iterator[str]:
    """One line for each public name; what `nf` has from one of its packages is listed there."""
    listed = {}
    for package in PACKAGES:
        for name, value in _public(getattr(nf, package)):
            listed[id(value)] = f"nf.{package}.{name}"
            yield from _lines(listed[id(value)], value)
    for name, value in _public(nf):
        yield from [f"nf.{name} is {listed[id(value)]}"] if id(value) in listed else _lines(f"nf.{name}", value)


def _public(module: types.ModuleType) -> list[tuple[str, Any]]:
    names = sorted(name for name in vars(module) if not name.startswith("_"))
    return [(name, getattr(module, name)) for name in names if not isinstance(getattr(module, name), types.ModuleType)]


def _lines(name: str, value: Any) -> Iterator[str]:
    if not callable(value):
        yield name
        return
    yield name + _arguments(value)
    if isinstance(value, type):
        for member in sorted(_members(value)):
            found = inspect.getattr_static(value, member)
            is_property = isinstance(found, property) or not callable(getattr(value, member))
            yield f"{name}.{member}" + ("" if is_property else _arguments(getattr(value, member)))


def _members(kind: type) -> set[str]:
    """What a class of this library has beside its fields and what a class of another library defines."""
    ours = [each for each in kind.__mro__ if each.__module__.startswith("nfa_flow")]
    others = {name for each in kind.__mro__ if each not in ours for name in vars(each)}
    fields = {name for each in kind.__mro__ for name in getattr(each, "__annotations__", {})}
    return {name for each in ours for name in vars(each) if not name.startswith("_")} - others - fields


def _arguments(function: Any) -> str:
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=parameter.empty, default=_default(parameter.default))
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty)).replace("Ellipsis", "...")


def _default(value: Any) -> Any:
    """Values that are written in the same way everywhere as they are; `...` for all others."""
    return value if value is inspect.Parameter.empty or isinstance(value, PLAIN) else ...


if __name__ == "__main__":
    LIST.write_text("\n".join(surface()) + "\n", encoding="utf-8")
