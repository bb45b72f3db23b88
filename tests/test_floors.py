"""The rooms of the library lie on floors, and imports only go down: read off the sources."""

import ast
from pathlib import Path

import nfa_flow

ROOT = Path(nfa_flow.__file__).parent
FLOORS = (
    ("checks",),
    ("numerics",),
    ("data", "nets"),
    ("problem", "theory"),
    ("run",),
    ("flow", "descent", "measure"),
    ("one_step", "training", "width"),
    ("sweep",),
    ("plot",),
    ("studies",),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def name_of(file):
    """The place of a module below the library: () for the library itself."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


FILES = {name_of(file): file for file in sorted(ROOT.rglob("*.py"))}


def imports(name, nodes):
    """The modules of the library among the imports of a module, each by its place."""
    package = name if FILES[name].name == "__init__.py" else name[:-1]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            written = tuple(node.module.split(".")) if node.module else ()
            parts = (ROOT.name, *package[: len(package) + 1 - node.level], *written) if node.level else written
            if parts[0] == ROOT.name:
                for alias in node.names:
                    yield (*parts[1:], alias.name) if (*parts[1:], alias.name) in FILES else parts[1:]


def parsed(name):
    return ast.parse(FILES[name].read_text(encoding="utf8"))


def test_every_room_has_a_floor_and_only_the_checks_are_loose():
    assert {name[0] for name in FILES if name} == set(FLOOR)
    assert sorted(file.name for file in ROOT.glob("*.py")) == ["__init__.py", "checks.py"]


def test_between_rooms_imports_only_go_down():
    pairs = [(name, each) for name in FILES if name for each in imports(name, ast.walk(parsed(name))) if each]
    upwards = [(name, each) for name, each in pairs if name[0] != each[0] and FLOOR[name[0]] <= FLOOR[each[0]]]
    assert upwards == []


def test_no_module_imports_one_that_imports_it():
    """Not through others either. What a function imports when it is called does not count."""
    graph = {name: [each for each in imports(name, parsed(name).body) if each and each != name] for name in FILES}
    done = set()

    def visit(name, path):
        assert name not in path, " imports ".join(".".join(each) for each in (*path[path.index(name) :], name))
        if name not in done:
            for each in graph[name]:
                visit(each, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())
