"""What a function computes, in words that can be compared.

A stored sweep is resumed only by the function that began it. That function is described by its text, and by everything
that the text refers to by name: constants, data, and functions of the user's own, described likewise. The user's own
are those of the function's package and all that is not installed; libraries count by name alone, their versions are
compared elsewhere. Objects of a library count by what pickling would keep of them; one that cannot be pickled equals no
other, so that nothing stale is resumed. What a function imports in its own body is not seen.
"""

import argparse
import copyreg
import dataclasses
import functools
import importlib
import inspect
import logging
import sys
import types
import uuid
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ...run.drive import is_key
from .environment import package_text
from .functions import closure, defaults, imports, is_of_library, references, source
from .literals import array_text, digest, is_plain, literal, shortened

NAME = "name"
SOURCE = "source"

_MOST_FIELDS = 8  # entries of a dataclass or module; a network has more, and nobody wants to read them one by one
_OPEN = (Mapping, list, tuple, types.SimpleNamespace, argparse.Namespace)  # libraries' containers, shown by item
_PICKLING = ("__reduce__", "__reduce_ex__", "__getstate__")
_UNKNOWN = " of unknown content, "
_MARKS: dict[int, tuple[str, Any]] = {}  # id → (what stands for an unknown content, the object, which keeps the id)
_COMPILED: Any = type(jax.jit(lambda: None))
_SETTING: Any = type(jax.default_matmul_precision("highest"))


def describe(function: Callable) -> dict[str, str]:
    """Everything that decides what a function does, one entry each; it is the same in every process.

    `name` and `source` are its own; every other entry is called as in its code: closure variables, default arguments,
    global names, and with a dot what belongs to them (`helper.source`); `packages.…` are the libraries that it refers
    to. Comments, documentation and formatting do not count. Where no file holds the text of what runs, the bytecode
    stands for it.

    **Arguments:** `function`: any callable: also a lambda, a method, a partial, a module, a transformed function.
    **Returns:** name → description; numbers and words as they are, arrays and long texts by their digest.
    """
    return _entries(function, _home(function))


def describe_value(value: Any) -> str | dict[str, str]:
    """The same for any value: one line where that says it all, otherwise entries as of `describe`."""
    entries = _entries(value, "")
    return entries[NAME] if list(entries) == [NAME] else entries


def _entries(value: Any, home: str) -> dict[str, str]:
    description = _Description(home)
    description.add("", value)
    found = {root: package_text(root) for root in sorted(description.packages)}
    return description.entries | {f"packages.{root}": text for root, text in found.items() if text is not None}


class _Description:
    """Entries of a value and of what it refers to."""

    def __init__(self, home: str = ""):
        self._home = home  # the package whose code is described even where it is installed
        self.entries: dict[str, str] = {}
        self.packages: set[str] = set()  # of libraries, by name
        self._seen: dict[int, tuple[str, Any]] = {}  # id → (key, the object, which keeps the id its own)
        self._contents: dict[int, tuple[str, Any]] = {}  # likewise, of what only its digest shows

    def add(self, key: str, value: Any) -> None:
        """Describe a value under this key, what belongs to it under keys with a dot."""
        if is_plain(value):
            self._put(key, literal(value))
        elif isinstance(value, types.ModuleType):
            self._add_module(key, value)
        elif isinstance(value, type):
            self._add_class(key, value)
        elif is_key(value) or (hasattr(type(value), "__array__") and not isinstance(value, Mapping)):
            self._put(key, array_text(value))
        elif _is_offered(value):
            self._put(key, _qualified(value))
        elif isinstance(value, _SETTING):  # of JAX, for what it decorates
            setting: Any = value
            self._put(key, f"{setting.state.__name__} = {literal(setting.new_val)}")
        elif isinstance(value, types.MethodType):
            self.add(key, value.__func__)
            self.add(_join(key, "self"), value.__self__)
        elif isinstance(value, functools.partial):
            self.add(key, value.func)
            self._add_each(_join(key, "arguments"), {**dict(enumerate(value.args)), **value.keywords})
        elif isinstance(value, types.FunctionType):
            self._add_function(key, value)
        elif _wrapped(value) is not None:
            self._add_wrapper(key, value)
        else:
            self._add_object(key, value)

    def _put(self, key: str, text: str) -> str:
        key = key or NAME
        while key in self.entries:  # a global that is called as a default argument is
            key += "'"
        self.entries[key] = text if key.endswith(SOURCE) else shortened(text)  # so that lines can be compared
        return key

    def _add_each(self, key: str, values: Mapping[Any, Any]) -> None:
        for name, value in values.items():
            self.add(_join(key, str(name)), value)

    def _is_new(self, key: str, value: Any) -> bool:
        """Whether an object that may refer to itself is met for the first time; otherwise say where it was."""
        if id(value) in self._seen:
            self._put(key, f"the same as {self._seen[id(value)][0]}")
            return False
        self._seen[id(value)] = key or NAME, value
        return True

    def _is_of_library(self, value: Any) -> bool:
        """Whether a library made a module, class or function, wherever it was bound since."""
        if isinstance(value, types.FunctionType):
            name, file = value.__globals__.get("__name__"), value.__globals__.get("__file__")
        else:
            name, file = getattr(value, "__module__", None) or getattr(value, "__name__", None), None
        return self._is_library(name, file)

    def _is_library(self, module: str | None, file: str | None = None) -> bool:
        found = _package(module) != self._home and is_of_library(module, file)
        if found:
            self.packages.add(_package(module))
        return found

    def _add_module(self, key: str, module: types.ModuleType) -> None:
        if self._is_of_library(module):
            self._put(key, module.__name__)
        elif self._is_new(key, module):
            self._put(key, module.__name__)
            self._add_each(
                key, {name: each for name, each in sorted(vars(module).items()) if not name.startswith("__")}
            )

    def _add_function(self, key: str, function: types.FunctionType) -> None:
        code = function.__code__
        if _checks_types(function):
            self.add(key, function.__wrapped__)  # pyright: ignore[reportFunctionMemberAccess]
        elif not self._is_of_library(function):
            if self._is_new(key, function):
                self._put(key, code.co_qualname)
                self._put(_join(key, SOURCE), source(function))
                self._add_each(key, defaults(function))
                self._add_names(key, function)
                self._add_imports(key, function)
        elif not _is_closed(function):
            self._put(key, _qualified(function))
        elif self._is_new(key, function):  # what a library function made of its arguments, such as an optimizer
            self._put(key, f"{function.__globals__.get('__name__')}.{code.co_qualname}")
            self._add_each(key, closure(function) | defaults(function))

    def _add_names(self, key: str, function: types.FunctionType) -> None:
        """What a function refers to: variables of the functions around it, and global ones."""
        names, found = function.__globals__ | closure(function), {}
        for name, *attributes in sorted(references(function.__code__)):
            if name in names and not name.startswith("__"):  # __name__ depends on the process
                value = names[name]
                while attributes and isinstance(value, types.ModuleType) and not self._is_of_library(value):
                    attribute = attributes.pop(0)
                    name, value = f"{name}.{attribute}", getattr(value, attribute, None)
                found[name] = value
        self._add_each(key, found)

    def _add_imports(self, key: str, function: types.FunctionType) -> None:
        for module, name in sorted(imports(function), key=str):
            try:
                if self._is_library(module):
                    continue
                value = importlib.import_module(module)
                value = value if name is None else getattr(value, name)
            except Exception:  # as the function's own import will, where it comes to that
                value = "cannot be imported"
            self.add(_join(key, f"{module}.{name}" if name else module), value)

    def _add_class(self, key: str, cls: type) -> None:
        if self._is_of_library(cls):
            self._put(key, _qualified(cls))
        elif self._is_new(key, cls):
            self._put(key, cls.__qualname__)
            self._add_each(key, dict(sorted(_members(cls).items())))
            self._add_each(_join(key, "base"), {base.__name__: base for base in cls.__bases__ if base is not object})

    def _add_wrapper(self, key: str, wrapper: Any) -> None:
        """A function compiled or with derivatives of its own, by what it wraps and the rules it was given."""
        wrapped = innermost = _wrapped(wrapper)
        while _wrapped(innermost) is not None:
            innermost = _wrapped(innermost)
        if isinstance(innermost, types.FunctionType) and not _is_closed(innermost) and self._is_of_library(innermost):
            self._put(key, _qualified(innermost))
        elif self._is_new(key, wrapper):
            self.add(key, wrapped)
            copied = getattr(wrapped, "__dict__", {})
            rules = {name: rule for name, rule in vars(wrapper).items() if name not in copied and rule is not wrapped}
            self._add_each(key, {name: rule for name, rule in rules.items() if not name.startswith("_")})

    def _add_object(self, key: str, value: Any) -> None:
        """Anything else, by its type and its contents: one by one where people wrote them, otherwise by a digest."""
        cls, name = type(value), getattr(value, "__name__", None)
        is_ours = not self._is_of_library(cls)
        if (is_ours or id(value) in self._seen) and not self._is_new(key, value):
            return
        if hasattr(value, "__qualname__") and self._is_of_library(value):
            self._put(key, _qualified(value))  # functions that have no code
            return
        text = cls.__qualname__ if is_ours else _qualified(cls)
        placed = self._put(key, f"{text} {name}" if isinstance(name, str) else text)
        if is_ours:
            self.add(_join(key, "type"), cls)
        before = len(self.entries)
        contents = _contents(value, is_ours)
        self._add_each(key, contents)
        if _keeps_more(value, contents, is_ours):
            self.entries[placed] += self._content(value)
        elif dataclasses.is_dataclass(value) and len(self.entries) - before > _MOST_FIELDS:
            fields = [self.entries.popitem() for _ in range(len(self.entries) - before)]
            self.entries[placed] += f" {digest(repr(fields))}"

    def _content(self, value: Any) -> str:
        """Digest of what pickling would keep, nothing if it keeps nothing; a mark of its own where that is unknown."""
        if id(value) not in self._contents:
            try:
                parts = {"elements": self._sorted(value)} if isinstance(value, set | frozenset) else _parts(value)
                text = f" {self._digest_within(value, parts)}" if parts else ""
            except (_Unknown, RecursionError):
                text = _mark(value)
            self._contents[id(value)] = text, value
        return self._contents[id(value)][0]

    def _sorted(self, elements: set | frozenset) -> list[str]:
        return sorted(self._digest_within(elements, each) for each in elements)

    def _digest_within(self, owner: Any, part: Any) -> str:
        """Digest of a part of an object, the same wherever the object is found; what refers back to it, ends there."""
        inner = _Description(self._home)
        inner.packages = self.packages
        inner._seen = {**self._seen, id(owner): (NAME, owner)}
        inner._contents = self._contents
        inner.add("", part)
        if any(_UNKNOWN in text for text in inner.entries.values()):
            raise _Unknown  # so that it is said, rather than lost in a digest
        return digest(repr(inner.entries))


class _Unknown(Exception):
    """Nothing tells what an object holds."""


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _qualified(value: Any) -> str:
    """Where a library keeps it: `numpy.linalg.norm`."""
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or type(value).__qualname__
    return f"{getattr(value, '__module__', None) or type(value).__module__}.{name}"


def _package(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _home(function: Any) -> str:
    """The package of a function, of the innermost one where it is wrapped; none for what a library made."""
    while (inner := _inside(function)) is not None:
        function = inner
    if not isinstance(function, types.FunctionType) or _is_closed(function):
        return ""
    package = _package(function.__globals__.get("__name__"))
    return "" if package == _package(__name__) else package


def _inside(function: Any) -> Any:
    """What a partial, a method or a wrapper calls."""
    if isinstance(function, types.MethodType):
        return function.__func__
    return _wrapped(function) or getattr(function, "__wrapped__", getattr(function, "func", None))


def _wrapped(value: Any) -> Any:
    """The function inside of one that was compiled, cached or given derivatives of its own; otherwise None."""
    if isinstance(value, _COMPILED):
        return value.__getstate__()["fun"]  # once unpickled, it has no `__wrapped__`
    is_other = isinstance(value, types.FunctionType) or dataclasses.is_dataclass(value)
    return None if is_other else getattr(value, "__dict__", {}).get("__wrapped__")


def _is_offered(value: Any) -> bool:
    """Whether a library offers this method as a function, as `random.gauss` is one of a generator that it hides."""
    owner, name = getattr(value, "__self__", None), getattr(value, "__name__", None)
    if not isinstance(value, types.MethodType | types.BuiltinMethodType) or not isinstance(name, str):
        return False
    module = type(owner).__module__
    return is_of_library(module) and getattr(sys.modules.get(module), name, None) == value


def _checks_types(function: types.FunctionType) -> bool:
    """Whether it is another function with its types checked, by beartype or jaxtyping, which decides no result."""
    by_jaxtyping = str(function.__globals__.get("__name__")).startswith("jaxtyping.")
    return hasattr(function, "__wrapped__") and (by_jaxtyping or function.__code__.co_filename.startswith("<@beartype"))


def _is_closed(function: types.FunctionType) -> bool:
    """Whether it was made inside another function, from arguments of that one."""
    return "<locals>" in function.__code__.co_qualname


def _contents(value: Any, is_ours: bool) -> dict[Any, Any]:
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names if hasattr(value, name)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return value._asdict()  # pyright: ignore[reportAttributeAccessIssue]
    own = _attributes(value) if is_ours or isinstance(value, types.SimpleNamespace | argparse.Namespace) else {}
    if isinstance(value, Mapping):
        return {**own, **(value if all(map(is_plain, value)) else dict(enumerate(value.items())))}
    return {**own, **dict(enumerate(value))} if isinstance(value, list | tuple) else own


def _attributes(value: Any) -> dict[str, Any]:
    """Instance variables, also those in `__slots__`."""
    state = object.__getstate__(value)
    found: Any = state if isinstance(state, tuple) else (state,)
    return {name: each for attributes in found for name, each in (attributes or {}).items()}


def _keeps_more(value: Any, contents: Mapping, is_ours: bool) -> bool:
    """Whether an object may hold what its contents do not show, as that of a class written in C does."""
    if dataclasses.is_dataclass(value) or isinstance(value, logging.Logger):
        return False  # what a logger writes decides no result, and its name often is the process's
    if not is_ours:
        return not isinstance(value, _OPEN)
    cls = type(value)
    return not contents or any(getattr(cls, name) is not getattr(object, name) for name in _PICKLING)


def _parts(value: Any) -> dict[str, Any]:
    """What pickling would keep of an object, beyond its type."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of types that are not to be pickled in later versions
            reduce = copyreg.dispatch_table.get(type(value))
            reduced = reduce(value) if reduce else value.__reduce_ex__(2)
            if isinstance(reduced, str):
                return {"global": reduced}
            names = ("maker", "arguments", "state", "items", "entries", "setter")
            parts: dict[str, Any] = {name: part for name, part in zip(names, reduced, strict=False) if part is not None}
            parts |= {name: list(parts[name]) for name in ("items", "entries") if name in parts}
    except Exception as error:  # it is the object's own code that fails, in whatever way
        raise _Unknown from error
    plainly = object().__reduce_ex__(2)[0]  # calls the type alone
    if parts["maker"] is plainly and parts["arguments"] == (type(value),):
        del parts["maker"], parts["arguments"]
    return parts


def _mark(value: Any) -> str:
    """What equals that of no other object, and of no other process."""
    mark, _ = _MARKS.setdefault(id(value), (f"{_UNKNOWN}{uuid.uuid4()}", value))
    return mark


def _members(cls: type) -> dict[str, Any]:
    """What was written in the body of a class, as far as it decides anything."""
    members = {name: _function_of(member) for name, member in vars(cls).items()}
    return {name: member for name, member in members.items() if _is_written(name, member, cls)}


def _function_of(member: Any) -> Any:
    if isinstance(member, property):
        return member.fget
    if isinstance(member, functools.cached_property):
        return member.func
    return member.__func__ if isinstance(member, staticmethod | classmethod) else member


def _is_written(name: str, member: Any, cls: type) -> bool:
    is_special = name.startswith("__")
    if isinstance(member, types.FunctionType):  # all but what a dataclass or a named tuple makes from its fields
        code = inspect.unwrap(member).__code__
        is_of_dataclass = is_special and dataclasses.is_dataclass(cls) and code.co_filename.startswith("<")
        is_of_tuple = hasattr(cls, "_fields") and (name == "__new__" or code.co_qualname.startswith("namedtuple."))
        return not (is_of_dataclass or is_of_tuple)
    return not is_special and name != "_abc_impl" and not inspect.isdatadescriptor(member)
