"""The description of a value tells what it holds, of whatever class it is."""

import collections
import dataclasses
import decimal
import fractions
import logging
import threading
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sweep.descriptions import OBJECTS, differences

import nfa_flow as nf
from nfa_flow.sweep.identity.describe import describe_value


def test_a_network_is_one_entry():
    networks = [nf.nets.MLP([3, 4, 2], key=jax.random.key(seed)) for seed in (0, 0, 1)]
    first, same, other = map(describe_value, networks)
    assert isinstance(first, str) and first.startswith("nfa_flow.nets.mlp.MLP ")
    assert first == same != other


def test_data_is_told_by_its_arrays():
    data = nf.data.linear_teacher(20, 4, 2, key=jax.random.key(0))
    changed = eqx.tree_at(lambda d: d.y, data, data.y.at[3, 1].add(1e-6))
    assert describe_value(data) == describe_value(jax.tree.map(jnp.copy, data)) != describe_value(changed)


def test_functions_in_a_dictionary_are_described_one_by_one():
    entries = describe_value({"gap": lambda net, data: 1, "depth": 3})
    assert isinstance(entries, dict)
    assert entries["gap"].endswith("<lambda>") and "gap.code" in entries and entries["depth"] == "3"


@pytest.mark.parametrize(
    "value, described",
    [
        (0.1, "0.1"),
        ("relu", "'relu'"),
        (None, "None"),
        ([1, 2.5, (True,)], "[1, 2.5, (True)]"),
        ({"b": 1, "a": frozenset({"y", "x"})}, "{'b': 1, 'a': {'x', 'y'}}"),
        (np.array([1.5, np.nan], np.float32), "float32[2] [1.5, nan]"),
        (np, "numpy"),
        (np.sin, "numpy.sin"),
        (len, "builtins.len"),
        (nf.nets.MLP, "nfa_flow.nets.mlp.MLP"),
        (nf.gradient_flow, "nfa_flow.flow.gradient_flow.gradient_flow"),
        (jnp, "jax.numpy"),
        (jax.devices("cpu")[0], repr(jax.devices("cpu")[0])),
        (jax.nn.relu, "jax._src.nn.functions.relu"),
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


def test_the_name_of_a_logger_does_not_show():
    assert describe_value(logging.getLogger("one")) == describe_value(logging.getLogger("other"))


def test_an_object_of_a_library_that_holds_itself_equals_no_other():
    def make(number):
        queue = collections.deque([number])
        queue.append(queue)
        return queue

    first = make(1)
    assert describe_value(first) == describe_value(first) != describe_value(make(1))


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


@dataclasses.dataclass
class Fitted:
    rate: float

    def __post_init__(self):
        self.table = [self.rate]


def test_attributes_of_a_dataclass_that_are_no_fields_show():
    first, other = Fitted(0.1), Fitted(0.1)
    other.table.append(0.2)
    assert differences(describe_value(first), describe_value(other)) == {"table"}


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
    assert " of unknown content, " in str(describe_value(first))
    assert describe_value(first) == describe_value(first) != describe_value(other)


def test_what_cannot_be_known_shows_where_it_is():
    assert differences(describe_value(Locked()), describe_value(Locked())) == {"lock"}


def test_settings_in_a_namespace_show():
    assert describe_value(types.SimpleNamespace(rate=0.1)) == {"name": "types.SimpleNamespace", "rate": "0.1"}


def test_long_entries_are_shortened_to_a_digest():
    first, other = describe_value(list(range(5000))), describe_value([*range(4999), 0])
    assert isinstance(first, str) and first.startswith("[0, 1, 2, ") and len(first) < 200
    assert first != other
