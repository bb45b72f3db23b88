"""What a run writes down: observables of the network at chosen moments, in buffers of fixed size."""

import abc
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, PyTree

from .checks import wrong
from .data import Dataset
from .objective import AbstractObjective

_TAKEN = ("time", "step", "net", "nets")
_NAMES = 'with printable names of 1 to 200 bytes without "/", "\\" and "."'

Observe = Mapping[str, Callable[[Any, Dataset], PyTree]]


class AbstractRunObservable(eqx.Module):
    """An observable of the run: besides the network and the data it sees what is minimised and what the solver knows.

    It is also an ordinary observable: a subclass has `__call__(net, data)` too.
    """

    @abc.abstractmethod
    def of_run(self, objective: AbstractObjective, parameters: PyTree, known: Mapping[str, Array]) -> PyTree:
        """The value at `parameters`; `known`: by name, what a solver has found out at its last step."""


class Observer(eqx.Module):
    """Evaluates the user's observables `(net, data) -> array`; without any, the loss that is being minimised."""

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
                net = objective.net(parameters)
                observed = tuple(
                    observable.of_run(objective, parameters, known)
                    if isinstance(observable, AbstractRunObservable)
                    else observable(net, self.data)
                    for observable in self.observables
                )
        return jax.tree.map(jnp.asarray, observed), objective.natural(parameters) if self.keep_parameters else None


def make_observer(observe: Observe | None, data: Dataset, net: PyTree, *, keep_parameters: bool) -> Observer:
    """Check the observables and bring the data to the network's dtype.

    **Raises:** ValueError naming `observe` when it is not a mapping from names to functions.
    """
    if observe is not None:
        if not isinstance(observe, Mapping) or not all(isinstance(name, str) for name in observe):
            raise wrong("observe", "a mapping from names to functions (net, data) -> array", repr(observe))
        for name, observable in observe.items():
            if name in _TAKEN or not _can_be_stored(name):
                must_be = f"a mapping {_NAMES}, other than {', '.join(_TAKEN)}, which stores use"
                raise wrong("observe", must_be, f"one with {name!r}")
            if not callable(observable):
                raise wrong(f'observe["{name}"]', "a function (net, data) -> array", repr(observable))
    dtype = jnp.result_type(*jax.tree.leaves(eqx.filter(net, eqx.is_inexact_array)))
    names, observables = (("loss",), None) if observe is None else (tuple(observe), tuple(observe.values()))
    return Observer(names, observables, data.astype(dtype), keep_parameters)


class Record(eqx.Module):
    """Buffers for `s` observations, of which the first `count` are filled; the rest is NaN (0 for integers)."""

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


def empty_record(size: int, time_dtype: DTypeLike, observer: Observer, objective: Any, parameters: PyTree) -> Record:
    """A record with room for `size` observations of the shapes that `observer` returns."""
    shapes = eqx.filter_eval_shape(observer, objective, parameters)
    _require_storable(dict(zip(observer.names, shapes[0], strict=True)))
    values = jax.tree.map(lambda s: jnp.full((size, *s.shape), _filler(s.dtype), s.dtype), shapes)
    return Record(jnp.full(size, jnp.nan, time_dtype), jnp.zeros(size, jnp.int32), values, jnp.zeros((), jnp.int32))


def _can_be_stored(name: str) -> bool:
    """Whether a name can be that of an array in a store, which is a folder."""
    return name.isprintable() and 0 < len(name.encode()) <= 200 and not set(name) & set("/\\.")


def _require_storable(observed: Mapping[str, PyTree]) -> None:
    """Raise ValueError before the run for leaves that could not be stored after it, for their names or their types."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(observed):
        keys = [jax.tree_util.keystr((key,), simple=True) for key in path]
        if not all(map(_can_be_stored, keys)):
            raise wrong(f'observe["{keys[0]}"]', f"a function whose result is a tree {_NAMES}", f"one with {keys[1:]}")
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise wrong(f'observe["{keys[0]}"]', "a function that returns numbers", f"one that returns {leaf.dtype}")


def _filler(dtype: DTypeLike) -> float | int:
    return jnp.nan if jnp.issubdtype(dtype, jnp.inexact) else 0
