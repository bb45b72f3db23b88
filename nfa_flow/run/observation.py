"""What a run records: observables of the network at chosen moments, in buffers of fixed size."""

import abc
import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, PyTree

from ..checks import described, wrong
from ..data import Dataset
from ..problem.losses import minimizing
from ..problem.objective import AbstractObjective

_TAKEN = ("time", "step", "net", "nets")
_NAMES = 'with printable names of 1 to 200 bytes without "/", "\\" and "."'

Observe = Mapping[str, Callable[[Any, Dataset], PyTree]]

_Function = TypeVar("_Function", bound=Callable)


def from_run(*names: str) -> Callable[[_Function], _Function]:
    """Mark the arguments of an observable that a run supplies if the caller gave none.

    They may be `loss`, the run's own loss function, `weight_decay`, `trainable`, a filter that selects the parameters,
    `mobility`, a tree in the structure of the parameters, and `at_once`, the number of samples at a time. Keywords of
    `functools.partial` and `equinox.Partial` count as given. An observable that is an object has these names in its
    attribute `from_run`.
    """

    def mark(function: _Function) -> _Function:
        function.from_run = names  # pyright: ignore[reportFunctionMemberAccess]
        return function

    return mark


class AbstractRunObservable(eqx.Module):
    """An observable of the run that needs more than `from_run` gives: the objective, and what the solver knows.

    It is also an ordinary observable: a subclass has `__call__(net, data)` too.
    """

    @abc.abstractmethod
    def of_run(self, objective: AbstractObjective, parameters: PyTree, known: Mapping[str, Array]) -> PyTree:
        """The value at `parameters`; `known`: numbers that the solver computed at its last step, by name."""


class Observer(eqx.Module):
    """Evaluates the user's observables `(net, data) -> array`; without any, the loss that is being minimized."""

    names: tuple[str, ...] = eqx.field(static=True)
    observables: tuple[Callable, ...] | None
    data: Dataset
    keep_parameters: bool = eqx.field(static=True)

    def __call__(
        self, objective: AbstractObjective, parameters: PyTree, known: Mapping[str, Array] = MappingProxyType({})
    ) -> PyTree:
        # "highest": a GPU would otherwise multiply float32 in TF32, with three digits.
        with jax.default_matmul_precision("highest"):
            if self.observables is None:
                observed = (objective.loss(parameters),)
            else:
                named = zip(self.names, self.observables, strict=False)  # a subclass has names for more
                observed = tuple(
                    numbers(f'observe["{name}"]', self._observed(each, objective, parameters, known))
                    for name, each in named
                )
        return observed, objective.natural(parameters) if self.keep_parameters else None

    def one(self, name: str, objective: AbstractObjective, parameters: PyTree) -> PyTree:
        """The observable of this name, from `parameters` alone: what a solver knows is from its last step."""
        with jax.default_matmul_precision("highest"):
            if self.observables is None:
                return objective.loss(parameters)
            observable = self.observables[self.names.index(name)]
            return numbers(f'observe["{name}"]', self._observed(observable, objective, parameters, {}))

    def _observed(
        self, observable: Callable, objective: AbstractObjective, parameters: PyTree, known: Mapping[str, Array]
    ) -> PyTree:
        if isinstance(observable, AbstractRunObservable):
            return observable.of_run(objective, parameters, known)
        supplied = {
            "loss": lambda: objective.loss_function,
            "weight_decay": lambda: objective.weight_decay,
            "trainable": lambda: objective.trainable,
            "mobility": lambda: objective.mobility(parameters),
            "at_once": lambda: objective.at_once,
        }
        with minimizing(objective.loss_function):
            arguments = {name: supplied[name]() for name in _open_arguments(observable)}
            return observable(objective.net(parameters), self.data, **arguments)


def _open_arguments(observable: Callable) -> list[str]:
    """The arguments that a run supplies to an observable: those of `from_run` without those already given."""
    given = set()
    while isinstance(observable, functools.partial | eqx.Partial):
        given |= set(observable.keywords)
        observable = observable.func
    return [name for name in getattr(observable, "from_run", ()) if name not in given]


def require_observable(argument: str, observable: Any) -> None:
    """Raise ValueError unless `observable` takes a network and data; a function that makes observables does not."""
    must_be = "a function (net, data) -> array, such as `nf.measure.alignment(1/3)`"
    if not callable(observable) or isinstance(observable, type):
        raise wrong(argument, must_be, described(observable))
    try:
        inspect.signature(observable).bind(None, None)
    except TypeError as error:
        raise wrong(argument, must_be, f"{described(observable)}: {error}") from None
    except ValueError:  # of a function of C, which has no signature
        pass


def numbers(argument: str, observed: PyTree) -> PyTree:
    """The result of an observable, as arrays; ValueError if it is not a tree of numbers."""
    try:
        return jax.tree.map(jnp.asarray, observed)
    except TypeError:
        raise wrong(argument, "a function that returns numbers", f"one that returns {described(observed)}") from None


def make_observer(observe: Observe | None, data: Dataset, parameters: PyTree, *, keep_parameters: bool) -> Observer:
    """Check the observables and bring the data to the dtype of the parameters.

    **Raises:** ValueError naming `observe` when it is not a mapping from names to functions.
    """
    if observe is not None:
        if not isinstance(observe, Mapping) or not all(isinstance(name, str) for name in observe):
            raise wrong("observe", "a mapping from names to functions (net, data) -> array", repr(observe))
        for name, observable in observe.items():
            if name in _TAKEN or not _can_be_stored(name):
                must_be = f"a mapping {_NAMES}, other than {', '.join(_TAKEN)}, which stores use"
                raise wrong("observe", must_be, f"one with {name!r}")
            require_observable(f'observe["{name}"]', observable)
    dtype = jnp.result_type(*jax.tree.leaves(parameters))
    names, observables = (("loss",), None) if observe is None else (tuple(observe), tuple(observe.values()))
    return Observer(names, observables, data.astype(dtype), keep_parameters)


class Record(eqx.Module):
    """Buffers for `s` observations, of which the first `count` are filled.

    The rest is zero, not NaN: under `jax_debug_nans` every run would fail.
    """

    times: Float[Array, " s"]
    steps: Int[Array, " s"]
    values: PyTree
    count: Int[Array, ""]

    def add(self, time: Float[Array, ""], step: Int[Array, ""], values: PyTree) -> "Record":
        """The record with one more observation."""
        put = lambda buffer, value: buffer.at[self.count].set(value)
        return Record(
            put(self.times, time),
            put(self.steps, step),
            jax.tree.map(put, self.values, values),
            self.count + 1,
        )

    def cut(self) -> "Record":
        """The filled part; `count` must not be traced."""
        return self._at(slice(int(self.count)))

    def without_places(self) -> "Record":
        """A record of the same kind that has room for nothing."""
        return self._at(slice(0))

    def padded(self) -> "Record":
        """The record with the last observation in every place that is not filled."""
        return self._at(jnp.minimum(jnp.arange(self.times.size, dtype=self.count.dtype), self.count - 1))

    def undefined_after(self, size: int) -> "Record":
        """Its first `size` places, with NaN (0 for integers) in those that are not filled."""
        filled = jnp.arange(size, dtype=self.count.dtype) < self.count

        def undefined(buffer: Array) -> Array:
            is_filled = filled.reshape(-1, *[1] * (buffer.ndim - 1))
            nothing = jnp.nan if jnp.issubdtype(buffer.dtype, jnp.inexact) else 0
            return jnp.where(is_filled, buffer, jnp.asarray(nothing, buffer.dtype))

        return jax.tree.map(lambda buffer: undefined(buffer) if buffer.ndim else buffer, self._at(slice(size)))

    def _at(self, places: Any) -> "Record":
        return jax.tree.map(lambda buffer: buffer[places] if buffer.ndim else buffer, self)


def empty_record(size: int, time_dtype: DTypeLike, observer: Observer, objective: Any, parameters: PyTree) -> Record:
    """A record with room for `size` observations of the shapes that `observer` returns."""
    shapes = eqx.filter_eval_shape(observer, objective, parameters)
    _require_storable(dict(zip(observer.names, shapes[0], strict=True)))
    values = jax.tree.map(lambda s: jnp.zeros((size, *s.shape), s.dtype), shapes)
    return Record(jnp.zeros(size, time_dtype), jnp.zeros(size, jnp.int32), values, jnp.zeros((), jnp.int32))


def _can_be_stored(name: str) -> bool:
    """Whether an array in a store, which is a folder, can have this name."""
    return name.isprintable() and 0 < len(name.encode()) <= 200 and not set(name) & set("/\\.")


def _require_storable(observed: Mapping[str, PyTree]) -> None:
    """Raise ValueError before the run for leaves whose names or types could not be stored after it."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(observed):
        keys = [jax.tree_util.keystr((key,), simple=True) for key in path]
        if not all(map(_can_be_stored, keys)):
            raise wrong(f'observe["{keys[0]}"]', f"a function whose result is a tree {_NAMES}", f"one with {keys[1:]}")
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise wrong(f'observe["{keys[0]}"]', "a function that returns numbers", f"one that returns {leaf.dtype}")
