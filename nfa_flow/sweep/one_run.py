"""The user's function `one_run`, in one object from the call of `sweep` to the worker that runs it."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from ..checks import wrong
from ..run.trajectory import Trajectory
from .grid import SEED, Grid
from .identity.describe import describe
from .identity.libraries import environment

KEY = "key"

Row = Mapping[str, Any]  # batched setting → number; "key" → the data of a PRNG key


@dataclass(frozen=True)
class OneRun:
    """The user's function with a description of everything that decides its results.

    **Attributes:** `function`: the function; `identity`: everything except the settings that decides its results, as
    JSON.
    """

    function: Callable[..., Trajectory]
    identity: Mapping[str, Any]

    @classmethod
    def of(cls, function: Callable[..., Trajectory]) -> "OneRun":
        """With the identity of now: the function may refer to values that change later."""
        return cls(function, {"one_run": describe(function)} | environment())

    def __call__(self, fixed: Mapping[str, Any], row: Row) -> Trajectory:
        """The trajectory of one run. **Raises:** any error of the function; ValueError if it returns anything else."""
        run = self.function(**{**fixed, **row, KEY: jax.random.wrap_key_data(row[KEY])})
        if not isinstance(run, Trajectory):
            raise wrong("one_run", "a function that returns a `Trajectory`", f"one that returns {type(run).__name__}")
        return run


def check_signature(function: Callable, grid: Grid) -> bool:
    """Whether the function takes the seed besides its key. **Raises:** ValueError unless the grid fits the function."""
    if not callable(function):
        raise wrong("one_run", "a function (key, **settings) -> Trajectory", repr(function))
    parameters = inspect.signature(function).parameters.values()
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
