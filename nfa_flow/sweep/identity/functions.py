"""A function taken apart: what it was given, the names it refers to, its text, and whether it is a library's."""

import ast
import dis
import functools
import importlib.util
import os
import pathlib
import sys
import sysconfig
import tokenize
import types
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from .literals import digest, literal

_PACKAGE = __name__.partition(".")[0]
_OWN = (f"{_PACKAGE}.studies.", f"{_PACKAGE}.cli.")  # count as a user's own
_SCRIPTS = ("__main__", "__mp_main__")  # of whatever program unpickles what a script or a notebook defined
_STDLIB = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})


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


_FROM_CELLS = ("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF")


def references(code: types.CodeType) -> set[tuple[str, ...]]:
    """Names in the code that it does not define, each with the attributes taken of it: ("module", "function")."""
    found: list[tuple[str, ...]] = []
    for each in _nested(code):
        goes_on = False
        for step in dis.get_instructions(each):
            is_global = step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
            if is_global or (step.opname in _FROM_CELLS and step.argval in code.co_freevars):
                found.append((step.argval,))
                goes_on = True
            elif goes_on and step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                found[-1] += (step.argval,)
            else:
                goes_on = False
    return set(found)


def imports(function: types.FunctionType) -> set[tuple[str, str | None]]:
    """What the body of a function imports: a module by its whole name, with a name taken from it, or None."""
    found: set[tuple[str, str | None]] = set()
    package = function.__globals__.get("__package__") or ""
    for each in _nested(function.__code__):
        steps, module = list(dis.get_instructions(each)), ""
        for i, step in enumerate(steps):
            if step.opname == "IMPORT_NAME":
                level, names = (before.argval for before in steps[i - 2 : i])
                module = f"{'.' * level}{step.argval}"
                module = importlib.util.resolve_name(module, package) if level else module
                found |= set() if names else {(module, None)}
            elif step.opname == "IMPORT_FROM":
                found.add((module, step.argval))
    return found


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code and that of all functions written inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def source(function: types.FunctionType) -> str:
    """The text of a function without comments and documentation, or a digest of its bytecode where no file holds it.

    A file may be edited after it was imported, and what was unpickled may have no file but that of its module. So the
    text counts that compiles to what runs, wherever it is in these files, or was when they were looked at before.
    """
    code = function.__code__
    compiled = code.co_qualname, _bytecode(code)
    for path in dict.fromkeys((code.co_filename, function.__globals__.get("__file__"))):
        if path and (text := _texts(path).get(compiled)):
            return text
    return f"bytecode {compiled[1]}"


_NAMED = (ast.FunctionDef, ast.AsyncFunctionDef)
_Compiled = tuple[str, str]  # name and bytecode
_held: dict[str, dict[_Compiled, str]] = {}  # path → texts of its functions


def _texts(path: str) -> dict[_Compiled, str]:
    """Texts of all functions that a file holds, and of those that it held when it was looked at before."""
    try:
        now = _texts_of_version(path, os.stat(path).st_mtime_ns)
    except OSError:
        now = {}
    _held[path] = _held.get(path, {}) | now
    return _held[path]


@functools.lru_cache(maxsize=64)
def _texts_of_version(path: str, modified: int) -> dict[_Compiled, str]:
    try:
        with tokenize.open(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what was told when it was imported
            tree = ast.parse(file.read())
            codes = list(_nested(compile(tree, path, "exec", dont_inherit=True)))
    except (OSError, SyntaxError, ValueError):
        return {}
    nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, _NAMED) and ast.get_docstring(node) is not None:
            del node.body[0]
    found = {(code.co_qualname, _bytecode(code)): _node(nodes, code) for code in reversed(codes)}
    return {compiled: ast.unparse(node) for compiled, node in found.items() if node is not None}


def _node(nodes: Sequence[ast.AST], code: types.CodeType) -> ast.AST | None:
    """What of a file was compiled to a code: a function, or None for the code of a module, class or comprehension."""
    lambdas = [node for node in nodes if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno]
    named = [node for node in nodes if isinstance(node, _NAMED)]
    named = [node for node in named if node.name == code.co_name and _first_line(node) == code.co_firstlineno]
    return _innermost(lambdas, code) if code.co_name == "<lambda>" else next(iter(named), None)


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


def _bytecode(code: types.CodeType) -> str:
    constants = [_bytecode(each) if isinstance(each, types.CodeType) else literal(each) for each in code.co_consts]
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    arguments = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    return digest(repr((code.co_code, constants, names, arguments, code.co_exceptiontable)))


def is_of_library(module: str | None, file: str | None = None) -> bool:
    """Whether a module is a library's: Python's own, an installed package's, or this package's except its experiments.

    **Arguments:** `file`: of the module, where it is known; otherwise it is looked up.
    """
    name = module or ""
    root = name.partition(".")[0]
    if root in _SCRIPTS:
        return False
    if root == _PACKAGE:
        return not f"{name}.".startswith(_OWN)
    file = file or _file_of(name) or _file_of(root) or next(iter(places(root)), None)
    return root in sys.stdlib_module_names if file is None else _is_installed(file)


def _file_of(module: str) -> str | None:
    found = sys.modules.get(module)
    return getattr(found, "__file__", None) or next(iter(getattr(found, "__path__", ())), None)


def places(package: str) -> tuple[str, ...]:
    """The folders of a package, or its file, imported or not; none where it has none."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # not there any more, or made by hand
        return ()
    if spec is None:
        return ()
    return tuple(spec.submodule_search_locations or ([spec.origin] if spec.has_location and spec.origin else []))


@functools.lru_cache(maxsize=1024)
def _is_installed(path: str) -> bool:
    path = os.path.abspath(path)
    in_packages = {"site-packages", "dist-packages"} & set(pathlib.PurePath(path).parts)
    return bool(in_packages) or any(path.startswith(folder + os.sep) for folder in _STDLIB)
