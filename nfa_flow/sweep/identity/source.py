"""The parts of a function: its text, its bytecode, the values that it was given, and the names that it refers to."""

import ast
import dataclasses
import dis
import importlib
import importlib.util
import inspect
import textwrap
import types
from collections.abc import Iterator
from typing import Any

from .values import digest, literal

_texts: dict[int, tuple[str, types.CodeType]] = {}  # read once: the file may be edited later


def source(code: types.CodeType) -> str:
    """The text of a function in its file or notebook, without comments and documentation, for people to read.

    "" if there is no text, and for a lambda, because its line contains other code, too.
    """
    if id(code) not in _texts:
        _texts[id(code)] = _text(code), code
    return _texts[id(code)][0]


def _text(code: types.CodeType) -> str:
    try:
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(code))).body
    except (OSError, SyntaxError, ValueError, TypeError, IndexError):
        return ""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return ""
    if ast.get_docstring(node) is not None:
        del node.body[0]
    return ast.unparse(node)


def code(code: types.CodeType) -> str:
    """A digest of the bytecode, even if the file has been edited since; documentation is left out."""
    return digest(repr(_bytecode(code)))


def _bytecode(code: types.CodeType) -> tuple[Any, ...]:
    has_docstring = code.co_name != "<lambda>" and bool(code.co_consts) and isinstance(code.co_consts[0], str)
    constants = ("", *code.co_consts[1:]) if has_docstring else code.co_consts
    inner = [_bytecode(each) if isinstance(each, types.CodeType) else literal(each) for each in constants]
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    arguments = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    return code.co_code, inner, names, arguments, code.co_exceptiontable


def closure(function: types.FunctionType) -> dict[str, Any]:
    """Variables of the enclosing functions, by name."""
    filled = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            filled[name] = cell.cell_contents
        except ValueError:  # the enclosing function has not assigned this variable yet
            continue
    return filled


def defaults(function: types.FunctionType) -> dict[str, Any]:
    """Default arguments, by name."""
    values, code = function.__defaults__ or (), function.__code__
    positional = code.co_varnames[: code.co_argcount][code.co_argcount - len(values) :]
    return dict(zip(positional, values, strict=True)) | (function.__kwdefaults__ or {})


def references(code: types.CodeType) -> set[tuple[str, ...]]:
    """Names that the code uses but does not define, each with the attributes that it takes: ("module", "function")."""
    found: list[tuple[str, ...]] = []
    for each in _nested(code):
        goes_on = False
        for step in dis.get_instructions(each):
            is_global = step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
            if is_global or (step.opname.startswith("LOAD_") and step.argval in code.co_freevars):
                found.append((step.argval,))
                goes_on = True
            elif goes_on and step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                found[-1] += (step.argval,)
            else:
                goes_on = False
    return set(found)


def imports(function: types.FunctionType) -> dict[str, Any]:
    """The modules that the body of a function imports, and the objects that it imports from them, by name."""
    found: dict[str, Any] = {}
    for each in _nested(function.__code__):
        steps = list(dis.get_instructions(each))
        for i, step in enumerate(steps):
            if step.opname != "IMPORT_NAME":
                continue
            level, names = (before.argval for before in steps[i - 2 : i])
            name = "." * level + step.argval
            try:
                name = importlib.util.resolve_name(name, function.__globals__.get("__package__"))
                module = importlib.import_module(name)
                found |= {f"{name}.{each}": getattr(module, each) for each in names} if names else {name: module}
            except Exception:  # the import inside the function would fail, too
                found[name] = "cannot be imported"
    return dict(sorted(found.items()))


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code and that of all functions written inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def members(owner: types.ModuleType | type) -> dict[str, Any]:
    """Everything in a module or in the body of a class that may decide results; and the bases of a class."""
    if isinstance(owner, types.ModuleType):
        return {name: each for name, each in sorted(vars(owner).items()) if not name.startswith("__")}
    found = {f"base.{base.__name__}": base for base in owner.__bases__ if base is not object}
    makes_methods = dataclasses.is_dataclass(owner) or hasattr(owner, "_fields")
    for name, each in sorted(vars(owner).items()):
        member: Any = each
        for attribute in ("fget", "func", "__func__"):  # of a property, a cached one, a static or class method
            member = getattr(member, attribute, member)
        is_special = name.startswith("__")
        if isinstance(member, types.FunctionType):  # except those that a dataclass or named tuple generates
            code = inspect.unwrap(member).__code__
            is_made = (is_special and code.co_filename.startswith("<")) or code.co_qualname.startswith("namedtuple.")
            found |= {} if makes_methods and is_made else {name: member}
        elif not is_special and name != "_abc_impl" and not inspect.isdatadescriptor(member):
            found[name] = member
    return found
