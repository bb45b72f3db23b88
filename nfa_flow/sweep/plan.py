"""What of a sweep can be batched: found by tracing `one_run` with each setting abstract in turn.

Settings that `one_run` accepts as JAX scalars become rows of a batch. All others (widths, depths, activations, whatever
Python has to know) split the sweep into groups, each compiled for itself. A function that cannot be traced at all is
called run by run.
"""

import json
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ..checks import wrong
from .engines.engine import Lane
from .engines.stages import Stage
from .grid import SEED, Grid, Setting
from .one_run import KEY, OneRun, check_signature
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
            group.lanes.append(Lane(setting.key, row))
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


def make_plan(one_run: OneRun, grid: Grid, batch: str) -> Plan:
    """Find out what can be batched, and that `one_run` accepts the values of each axis.

    **Raises:** ValueError for axes that `one_run` does not take or needs and does not get, values that it refuses, and
    axes declared as batched, or a `batch`, that it cannot be traced with.
    """
    passes_seed = check_signature(one_run.function, grid)
    if batch == "off" or _is_debugging():
        return Plan(None, passes_seed, "off")
    for axis in grid.axes:
        if axis.kind == "batched" and not all(_is_number(value) for value in axis.values):
            raise wrong(axis.name, "an axis of numbers when it is declared batched", repr(axis.labels[0]))
    trial = _Trial(one_run, grid, passes_seed)
    if (error := trial.refusal() or (trial.refusal([SEED]) if passes_seed else None)) is not None:
        if not isinstance(error, _TRACING):
            raise error
        if batch != "auto":
            raise wrong("batch", f'"auto" or "off" for a function that JAX cannot trace ({_short(error)})', batch)
        warnings.warn(f"`one_run` cannot be compiled, so it is called run by run: {_short(error)}", stacklevel=4)
        return Plan(None, passes_seed, "off")
    plan = Plan(_batchable(trial), passes_seed, batch)
    _rehearse(trial)
    return plan


def _is_debugging() -> bool:
    """Whether JAX is to stop at the very operation that fails, which it can in plain calls alone.

    Inside compiled batches NaN stands for what a run has not reached.
    """
    return any(getattr(jax.config, f"jax_{name}") for name in ("debug_nans", "debug_infs", "disable_jit"))


@dataclass(frozen=True)
class _Trial:
    """Traces `one_run` to its end: at the first place of the grid, or at another one."""

    one_run: OneRun
    grid: Grid
    passes_seed: bool

    @property
    def first(self) -> Setting:
        return next(iter(self.grid))

    def refusal(self, batched: Collection[str] = (), setting: Setting | None = None) -> Exception | None:
        """What `one_run` raises when these settings are abstract."""
        (group,) = Plan(frozenset(batched), self.passes_seed).groups([setting or self.first])
        lane = group.lanes[0]
        try:
            while not (stage := Stage(self.one_run, group.fixed, lane.row, lane.finals)).is_last:
                lane = lane.after(stage.state_shape)
            require_own_names(stage.observed, stage.stats, self.grid.names)
        except Exception as error:
            return error
        return None


def _batchable(trial: _Trial) -> frozenset[str]:
    """All candidates where that works together, as a rule; otherwise those that work alone, if these work together.

    Whole numbers are not among them, unless declared: they count layers and samples, and JAX computes with them in
    another way than Python does (10**-1 is 0).
    """
    kinds = {axis.name: axis.kind for axis in trial.grid.axes}
    kinds[SEED] = "batched" if trial.passes_seed else "looped"
    first = trial.first.values
    candidates = {
        name
        for name, value in first.items()
        if kinds.get(name) == "batched" or (isinstance(value, float) and kinds.get(name) != "looped")
    }
    if trial.refusal(candidates) is None:
        return frozenset(candidates)
    errors = {name: trial.refusal([name]) for name in candidates}
    for name, error in errors.items():
        if error is not None and kinds.get(name) == "batched":
            must_be = f"an axis whose values leave all shapes alone when it is declared batched ({_short(error)})"
            raise wrong(name, must_be, f"{first[name]!r}, …") from error
        if error is not None:
            warnings.warn(f"each value of `{name}` is compiled for itself: {_short(error)}", stacklevel=5)
    alone = {name for name, error in errors.items() if error is None}
    works = trial.refusal(alone) is None
    return frozenset(name for name in alone if works or kinds.get(name) == "batched")


def _rehearse(trial: _Trial) -> None:
    """Let `one_run` check the values of each axis (of numbers, the ends), as it does when they are not abstract."""
    first = trial.first.index
    for dimension, bundle in enumerate(trial.grid.bundles):
        if bundle[0].name == SEED and not trial.passes_seed:
            continue
        for place in _telling(bundle[0].values):
            index = tuple(place if d == dimension else i for d, i in enumerate(first))
            if index != first and (error := trial.refusal(setting=trial.grid.setting(index))) is not None:
                refused = ", ".join(f"{axis.name} = {axis.labels[place]}" for axis in bundle)
                message = f"`one_run` must accept all values of the grid, but refuses {refused}: {error}"
                raise ValueError(message) from error


def _telling(values: Sequence[Any]) -> Sequence[int]:
    if not all(_is_number(value) for value in values):
        return range(len(values))
    return sorted({int(np.argmin(values)), int(np.argmax(values))})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__
