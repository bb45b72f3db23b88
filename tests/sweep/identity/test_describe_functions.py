"""Whatever a function is made of shows in its description: closures, arguments, classes, transformations."""

import dataclasses
import functools
import typing

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from sweep.descriptions import differences

from nfa_flow.studies.nfa import depth
from nfa_flow.sweep.identity.describe import describe, describe_value


def test_a_function_under_a_setting_of_jax_counts_with_the_setting():
    under = lambda precision: describe(jax.default_matmul_precision(precision)(_double))
    assert differences(under("highest"), under("highest")) == set()
    (changed,) = differences(under("highest"), under("default"))
    assert changed == "self.default_matmul_precision" and under("highest")[changed] == "'highest'"


def _double(x):
    return 2 * x


def test_code_without_a_file_is_told_apart():
    def make(text):
        exec(text, namespace := {})
        return describe(namespace["f"])

    first = make("def f(x): return x + 1")
    assert first["source"] == ""
    assert first == make("\ndef f(x):\n  # a comment\n  return x + 1")
    assert differences(first, make("def f(x): return x + 2")) == {"code"}
    assert differences(first, make("def f(x): return x + y")) == {"code"}
    assert differences(first, make("def f(x): return (lambda z: z + 1)(x)")) == {"code"}


def test_lambdas_that_share_a_line_are_told_apart():
    both = (lambda x: x + 1, lambda x: (lambda y: 2 * y)(x))
    assert differences(*map(describe, both)) == {"code"}


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
    rates = [describe(eqx.Partial(run_with, rate)) for rate in (0.1, 0.1, 0.2)]
    assert rates[0] == rates[1] and differences(rates[0], rates[2]) == {"name"}
    assert any(text.startswith("def run_with(") for text in rates[0].values())


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
        {"Reading._fields", "Reading._field_defaults", "Reading.base.tuple", "Setting.power"}
        | {"Reading.scaled", "Reading.scaled.source", "Reading.scaled.code"}
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


def test_a_learning_rate_inside_an_optimizer_shows():
    def make(rate):
        optimizer = optax.adam(rate)
        return describe(lambda net: optimizer.init(net))

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
    assert changed.endswith("code")


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


def test_an_experiment_of_a_study_counts_with_its_text_and_constants():
    found = describe(depth.one_run)
    assert found["observables.source"].startswith("def observables(")
    assert found["teacher.source"].startswith("def teacher(") and found["teacher.INPUTS"] == "10"
    assert found["teacher.linear_teacher"].startswith("nfa_flow.data.")
    training = describe_value(depth.TRAININGS["GD .03"])
    assert training["steps"] == "1000" and "gradient_descent" in training["type.__call__.source"]
