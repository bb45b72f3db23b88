"""What decides a function's result shows in its description, and nothing else does."""

import collections
import dataclasses
import datetime
import decimal
import fractions
import functools
import importlib.util
import json
import logging
import operator
import random
import subprocess
import sys
import threading
import types
import typing

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.interpolate

import nfa_flow as nf
from nfa_flow.studies.nfa import depth
from nfa_flow.sweep.identity import describe, describe_value

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


OBJECTS = [  # of libraries, made anew at each call
    lambda: fractions.Fraction(1, 2),
    lambda: fractions.Fraction(1, 10),
    lambda: decimal.Decimal("0.5"),
    lambda: decimal.Decimal("0.50"),
    lambda: datetime.date(2024, 1, 2),
    lambda: datetime.date(2024, 1, 3),
    lambda: collections.deque([1, 2]),
    lambda: collections.deque([1, 3]),
    lambda: collections.deque([1, 3], maxlen=2),
    lambda: scipy.interpolate.CubicSpline([0.0, 1.0, 2.0], [0.0, 1.0, 4.0]),
    lambda: scipy.interpolate.CubicSpline([0.0, 1.0, 2.0], [0.0, 1.0, 5.0]),
    lambda: operator.itemgetter(0),
    lambda: operator.itemgetter(1),
    lambda: np.random.default_rng(0),
    lambda: np.random.default_rng(1),
    lambda: np.random.RandomState(0),
    lambda: np.random.RandomState(1),
    lambda: random.Random(0),
    lambda: random.Random(1),
]


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


def differences(one, other):
    return {name for name in one | other if one.get(name) != other.get(name)}


def test_entries_are_called_as_in_the_code(experiment):
    entries = describe(experiment.one_run)
    assert entries["name"] == "one_run"
    assert entries["source"].startswith("def one_run(depth, *, key, steps=7):") and "comment" not in entries["source"]
    assert entries["steps"] == "7"
    assert entries["helper.T"] == "100.0"
    assert entries["helper.one_run"] == "the same as name"
    assert entries["DATA"].startswith("float64[20] ")
    assert entries["WORDS"] == "set('alpha', 'beta', 'gamma')"
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
        ("* self.scale", "+ self.scale", {"MODEL.type.__call__.source"}),
        ("else T", "else -T", {"helper.source"}),
        ("steps=7", "steps=8", {"source", "steps"}),
        ("x + helpers.SHIFT", "x - helpers.SHIFT", {"source"}),
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
    assert differences(before, after) == {"MODEL.type.__call__.helpers.twice.source"}


EDITED = SCRIPT.replace("a comment", "b comment").replace("depth)  #", "-depth)  #")


def test_what_runs_counts_and_not_what_was_written_to_the_file_since(experiment, tmp_path):
    before = describe(experiment.one_run)
    (tmp_path / "experiment.py").write_text(EDITED)
    assert describe(experiment.one_run) == before


def test_a_function_that_its_file_no_longer_holds_is_told_by_its_bytecode(experiment, load, tmp_path):
    (tmp_path / "experiment.py").write_text(EDITED.replace("T = 100.0", "import math\n\nT = 100.0"))
    described = describe(experiment.one_run)
    assert described["source"].startswith("bytecode ")
    assert described["helper.source"].startswith("def helper(x):")  # which only moved
    assert differences(described, describe(load(SCRIPT).one_run)) == {"source"}


def test_a_function_under_a_setting_of_jax_counts_with_the_setting():
    under = lambda precision: describe(jax.default_matmul_precision(precision)(_double))
    assert differences(under("highest"), under("highest")) == set()
    assert differences(under("highest"), under("default")) == {"self"}
    assert under("highest")["self"] == "default_matmul_precision = 'highest'"


def _double(x):
    return 2 * x


def test_the_description_is_the_same_in_every_process(experiment, tmp_path):
    cloudpickle = pytest.importorskip("cloudpickle")
    modules = [sys.modules[name] for name in ("experiment", "helpers")]
    namespace = {}
    exec("def in_memory(x, words={'alpha', 'beta'}): return x if x in {'gamma', 'delta'} else [words]", namespace)
    objects = [each() for each in OBJECTS] + [{len, sum, "a", "b"}, np.random.default_rng(0)]
    holder = functools.partial(max, *objects)
    functions = [experiment.one_run, namespace["in_memory"], jax.jit(experiment.Model(2)), holder]
    (tmp_path / "by_name").write_bytes(cloudpickle.dumps(functions))
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    (tmp_path / "by_value").write_bytes(cloudpickle.dumps(functions))
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)
    # As a script, the module is called otherwise; sets have another order with another seed.
    code = (
        "import cloudpickle, json, runpy; from nfa_flow.sweep.identity import describe; "
        "by_value = cloudpickle.load(open('by_value', 'rb')); by_name = cloudpickle.load(open('by_name', 'rb')); "
        "script = runpy.run_path('experiment.py', run_name='__main__')['one_run']; "
        "print(json.dumps([describe(each) for each in (*by_value, *by_name, script)]))"
    )
    environment = {"PYTHONHASHSEED": "7", "PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, check=True)
    here = [describe(each) for each in (*functions, *functions, experiment.one_run)]
    assert [differences(*pair) for pair in zip(json.loads(run.stdout), here, strict=True)] == [set()] * 9


def test_code_without_a_file_is_told_by_its_bytecode():
    def make(text):
        exec(text, namespace := {})
        return describe(namespace["f"])

    first = make("def f(x): return x + 1")
    assert first["source"].startswith("bytecode ")
    assert first == make("\ndef f(x):\n  # a comment\n  return x + 1")
    assert differences(first, make("def f(x): return x + 2")) == {"source"}
    assert differences(first, make("def f(x): return x + y")) == {"source"}
    assert differences(first, make("def f(x): return (lambda z: z + 1)(x)")) == {"source"}


def test_lambdas_that_share_a_line_are_told_apart():
    both = (lambda x: x + 1, lambda x: (lambda y: 2 * y)(x))
    assert [describe(each)["source"] for each in both] == ["lambda x: x + 1", "lambda x: (lambda y: 2 * y)(x)"]


def test_what_surrounds_a_lambda_does_not_count(load):
    first, second = (load(f"a = dict(power=lambda d: 1 / d, seed=range({n}))").a["power"] for n in (8, 64))
    assert describe(first) == describe(second)


def test_closure_variables_show_and_empty_ones_do_not_hurt():
    def make(scale):
        def run(x):
            return scale * x, later

        if scale > 2:
            later = 1
        return run

    assert describe(make(1))["scale"] == "1"
    assert differences(describe(make(1)), describe(make(2))) == {"scale"}
    assert differences(describe(make(2)), describe(make(3))) == {"scale", "later"}


def run_with(rate, net=None, *, key=None):
    return rate, net, key


def test_arguments_of_a_partial_show():
    entries = describe(functools.partial(run_with, 0.1, key=jax.random.key(3)))
    assert entries["name"] == "run_with" and entries["source"].startswith("def run_with(")
    assert entries["net"] == "None"
    assert entries["arguments.0"] == "0.1"
    assert entries["arguments.key"] == "key<fry>[] [0, 3]"
    assert differences(entries, describe(functools.partial(run_with, 0.2, key=jax.random.key(3)))) == {"arguments.0"}
    assert differences(entries, describe(functools.partial(run_with, 0.1, key=jax.random.key(4)))) == {"arguments.key"}
    assert describe(eqx.Partial(run_with, 0.1))["func"] == "run_with"


class Reading(typing.NamedTuple):
    loss: float
    power: int = 2

    def scaled(self):
        return self.loss * self.power


@dataclasses.dataclass(frozen=True)
class Setting:
    rate: float
    power: int = 2


def test_of_named_tuples_and_dataclasses_only_what_was_written_shows():
    entries = describe(lambda: (Reading, Setting))
    assert {name for name in entries if name.startswith(("Reading.", "Setting."))} == (
        {"Reading._fields", "Reading._field_defaults", "Reading.base.tuple"}
        | {"Reading.scaled", "Reading.scaled.source", "Setting.power"}
    )


class Layer(eqx.Module):
    weight: jax.Array
    power: int = eqx.field(static=True, default=2)

    def __call__(self, x):
        return self.weight * x**self.power


def test_callable_modules_and_bound_methods_show_their_code_and_their_fields():
    layer = Layer(jnp.arange(6.0))
    entries = describe(layer)
    assert entries["name"] == "Layer" and entries["power"] == "2"
    assert entries["type.__call__.source"].startswith("def __call__(self, x):")
    assert differences(entries, describe(Layer(jnp.ones(6)))) == {"weight"}
    assert differences(entries, describe(Layer(layer.weight, 3))) == {"power"}
    bound = describe(layer.__call__)
    assert bound["source"] == entries["type.__call__.source"]
    assert differences(bound, describe(Layer(jnp.ones(6)).__call__)) == {"self.weight"}


def test_a_network_is_one_entry():
    networks = [nf.nets.MLP([3, 4, 2], key=jax.random.key(seed)) for seed in (0, 0, 1)]
    first, same, other = map(describe_value, networks)
    assert isinstance(first, str) and first.startswith("nfa_flow.nets.mlp.MLP ")
    assert first == same != other


def test_data_is_told_by_its_arrays():
    data = nf.data.linear_teacher(jax.random.key(0), 20, 4, 2)
    changed = eqx.tree_at(lambda d: d.y, data, data.y.at[3, 1].add(1e-6))
    assert differences(describe_value(data), describe_value(changed)) == {"y"}


def test_a_learning_rate_inside_an_optimiser_shows():
    def make(rate):
        optimiser = optax.adam(rate)
        return describe(lambda net: optimiser.init(net))

    (changed,) = differences(make(0.1), make(0.2))
    assert make(0.1)[changed] == "-0.1"


def test_transformed_functions_show_what_they_transform_and_how():
    def square(x):
        return x**2

    axes = [describe(jax.jit(jax.vmap(square, in_axes=axis))) for axis in (0, 1)]
    (changed,) = differences(*axes)
    assert changed.endswith("in_axes")
    assert any(text.startswith("def square(x):") for text in axes[0].values())


def test_a_gradient_shows_what_it_is_the_gradient_of():
    entries = [describe(jax.grad(function)) for function in (lambda x: x**2, lambda x: x**3)]
    (changed,) = differences(*entries)
    assert entries[0][changed] == "lambda x: x ** 2"


def test_a_cached_function_shows_what_it_caches():
    entries = describe(functools.lru_cache(run_with))
    assert entries["name"] == "run_with" and entries["net"] == "None"


def test_a_derivative_of_ones_own_shows():
    def make(factor):
        @jax.custom_jvp
        def f(x):
            return x

        f.defjvp(lambda x, v: (x[0], factor * v[0]))
        return describe(f)

    assert differences(make(1.0), make(2.0)) == {"jvp.factor"}


def test_functions_in_a_dictionary_are_described_one_by_one():
    entries = describe_value({"gap": lambda net, data: 1, "depth": 3})
    assert isinstance(entries, dict)
    assert entries["gap.source"] == "lambda net, data: 1" and entries["depth"] == "3"


@pytest.mark.parametrize(
    "value, described",
    [
        (0.1, "0.1"),
        ("relu", "'relu'"),
        (None, "None"),
        ([1, 2.5, (True,)], "[1, 2.5, (True,)]"),
        ({"b": 1, "a": frozenset({"y", "x"})}, "{'b': 1, 'a': frozenset('x', 'y')}"),
        (np.array([1.5, np.nan], np.float32), "float32[2] [1.5, nan]"),
        (np, "numpy"),
        (np.sin, "numpy.sin"),
        (len, "builtins.len"),
        (nf.nets.MLP, "nfa_flow.nets.mlp.MLP"),
        (nf.gradient_flow, "nfa_flow.flow.gradient_flow.gradient_flow"),
        (jnp, "jax.numpy"),
        (np.random.normal, "numpy.random.RandomState.normal"),
        (random.gauss, "random.Random.gauss"),
        (jax.devices("cpu")[0], repr(jax.devices("cpu")[0])),
        (logging.getLogger("some"), "logging.Logger"),
        (jax.nn.relu, "jax._src.nn.functions.relu"),
        (object(), "builtins.object"),
    ],
)
def test_simple_values_are_one_line(value, described):
    assert describe_value(value) == described


def test_objects_of_libraries_are_told_by_what_they_hold():
    first, again = ([describe_value(make()) for make in OBJECTS] for _ in range(2))
    assert first == again
    assert len(set(map(str, first))) == len(OBJECTS)
    assert str(first[0]).startswith("fractions.Fraction ")


def test_a_draw_from_a_generator_shows():
    generator = np.random.default_rng(0)
    before = describe_value(generator)
    generator.normal()
    assert describe_value(generator) != before


def test_code_inside_an_object_of_a_library_shows():
    queues = [collections.deque([function]) for function in (lambda x: x + 1, lambda x: x + 2)]
    assert describe_value(queues[0]) != describe_value(queues[1])


def test_functions_in_a_set_show():
    assert describe_value({len, sum}) == describe_value({sum, len}) != describe_value({len, max})


def test_an_object_of_a_library_may_hold_itself():
    def make(number):
        queue = collections.deque([number])
        queue.append(queue)
        return describe_value(queue)

    assert make(1) == make(1) != make(2)


class Slotted:
    __slots__ = ("rate",)

    def __init__(self, rate):
        self.rate = rate


class Extended(Slotted):
    def __init__(self, rate, power):
        super().__init__(rate)
        self.power = power


def test_slots_show():
    assert differences(describe_value(Slotted(0.1)), describe_value(Slotted(0.2))) == {"rate"}
    assert differences(describe_value(Extended(0.1, 2)), describe_value(Extended(0.2, 3))) == {"rate", "power"}


class Share(fractions.Fraction):
    """A class of the user's own that keeps its contents in slots of a library's."""


class Money(decimal.Decimal):
    """Another one, whose contents are kept in C."""


def test_classes_derived_from_a_library_show_what_that_holds():
    assert describe_value(Share(1, 2)) == describe_value(Share(1, 2)) != describe_value(Share(1, 10))
    assert describe_value(Money("0.5")) == describe_value(Money("0.5")) != describe_value(Money("0.6"))


class Locked:
    def __init__(self):
        self.lock = threading.Lock()


@pytest.mark.parametrize("make", [threading.Lock, lambda: (x for x in "ab"), lambda: collections.deque([Locked()])])
def test_what_cannot_be_known_equals_nothing_else(make):
    first, other = make(), make()
    assert " of unknown content, " in describe_value(first)
    assert describe_value(first) == describe_value(first) != describe_value(other)


def test_what_cannot_be_known_shows_where_it_is():
    assert differences(describe_value(Locked()), describe_value(Locked())) == {"lock"}


def test_settings_in_a_namespace_show():
    assert describe_value(types.SimpleNamespace(rate=0.1)) == {"name": "types.SimpleNamespace", "rate": "0.1"}


def test_long_entries_are_shortened_to_a_digest():
    first, other = describe_value(list(range(5000))), describe_value([*range(4999), 0])
    assert isinstance(first, str) and first.startswith("[0, 1, 2, ") and len(first) < 200
    assert first != other


@pytest.fixture
def load_package(tmp_path, monkeypatch):
    """Write SCRIPT and HELPERS as a package of that name into a folder below, and import the script's function."""

    def load_package(folder, name):
        package = tmp_path / folder / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "experiment.py").write_text(SCRIPT.replace("import helpers", "from . import helpers"))
        (package / "helpers.py").write_text(HELPERS)
        monkeypatch.syspath_prepend(package.parent)
        return importlib.import_module(f"{name}.experiment").one_run

    return load_package


@pytest.mark.parametrize("wrap", [lambda function: function, jax.jit, lambda function: functools.partial(function, 2)])
def test_a_package_is_described_the_same_installed_or_not(load_package, wrap):
    installed, own = load_package("site-packages", "mine_installed"), load_package("src", "mine")
    entries = describe(wrap(installed))
    assert entries["helper.source"].startswith("def helper(x):")
    assert entries["MODEL.type.__call__.helpers.twice.source"].startswith("def twice(x):")
    assert entries == describe(wrap(own))


def test_another_package_that_is_installed_counts_by_name(load_package):
    installed = load_package("site-packages", "mine_installed")
    assert describe(lambda: installed())["installed"] == "mine_installed.experiment.one_run"


def test_an_experiment_of_a_study_counts_with_its_text_and_constants():
    found = describe(depth.one_run)
    assert "linear_teacher" in found["source"] and found["_SAMPLES"] == "200"
    assert found["observables.source"].startswith("def observables(")
    assert found["linear_teacher"].startswith("nfa_flow.data.")
    training = describe_value(depth.TRAININGS["GD .03"])
    assert training["steps"] == "1000" and "gradient_descent" in training["type.__call__.source"]
