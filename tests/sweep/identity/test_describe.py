"""An edit of an experiment shows in its description where it was made, and nothing else does, in whatever process."""

import functools
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from sweep.descriptions import OBJECTS, differences

from nfa_flow.sweep.identity.describe import describe

SCRIPT = '''
import helpers

T = 100.0
WORDS = {"alpha", "beta", "gamma"}
DATA = helpers.np.arange(20.0)

class Model:
    scale = 3
    def __init__(self, width): self.width = width
    def __call__(self, x): return helpers.twice(x) * self.scale

MODEL = Model(4)

def helper(x):
    return one_run if x in {"alpha", "beta", "gamma"} else T

def one_run(depth, *, key, steps=7):
    """Its documentation."""
    return helper(depth), DATA, WORDS, MODEL, __name__, (lambda x: x + helpers.SHIFT)(depth)  # a comment
'''
HELPERS = """
import numpy as np
SHIFT = 5
UNUSED = 1
def twice(x): return 2 * x
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Write a module and import it."""

    def load(text, name="experiment"):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(text, path, "exec"), module.__dict__)
        return module

    return load


@pytest.fixture
def experiment(load):
    load(HELPERS, "helpers")
    return load(SCRIPT)


def test_entries_are_called_as_in_the_code(experiment):
    entries = describe(experiment.one_run)
    assert entries["name"] == "one_run"
    assert entries["source"].startswith("def one_run(depth, *, key, steps=7):") and "comment" not in entries["source"]
    assert entries["steps"] == "7"
    assert entries["helper.T"] == "100.0"
    assert entries["helper.one_run"] == "the same as name"
    assert entries["DATA"].startswith("float64[20] ")
    assert entries["WORDS"] == "{'alpha', 'beta', 'gamma'}"
    assert entries["helpers.SHIFT"] == "5"
    assert entries["MODEL"] == "Model" and entries["MODEL.width"] == "4"
    assert entries["MODEL.type.__call__.helpers.twice.source"] == "def twice(x):\n    return 2 * x"
    assert json.loads(json.dumps(entries)) == entries
    assert not {"__name__", "helpers.UNUSED"} & set(entries)


@pytest.mark.parametrize(
    "old, new, changed",
    [
        ("T = 100.0", "T = 1000.0", {"helper.T"}),
        ("arange(20.0)", "arange(20.0) + 1e-12", {"DATA"}),
        ('WORDS = {"alpha"', 'WORDS = {"omega"', {"WORDS"}),
        ("Model(4)", "Model(5)", {"MODEL.width"}),
        ("scale = 3", "scale = 4", {"MODEL.type.scale"}),
        ("* self.scale", "+ self.scale", {"MODEL.type.__call__.source", "MODEL.type.__call__.code"}),
        ("else T", "else -T", {"helper.source", "helper.code"}),
        ("steps=7", "steps=8", {"source", "steps"}),
        ("x + helpers.SHIFT", "x - helpers.SHIFT", {"source", "code"}),
        ("import helpers", "import math\n\nimport helpers", set()),
        ("  # a comment", "  # another one", set()),
        ("Its documentation.", "Another one.", set()),
    ],
)
def test_an_edit_shows_where_it_was_made(experiment, load, old, new, changed):
    before = describe(experiment.one_run)
    assert SCRIPT.count(old) == 1
    assert differences(before, describe(load(SCRIPT.replace(old, new)).one_run)) == changed


def test_an_edit_of_another_module_shows(experiment, load):
    before = describe(experiment.one_run)
    load(HELPERS.replace("2 * x", "3 * x").replace("UNUSED = 1", "UNUSED = 2"), "helpers")
    after = describe(load(SCRIPT).one_run)
    assert differences(before, after) == {f"MODEL.type.__call__.helpers.twice.{name}" for name in ("source", "code")}


IN_MODULE = HELPERS + "def other(x): return x + SHIFT\n"
WAYS = {
    "enclosing": "def make():\n import helpers\n return lambda key: helpers.twice(key)",
    "dictionary": "import helpers\ntools = [{1: helpers}]\ndef make(): return lambda key: tools[0][1].twice(key)",
    "default": "import helpers\ndef make(): return lambda key, tool=helpers: tool.twice(key)",
    "argument": "import helpers, functools\nf = lambda t: t.twice\ndef make(): return functools.partial(f, helpers)",
    "name": "import helpers\ndef make(): return lambda key: getattr(helpers, 'twice')(key)",
    "inside": "def make():\n def f(key):\n  import helpers\n  return helpers.twice(key)\n return f",
    "from": "def make():\n def f(key):\n  from helpers import twice\n  return twice(key)\n return f",
}


@pytest.mark.parametrize("way", WAYS)
def test_an_edit_of_a_module_shows_however_it_is_reached(way, load):
    described = []
    for text in (IN_MODULE, IN_MODULE.replace("SHIFT = 5", "SHIFT = 6"), IN_MODULE.replace("2 * x", "3 * x")):
        load(text, "helpers")
        described.append(describe(load(WAYS[way]).make()))
    original, elsewhere, edited = described
    assert original != edited
    # Where the code takes one function of the module, nothing else in it counts.
    assert (original == elsewhere) == (way in ("enclosing", "from"))


def test_what_cannot_be_imported_is_said():
    def one_run(key):
        import there_is_no_such_module

        return there_is_no_such_module

    assert describe(one_run)["there_is_no_such_module"] == "'cannot be imported'"


EDITED = SCRIPT.replace("a comment", "b comment").replace("depth)  #", "-depth)  #")


def test_what_runs_counts_and_not_what_was_written_to_the_file_since(experiment, tmp_path):
    before = describe(experiment.one_run)
    (tmp_path / "experiment.py").write_text(EDITED)
    assert describe(experiment.one_run) == before


def test_what_was_written_to_the_file_before_the_first_look_does_not_pass_for_what_runs(experiment, load, tmp_path):
    (tmp_path / "experiment.py").write_text(EDITED)
    before = describe(experiment.one_run)
    assert "code" in differences(before, describe(load(EDITED).one_run))


def test_the_description_is_the_same_in_every_process(experiment, tmp_path):
    cloudpickle = pytest.importorskip("cloudpickle")
    modules = [sys.modules[name] for name in ("experiment", "helpers")]
    namespace = {}
    exec("def in_memory(x, words={'alpha', 'beta'}): return x if x in {'gamma', 'delta'} else [words]", namespace)
    objects = [each() for each in OBJECTS] + [{len, sum, "a", "b"}, np.random.default_rng(0)]
    holder = functools.partial(max, *objects)
    functions = [experiment.one_run, namespace["in_memory"], experiment.Model(2), holder]
    (tmp_path / "by_name").write_bytes(cloudpickle.dumps(functions))
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    (tmp_path / "by_value").write_bytes(cloudpickle.dumps(functions))
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)
    # As a script, the module is called otherwise; sets have another order with another seed.
    code = (
        "import cloudpickle, json, runpy; from nfa_flow.sweep.identity.describe import describe; "
        "by_value = cloudpickle.load(open('by_value', 'rb')); by_name = cloudpickle.load(open('by_name', 'rb')); "
        "script = runpy.run_path('experiment.py', run_name='__main__')['one_run']; "
        "print(json.dumps([describe(each) for each in (*by_value, *by_name, script)]))"
    )
    environment = {
        "PYTHONHASHSEED": "7",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        "JAX_PLATFORMS": "cpu",
    }
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, check=True)
    here = [describe(each) for each in (*functions, *functions, experiment.one_run)]
    found = [differences(*pair) for pair in zip(json.loads(run.stdout), here, strict=True)]
    # What was sent by value has no file any more, and so no text; what runs is the same.
    assert all(name.endswith("source") for names in found[:4] for name in names) and found[4:] == [set()] * 5


def test_what_surrounds_a_lambda_does_not_count(load):
    first, second = (load(f"a = dict(power=lambda d: 1 / d, seed=range({n}))").a["power"] for n in (8, 64))
    assert describe(first) == describe(second)
