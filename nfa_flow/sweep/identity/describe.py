"""Descriptions of functions and values that can be compared between processes.

A stored sweep is continued only by the function that began it. A function is described by its text, and by everything
that the text refers to by name: constants, data, and further functions of the user, which are described in the same
way. The user's functions are those in the package of the function, and all that are not installed; functions of
libraries are described by name, and their packages by version. Other objects are described by the data that pickling
keeps of them; an object that cannot be pickled equals no other. So a description may differ without need, but is not
equal without reason: a store is rather refused once too often, and `accept=` keeps its runs.
"""

import dataclasses
import functools
import io
import logging
import pickle
import types
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import jax

from .libraries import is_of_library, package_of, package_text
from .source import closure, code, defaults, imports, members, references, source
from .values import array_text, digest, is_array, is_plain, literal, shortened

NAME, SOURCE = "name", "source"

_SHOWN = (dict, list, tuple, types.SimpleNamespace)  # types of libraries whose objects are described by item
_SETTING: Any = type(jax.default_matmul_precision("highest"))
_unknown: dict[int, tuple[str, Any]] = {}  # id → (text for an unknown content, the object, so that its id stays)


def describe(function: Callable) -> dict[str, str]:
    """Everything that decides the results of a function, one entry each; the same in every process.

    `name`, `source` (the text without comments and documentation) and `code` (a digest of the bytecode) are entries of
    the function itself. All other entries have the names that the code uses: closure variables, default arguments and
    global names, and parts of these after a dot (`helper.source`). `packages.…` are the libraries that it refers to.

    **Arguments:** `function`: any callable, such as a lambda, a method, a partial, a module or a transformed function.
    **Returns:** name → description; numbers and words themselves, digests of arrays and long texts.
    """
    return _entries(function, _home(function))


def describe_value(value: Any) -> str | dict[str, str]:
    """The description of any value: one line if that is complete, otherwise entries as in `describe`."""
    entries = _entries(value, "")
    return entries[NAME] if list(entries) == [NAME] else entries


def _entries(value: Any, home: str) -> dict[str, str]:
    description = _Description(home)
    description.add("", value)
    found = {package: package_text(package) for package in sorted(description.packages)}
    return description.entries | {f"packages.{package}": text for package, text in found.items() if text is not None}


def _home(function: Any) -> str:
    """The package of a function, or of the innermost function inside a wrapped one; "" for this package."""
    while inner := getattr(function, "__wrapped__", getattr(function, "func", getattr(function, "__func__", None))):
        function = inner
    is_whole = isinstance(function, types.FunctionType) and "<locals>" not in function.__qualname__
    package = package_of(function.__module__) if is_whole else ""
    return "" if package == package_of(__name__) else package


class _Description:
    """The entries of a value and of everything that it refers to."""

    def __init__(self, home: str):
        self._home = home  # the package whose code is described even if it is installed
        self.entries: dict[str, str] = {}
        self.packages: set[str] = set()  # names of libraries
        self._seen: dict[int, tuple[str, Any]] = {}  # id → (key, the object, so that no other one gets its id)

    def add(self, key: str, value: Any) -> None:
        """Describe a value under this key, and its parts under keys with a dot."""
        while _checks_types(value):
            value = value.__wrapped__
        if is_plain(value):
            self._put(key, literal(value))
        elif is_code(value) and self._is_offered(value):
            self._put(key, _qualified(value))
        elif not is_code(value) and is_array(value):
            self._put(key, array_text(value))
        elif id(value) in self._seen:
            self._put(key, f"the same as {self._seen[id(value)][0]}")
        else:
            self._seen[id(value)] = key or NAME, value
            self._add_new(key, value)

    def name_of(self, value: Any) -> str:
        """The key of the description of a function, class or module, which is added if there is none yet."""
        name = _qualified(value)
        if self._is_offered(value):
            return name
        if id(value) not in self._seen:
            self.add(name, value)
        return self._seen[id(value)][0]

    def _put(self, key: str, text: str) -> str:
        key = key or NAME
        while key in self.entries:  # such as a global variable with the name of a default argument
            key += "'"
        self.entries[key] = text if key.endswith(SOURCE) else shortened(text)  # so that lines can be compared
        return key

    def _add_each(self, key: str, values: Mapping[Any, Any]) -> None:
        for name, value in values.items():
            self.add(f"{key}.{name}" if key else str(name), value)

    def _is_of_library(self, value: Any) -> bool:
        """Whether a module, class or function is from a library, even if the user has bound it to another name."""
        namespace = getattr(value, "__globals__", None)
        name = getattr(value, "__module__", None) or getattr(value, "__name__", None)
        name, file = (name, None) if namespace is None else (namespace.get("__name__"), namespace.get("__file__"))
        found = package_of(name) != self._home and is_of_library(name, file)
        if found:
            self.packages.add(package_of(name))
        return found

    def _is_offered(self, value: Any) -> bool:
        """Whether a library has it under a name, and has not created it from arguments."""
        return self._is_of_library(value) and "<locals>" not in _qualified(value)

    def _add_new(self, key: str, value: Any) -> None:
        if isinstance(value, types.MethodType):
            self.add(key, value.__func__)
            self._add_each(key, {"self": value.__self__})
        elif isinstance(value, functools.partial):
            self.add(key, value.func)
            self._add_each(key, {f"arguments.{name}": each for name, each in enumerate(value.args)})
            self._add_each(key, {f"arguments.{name}": each for name, each in value.keywords.items()})
        elif isinstance(value, types.FunctionType):
            self._add_function(key, value)
        elif isinstance(value, types.ModuleType | type):
            self._put(key, value.__name__)
            self._add_each(key, members(value))
        elif is_code(value) and hasattr(value, "__wrapped__"):  # compiled, cached, or with derivatives of its own
            self.add(key, value.__wrapped__)
            copied = getattr(value.__wrapped__, "__dict__", {})
            rules = {
                name: rule for name, rule in vars(value).items() if not name.startswith("_") and name not in copied
            }
            self._add_each(key, rules)
        else:
            self._add_object(key, value)

    def _add_function(self, key: str, function: types.FunctionType) -> None:
        if self._is_of_library(function):  # created from arguments by a function of the library, as in an optimizer
            self._put(key, _qualified(function))
            self._add_each(key, closure(function) | defaults(function))
        else:
            self._put(key, function.__code__.co_qualname)
            for name, text in ((SOURCE, source(function.__code__)), ("code", code(function.__code__))):
                self._put(f"{key}.{name}" if key else name, text)
            self._add_each(key, defaults(function) | imports(function))
            self._add_names(key, function)

    def _add_names(self, key: str, function: types.FunctionType) -> None:
        """Describe the variables that a function refers to: those of the functions around it, and global ones."""
        names, found = function.__globals__ | closure(function), {}
        for name, *attributes in sorted(references(function.__code__)):
            if name in names and not name.startswith("__"):  # __name__ depends on the process
                value = names[name]
                while attributes and isinstance(value, types.ModuleType) and not self._is_of_library(value):
                    attribute = attributes.pop(0)
                    name, value = f"{name}.{attribute}", getattr(value, attribute, None)
                found[name] = value
        self._add_each(key, found)

    def _add_object(self, key: str, value: Any) -> None:
        """Describe an object by its parts if it is the user's and has no other content, otherwise by a digest."""
        is_ours, parts = not self._is_of_library(type(value)), _parts(value)
        placed = self._put(key, type(value).__qualname__ if is_ours else _qualified(type(value)))
        if is_ours:
            self._add_each(key, {"type": type(value)})
        if parts is None or not (is_ours or isinstance(value, (*_SHOWN, _SETTING))):
            self.entries[placed] += f" {self._content(value)}"
        else:
            self._add_each(key, parts)

    def _content(self, value: Any) -> str:
        try:
            return self.hashed(value)
        except Exception:  # any error of the object's own code
            return _unknown.setdefault(id(value), (f"of unknown content, {uuid.uuid4()}", value))[0]

    def hashed(self, value: Any) -> str:
        """A digest of all data that pickling keeps of a value. Code is in it by name, and has entries of its own."""
        file = io.BytesIO()
        _Pickler(file, self).dump(value)
        return digest(file.getvalue())


class _Pickler(pickle.Pickler):
    """Writes the same bytes for equal values in every process."""

    def __init__(self, file: io.BytesIO, description: _Description):
        super().__init__(file, protocol=4)
        self.fast = True  # equal parts give the same bytes as shared parts; a value that contains itself fails
        self._description = description

    def persistent_id(self, obj: Any) -> Any:
        """The text to write instead of an object; None if the object is pickled in the usual way."""
        if isinstance(obj, logging.Logger):
            return "logger"  # decides no result, and its name often is that of the process
        if isinstance(obj, set | frozenset):
            return sorted(map(self._description.hashed, obj))
        if is_array(obj):
            return array_text(obj)
        return self._description.name_of(obj) if is_code(obj) else None


def is_code(value: Any) -> bool:
    """Whether a value is a function, class or module, or a function in another form, such as a compiled one."""
    if isinstance(value, types.ModuleType | type):
        return True
    is_bound = not isinstance(getattr(value, "__self__", None), types.ModuleType | type | None)
    return callable(value) and hasattr(value, "__name__") and not is_bound and not dataclasses.is_dataclass(value)


def _qualified(value: Any) -> str:
    """The name of a function, class or module in its library: `numpy.linalg.norm`."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    if isinstance(value, types.FunctionType):
        return f"{value.__globals__.get('__name__')}.{value.__code__.co_qualname}"
    return f"{value.__module__}.{getattr(value, '__qualname__', value.__name__)}"


def _checks_types(value: Any) -> bool:
    """Whether a value is a function whose types beartype or jaxtyping checks, which does not change its results."""
    if not isinstance(value, types.FunctionType) or not hasattr(value, "__wrapped__"):
        return False
    by_jaxtyping = str(value.__globals__.get("__name__")).startswith("jaxtyping.")
    return by_jaxtyping or value.__code__.co_filename.startswith("<@beartype")


def _parts(value: Any) -> Mapping[Any, Any] | None:
    """The parts of an object, by name or place; None if it may have further content."""
    cls: Any = type(value)
    if isinstance(value, _SETTING):  # a setting of JAX that decorates a function
        return {value.state.__name__: value.new_val}
    if cls is dict:
        return value if all(map(is_plain, value)) else dict(enumerate(value.items()))
    if cls in (list, tuple):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
        return fields | getattr(value, "__dict__", {})
    if hasattr(value, "_fields") and isinstance(value, tuple):
        return value._asdict()  # pyright: ignore[reportAttributeAccessIssue]
    is_open = cls.__reduce_ex__ is object.__reduce_ex__ and cls.__reduce__ is object.__reduce__
    if not is_open or cls.__getstate__ is not object.__getstate__:
        return vars(value) if cls is types.SimpleNamespace else None
    state: Any = object.__getstate__(value)
    found = state if isinstance(state, tuple) else (state,)
    return {name: each for attributes in found for name, each in (attributes or {}).items()}
