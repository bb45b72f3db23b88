"""A function taken apart: what it was given, the names it refers to, its text, and whether it is a library's."""

import ast
import dis
import functools
import os
import pathlib
import sys
import sysconfig
import tokenize
import types
from collections.abc import Iterator, Sequence
from typing import Any

from .literals import digest, literal

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_INSTALLED = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), _PACKAGE})
_STUDIES = os.path.join(_PACKAGE, "studies")  # are used as a user's own functions are


def closure(function: types.FunctionType) -> dict[str, Any]:
    """Variables of the enclosing functions, by name."""
    filled = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            filled[name] = cell.cell_contents
        except ValueError:  # the enclosing function has not come to this variable yet
            continue
    return filled


def defaults(function: types.FunctionType) -> dict[str, Any]:
    """Default arguments, by name."""
    values, code = function.__defaults__ or (), function.__code__
    positional = code.co_varnames[: code.co_argcount][code.co_argcount - len(values) :]
    return dict(zip(positional, values, strict=True)) | (function.__kwdefaults__ or {})


def references(code: types.CodeType) -> set[tuple[str, ...]]:
    """Global names in the code, each with the attributes taken of it: ("module", "function")."""
    found: list[tuple[str, ...]] = []
    for each in _nested(code):
        goes_on = False
        for step in dis.get_instructions(each):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                found.append((step.argval,))
                goes_on = True
            elif goes_on and step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                found[-1] += (step.argval,)
            else:
                goes_on = False
    return set(found)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code and that of all functions written inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def source(code: types.CodeType) -> str:
    """The text of a function, without comments; a digest of the code where no file holds the text that was compiled."""
    try:
        modified = os.stat(code.co_filename).st_mtime_ns
    except OSError:
        return f"bytecode {_bytecode(code)}"
    return _text(code, code.co_filename, modified) or f"bytecode {_bytecode(code)}"


@functools.lru_cache(maxsize=1024)
def _text(code: types.CodeType, path: str, modified: int) -> str | None:
    tree, codes = _parsed(path, modified)
    if code not in codes:  # the file was edited since, or is not what was compiled
        return None
    nodes = list(ast.walk(tree))
    lambdas = [node for node in nodes if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno]
    named = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    named = [node for node in named if node.name == code.co_name and _first_line(node) == code.co_firstlineno]
    node = _innermost(lambdas, code) if code.co_name == "<lambda>" else next(iter(named), None)
    return None if node is None else ast.unparse(node)


def _first_line(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return min(part.lineno for part in (node, *node.decorator_list))


def _innermost(lambdas: Sequence[ast.Lambda], code: types.CodeType) -> ast.Lambda | None:
    """Of lambdas that begin in one line, the one whose body just holds the instructions of the code."""
    if len(lambdas) == 1:
        return lambdas[0]
    places = [(line, column) for line, _, column, end in code.co_positions() if line and end and column is not None]
    bodies = {(each.body.lineno, each.body.col_offset): each for each in lambdas}
    ends = {start: (each.body.end_lineno, each.body.end_col_offset) for start, each in bodies.items()}
    holding = [start for start, end in ends.items() if places and start <= min(places) and max(places) <= end]
    return bodies[max(holding)] if holding else None


@functools.lru_cache(maxsize=16)
def _parsed(path: str, modified: int) -> tuple[ast.AST, frozenset[types.CodeType]]:
    """A file and all functions in it, as of the time that it was modified."""
    try:
        with tokenize.open(path) as file:
            tree = ast.parse(file.read())
        return tree, frozenset(_nested(compile(tree, path, "exec", dont_inherit=True)))
    except (OSError, SyntaxError, ValueError):
        return ast.Module([], []), frozenset()


def _bytecode(code: types.CodeType) -> str:
    constants = [_bytecode(each) if isinstance(each, types.CodeType) else literal(each) for each in code.co_consts]
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    arguments = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    return digest(repr((code.co_code, constants, names, arguments, code.co_exceptiontable)))


def is_installed(function: types.FunctionType) -> bool:
    """Whether the code of a function is a library's, wherever it was bound since."""
    path = function.__code__.co_filename
    if not path.startswith("<"):
        return _is_installed_file(path)
    # Made by `exec`, as are all functions without a file; without a module, they are said to be builtins.
    return function.__module__ not in (None, "builtins") and is_installed_module(function.__module__)


@functools.lru_cache(maxsize=1024)
def _is_installed_file(path: str) -> bool:
    path = os.path.abspath(path)
    if path.startswith(_STUDIES + os.sep):
        return False
    if {"site-packages", "dist-packages"} & set(pathlib.PurePath(path).parts):
        return True
    return any(path.startswith(folder + os.sep) for folder in _INSTALLED)


def is_installed_module(name: str | None) -> bool:
    """Whether a module is a library's."""
    root = (name or "").partition(".")[0]
    if root in ("__main__", "__mp_main__"):  # whatever program unpickles what a script or a notebook defined
        return False
    if root in sys.stdlib_module_names:
        return True
    module = sys.modules.get(root)
    path = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    return path is not None and _is_installed_file(path)
