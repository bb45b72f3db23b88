"""Find the settings that can be batched, by tracing `one_run` with abstract values of them.

Settings that `one_run` accepts as JAX scalars become rows of a batch. All others (widths, depths, activations,
everything that Python has to know) split the sweep into groups, which are compiled separately. A function that cannot
be traced at all is called run by run.
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

# Errors of JAX if Python needs a number that is not known yet, or has kept an abstract one for too long.
_TRACING = (jax.errors.JAXTypeError, jax.errors.UnexpectedTracerError, jax.errors.JAXIndexError)


@dataclass(frozen=True)
class Group:
    """Lanes that share one compiled program, because they differ only in batched settings.

    **Attributes:** `name`: identifies everything besides `one_run` on which the program depends; `fixed`: the settings
    that all lanes share; `batch`: how they are batched, or "auto".
    """

    name: str
    fixed: dict[str, Any]
    lanes: list[Lane]
    batch: str = "auto"


@dataclass(frozen=True)
class Plan:
    """The batched settings, or None if `one_run` has to be called run by run; and how they are batched."""

    batched: frozenset[str] | None
    passes_seed: bool
    batch: str = "auto"

    def groups(self, settings: Iterable[Setting]) -> list[Group]:
        """The runs with these settings, in groups that share a program."""
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
    """Find the settings that can be batched, and check that `one_run` accepts the values of each axis.

    **Raises:** ValueError for axes that `one_run` does not take or that are missing, values that it refuses, and if it
    cannot be traced with an axis declared as batched, or with this `batch`.
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
    """Whether JAX has to stop at the operation that fails, which is possible in plain calls only.

    Compiled batches use NaN for times that a run has not reached.
    """
    return any(getattr(jax.config, f"jax_{name}") for name in ("debug_nans", "debug_infs", "disable_jit"))


@dataclass(frozen=True)
class _Trial:
    """Traces `one_run` to its end, with the first setting of the grid or another one."""

    one_run: OneRun
    grid: Grid
    passes_seed: bool

    @property
    def first(self) -> Setting:
        return next(iter(self.grid))

    def refusal(self, batched: Collection[str] = (), setting: Setting | None = None) -> Exception | None:
        """The error that `one_run` raises if these settings are abstract, or None."""
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
    """The settings that can be batched together: usually all candidates, otherwise those that can be batched alone.

    Whole numbers are candidates only if they are declared: they count layers and samples, and JAX computes with them in
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
            warnings.warn(f"each value of `{name}` is compiled separately: {_short(error)}", stacklevel=5)
    alone = {name for name, error in errors.items() if error is None}
    works = trial.refusal(alone) is None
    return frozenset(name for name in alone if works or kinds.get(name) == "batched")


def _rehearse(trial: _Trial) -> None:
    """Trace `one_run` with the actual values of each axis (smallest and largest number), which it may check."""
    first = trial.first.index
    for dimension, bundle in enumerate(trial.grid.bundles):
        if bundle[0].name == SEED and not trial.passes_seed:
            continue
        for place in _extreme(bundle[0].values):
            index = tuple(place if d == dimension else i for d, i in enumerate(first))
            if index != first and (error := trial.refusal(setting=trial.grid.setting(index))) is not None:
                refused = ", ".join(f"{axis.name} = {axis.labels[place]}" for axis in bundle)
                message = f"`one_run` must accept all values of the grid, but refuses {refused}: {error}"
                raise ValueError(message) from error


def _extreme(values: Sequence[Any]) -> Sequence[int]:
    """The places of the smallest and the largest number; all places if there are other values."""
    if not all(_is_number(value) for value in values):
        return range(len(values))
    return sorted({int(np.argmin(values)), int(np.argmax(values))})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__
