"""What of a sweep can be batched: found by tracing `one_run` with each setting abstract in turn.

Settings that `one_run` accepts as JAX scalars become rows of a batch. All others (widths, depths, activations, whatever
Python has to know) split the sweep into groups, each compiled for itself. A function that cannot be traced at all is
called run by run.
"""

import inspect
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ..checks import wrong
from .engines.engine import Lane
from .engines.stages import KEY, Row, Stage
from .grid import SEED, Grid, Setting
from .store.names import require_own_names

# What JAX raises where Python needs a number that it does not know yet, or kept one too long.
_TRACING = (jax.errors.JAXTypeError, jax.errors.UnexpectedTracerError, jax.errors.JAXIndexError)


@dataclass(frozen=True)
class Group:
    """Lanes that one compiled program serves: they differ in batched settings only.

    `name`: of all that the program depends on besides `one_run`; `batch`: how, or "auto".
    """

    name: str
    fixed: dict[str, Any]
    lanes: list[Lane]
    batch: str = "auto"


@dataclass(frozen=True)
class Plan:
    """Which settings are batched, and how; `batched` is None where `one_run` has to be called run by run."""

    batched: frozenset[str] | None
    passes_seed: bool
    batch: str = "auto"

    def groups(self, settings: Iterable[Setting]) -> list[Group]:
        """The runs with these settings, by what their programs have in common."""
        groups: dict[str, Group] = {}
        for setting in settings:
            fixed, row = self._split(setting)
            kinds = {name: type(value).__name__ for name, value in row.items()}
            name = json.dumps([{name: setting.identities[name] for name in fixed}, kinds])
            group = groups.setdefault(name, Group(name, fixed, [], self.batch))
            group.lanes.append(Lane(setting.index, row))
        return list(groups.values())

    def _split(self, setting: Setting) -> tuple[dict[str, Any], dict[str, Any]]:
        values = dict(setting.values)
        row = {KEY: key_data(values.get(SEED, 0))}
        if not self.passes_seed:
            values.pop(SEED, None)
        chosen = values if self.batched is None else self.batched
        row |= {name: value for name, value in values.items() if name in chosen}
        return {name: value for name, value in values.items() if name not in chosen}, row


def key_data(seed: int) -> np.ndarray:
    """The data of the PRNG key of a seed."""
    return np.asarray(jax.random.key_data(jax.random.key(seed)))


def make_plan(one_run: Callable, grid: Grid, batch: str) -> Plan:
    """Find out what can be batched, and that `one_run` accepts the values of each axis.

    **Raises:** ValueError for axes that `one_run` does not take or needs and does not get, values that it refuses, and
    axes declared as batched, or a `batch`, that it cannot be traced with.
    """
    passes_seed = check_signature(one_run, grid)
    if batch == "off" or _is_debugging():
        return Plan(None, passes_seed, "off")
    for axis in grid.axes:
        if axis.kind == "batched" and not all(_is_number(value) for value in axis.values):
            raise wrong(axis.name, "an axis of numbers when it is declared batched", repr(axis.labels[0]))
    first = next(iter(grid))
    traced = _traced(one_run, Plan(frozenset(), passes_seed), first)
    error = traced if isinstance(traced, Exception) else None
    if isinstance(traced, Stage):
        require_own_names(traced.observed, traced.stats, grid.names)
    if error is None and passes_seed:
        error = _refusal(one_run, Plan(frozenset([SEED]), passes_seed), first)
    if error is not None:
        if not isinstance(error, _TRACING):
            raise error
        if batch != "auto":
            raise wrong("batch", f'"auto" or "off" for a function that JAX cannot trace ({_short(error)})', batch)
        warnings.warn(f"`one_run` cannot be compiled, so it is called run by run: {_short(error)}", stacklevel=4)
        return Plan(None, passes_seed, "off")
    plan = Plan(_batchable(one_run, grid, first, passes_seed), passes_seed, batch)
    _rehearse(one_run, grid, first, passes_seed)
    return plan


def _is_debugging() -> bool:
    """Whether JAX is to stop at the very operation that fails, which it can in plain calls alone.

    Inside compiled batches NaN stands for what a run has not reached.
    """
    return any(getattr(jax.config, f"jax_{name}") for name in ("debug_nans", "debug_infs", "disable_jit"))


def plain_settings(fixed: Mapping[str, Any], row: Row) -> dict[str, Any]:
    """What `one_run` is called with, run by run."""
    return {**fixed, **row, KEY: jax.random.wrap_key_data(row[KEY])}


def _batchable(one_run: Callable, grid: Grid, first: Setting, passes_seed: bool) -> frozenset[str]:
    """All candidates where that works together, as a rule; otherwise those that work alone, if these work together.

    Whole numbers are not among them, unless declared: they count layers and samples, and JAX computes with them in
    another way than Python does (10**-1 is 0).
    """
    kinds = {axis.name: axis.kind for axis in grid.axes} | ({SEED: "batched"} if passes_seed else {SEED: "looped"})
    candidates = {
        name
        for name, value in first.values.items()
        if kinds.get(name) == "batched" or (isinstance(value, float) and kinds.get(name) != "looped")
    }
    refusal = lambda names: _refusal(one_run, Plan(frozenset(names), passes_seed), first)
    if refusal(candidates) is None:
        return frozenset(candidates)
    errors = {name: refusal([name]) for name in candidates}
    for name, error in errors.items():
        if error is not None and kinds.get(name) == "batched":
            must_be = f"an axis whose values leave all shapes alone when it is declared batched ({_short(error)})"
            raise wrong(name, must_be, f"{first.values[name]!r}, …") from error
        if error is not None:
            warnings.warn(f"each value of `{name}` is compiled for itself: {_short(error)}", stacklevel=5)
    alone = {name for name, error in errors.items() if error is None}
    return frozenset(alone if refusal(alone) is None else {name for name in alone if kinds.get(name) == "batched"})


def _rehearse(one_run: Callable, grid: Grid, first: Setting, passes_seed: bool) -> None:
    """Let `one_run` check the values of each axis (of numbers, the ends), as it does when they are not abstract."""
    for dimension, bundle in enumerate(grid.bundles):
        if bundle[0].name == SEED and not passes_seed:
            continue
        for place in _telling(bundle[0].values):
            index = tuple(place if d == dimension else i for d, i in enumerate(first.index))
            if index == first.index:
                continue
            error = _refusal(one_run, Plan(frozenset(), passes_seed), grid.setting(index))
            if error is not None:
                refused = ", ".join(f"{axis.name} = {axis.labels[place]}" for axis in bundle)
                message = f"`one_run` must accept all values of the grid, but refuses {refused}: {error}"
                raise ValueError(message) from error


def _telling(values: Sequence[Any]) -> Sequence[int]:
    if not all(_is_number(value) for value in values):
        return range(len(values))
    return sorted({int(np.argmin(values)), int(np.argmax(values))})


def check_signature(one_run: Callable, grid: Grid) -> bool:
    """Whether `one_run` wants the seed beside its key."""
    if not callable(one_run):
        raise wrong("one_run", "a function (key, **settings) -> Trajectory", repr(one_run))
    parameters = inspect.signature(one_run).parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    taken = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    needed = {p.name for p in parameters if p.name in taken and p.default is p.empty}
    given = grid.names
    if not takes_all and KEY not in taken:
        raise wrong("one_run", "a function that takes `key` by keyword", f"one of ({', '.join(sorted(taken))})")
    for name in given - {SEED} - taken if not takes_all else ():
        raise wrong("grid", f"of axes that `one_run` takes ({', '.join(sorted(taken - {KEY}))})", f"with {name}")
    for name in sorted(needed - given - {KEY}):
        raise wrong("grid", "with an axis for each parameter of `one_run` without a default", f"without {name}")
    return SEED in taken and SEED in given


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__


def _refusal(one_run: Callable, plan: Plan, setting: Setting) -> Exception | None:
    """What `one_run` raises when it is traced to its end."""
    traced = _traced(one_run, plan, setting)
    return traced if isinstance(traced, Exception) else None


def _traced(one_run: Callable, plan: Plan, setting: Setting) -> Stage | Exception:
    """The last stage of `one_run`, or what it raises on the way there."""
    (group,) = plan.groups([setting])
    lane = group.lanes[0]
    try:
        while not (stage := Stage(one_run, group.fixed, lane.row, lane.finals)).is_last:
            lane = lane.after(stage.state_shape)
    except Exception as error:
        return error
    return stage
