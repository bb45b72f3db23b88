"""What every run returns, flow and descent alike: times, observations, the final network, and how it went."""

import abc
import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ..checks import described, is_traced, require_flag, wrong
from ..nets import MLP
from ..problem.objective import AbstractObjective
from ..problem.trained import frozen_branches
from .observation import Record
from .processes import complete
from .status import STATUS, SUCCEEDED, WHAT_HAPPENED
from .suspend import current_replay
from .trees import constant, flatten, has_nan

if TYPE_CHECKING:
    import xarray


class AbstractContinuation(eqx.Module):
    """What a run keeps to go on from its end."""

    @abc.abstractmethod
    def resume(self, run: "Trajectory", t1: Any, **options: Any) -> "Trajectory":
        """See `Trajectory.resume`."""


class AbstractDense(eqx.Module):
    """What a run keeps to be evaluated at any time."""

    @abc.abstractmethod
    def net_at(self, time: Any) -> Any:
        """See `Trajectory.net_at_time`."""


class Trajectory(eqx.Module):
    """The history of one training run.

    **Attributes:**
    - `times`: "t"; gradient-flow time (`time_per_step` × step for gradient descent), dimensionless.
    - `steps`: "t"; the number of solver or optimizer steps until then.
    - `observed`: name → array "t …", one entry per observable.
    - `net`: the network at the end of the run.
    - `nets`: with `save_nets=True` the network at every time (each array leads with "t"), otherwise None.
    - `counts`: numbers that the run counted; `notes`: facts in words. `stats` has both in one dictionary.
    - `end_time`: the time of `net`.
    - `continuation`: with `resumable=True` what `resume` needs, otherwise None; `dense`: with `dense=True` what
      `net_at_time` needs, otherwise None. They are not saved.

    Inside `jax.jit` or `jax.vmap` there is one entry for each save time, so the last entry is that of the last save
    time. Entries at times that a run did not reach are NaN; outside, `reached()` removes them. How a run ended is in
    `status_code`, `end_time` and `net`. A lane of a batch is `jax.tree.map(lambda a: a[i], trajectory)`. JAX
    differentiates a run in both directions: `end_time`, `times`, networks and observables, not counts. The derivatives
    are NaN if the run failed.
    """

    times: Float[Array | np.ndarray, "*lanes t"]
    steps: Int[Array | np.ndarray, "*lanes t"]
    observed: dict[str, PyTree]
    net: Any
    nets: Any
    end_time: Float[Array | np.ndarray, "*lanes"]
    status_code: Int[Array | np.ndarray, "*lanes"]
    counts: dict[str, Any]
    notes: tuple[tuple[str, str], ...] = eqx.field(static=True)
    continuation: AbstractContinuation | None = None
    dense: AbstractDense | None = None

    @property
    def status(self) -> str:
        """ "completed", "stopped" (by a stop rule), "max_steps", "diverged", "no_gradient" (it is NaN or infinite),
        "step_underflow", "solver_failed" or "interrupted"."""
        self.require_one_run("status")
        return STATUS[int(self.status_code)]

    @property
    def succeeded(self) -> bool:
        """Whether the run reached its end, or ended by a stop rule."""
        return self.status in SUCCEEDED

    @property
    def what_happened(self) -> str:
        """One sentence that says how the run ended."""
        if self.succeeded:
            return f"The run {self.status} at t = {float(self.end_time):.6g}."
        return f"The run ended at t = {float(self.end_time):.6g}: {WHAT_HAPPENED[self.status]}."

    @property
    def observable_status(self) -> dict[str, str]:
        """For each observable "defined", or "undefined" if it is NaN at some time (such as an alignment 0/0)."""
        observed = self.reached().observed
        bad = {name: any(has_nan(leaf) for leaf in jax.tree.leaves(value)) for name, value in observed.items()}
        return {name: "undefined" if is_bad else "defined" for name, is_bad in bad.items()}

    @property
    def stats(self) -> dict[str, Any]:
        """Counts and notes in one dictionary, as plain Python numbers and strings if they are known."""
        return {name: _plain(count) for name, count in self.counts.items()} | dict(self.notes)

    def require_one_run(self, what: str) -> None:
        """Raise ValueError for a batch of runs, for which `what` is not defined, and inside `jax.jit`."""
        if is_traced(self.status_code, self.times):
            raise ValueError(
                f"`{what}` of a run is not known inside `jax.jit` or `jax.vmap`: return the trajectory and use it "
                "outside. Inside, `status_code`, `end_time` and `net` have how it ended, and `jnp.isfinite(times)` is "
                "true at the times that it reached."
            )
        if jnp.ndim(self.status_code):
            raise ValueError(f"`{what}` is of one run; pick a lane first: jax.tree.map(lambda a: a[i], trajectory).")

    def reached(self) -> "Trajectory":
        """The trajectory without the times that a run inside `jax.jit` or `jax.vmap` did not reach."""
        self.require_one_run("reached")
        times = np.asarray(self.times)
        # What was not reached is NaN; in a sweep it repeats the last observation.
        later = np.flatnonzero(np.diff(times) > 0)
        count = later[-1] + 2 if later.size else int(np.isfinite(times[:1]).sum())
        if count == len(self.times):
            return self
        series = (self.times, self.steps, self.observed, eqx.filter(self.nets, eqx.is_inexact_array))
        times, steps, observed, arrays = jax.tree.map(lambda a: a[:count], series)
        nets = eqx.combine(arrays, eqx.filter(self.nets, eqx.is_inexact_array, inverse=True))
        return dataclasses.replace(self, times=times, steps=steps, observed=observed, nets=nets)

    def net_at(self, index: int) -> Any:
        """The network at `times[index]`; needs `save_nets=True`.

        **Raises:** ValueError naming `index` unless it is a position in `times`; negative ones count from the end.
        """
        self.require_one_run("net_at")
        if self.nets is None:
            raise ValueError("`net_at` needs a run with `save_nets=True`, but this one kept only its last network.")
        count = len(self.times)
        if not is_traced(index) and not (isinstance(index, int | np.integer) and -count <= index < count):
            raise wrong("index", f"a whole number from {-count} to {count - 1}", described(index))
        arrays, rest = eqx.partition(self.nets, eqx.is_inexact_array)
        return eqx.combine(jax.tree.map(lambda a: a[index], arrays), rest)

    def net_at_time(self, time: float | Float[Array, ""]) -> Any:
        """The network at any time of the run, on the solver's own interpolant; needs a flow with `dense=True`.

        The steps since the last mark before that time are computed again.

        **Raises:** ValueError naming `time` unless it is within the run.
        """
        if self.dense is None:
            raise ValueError(
                "`net_at_time` needs a run of `nf.gradient_flow` with `dense=True`, neither resumed nor loaded."
            )
        return self.dense.net_at(time)

    def resume(
        self,
        t1: float | Float[Array, ""],
        *,
        save_at: Sequence[float] | Float[np.ndarray, " s"] | Float[Array, " s"] | None = None,
        stop: Any = (),
        max_steps: int = 1_000_000,
        checkpoint: str | os.PathLike | None = None,
        progress: bool = True,
        throw: bool = True,
    ) -> "Trajectory":
        """This flow until a later time, with the steps, the order and the counts of one flow to that time.

        It needs a flow with `resumable=True` that ended at its `t1`, by a stop rule, at `max_steps` or by Ctrl-C. The
        result is the whole run from its start, and can be resumed again. At the former end the observations are those
        of a step that ended there; the same step is taken again at its full length, and counts once.

        **Arguments:** `t1`: the new end; `save_at`: times in [end_time, t1], by default 60 log-spaced ones; `stop`: the
        rules from here on, by default none; `max_steps`: further steps; the rest as in `nf.gradient_flow`. Network,
        data, loss, observables, solver and tolerances are those of this run.
        **Returns:** the trajectory from the start of this run to its new end.
        **Raises:** as `nf.gradient_flow`; ValueError if this run cannot go on.
        """
        if self.continuation is None:
            raise ValueError(
                "`resume` needs a run of `nf.gradient_flow` with `resumable=True`, which was not loaded from a file. "
                "Otherwise begin a new run with its `net` and with `t0` = `end_time`."
            )
        return self.continuation.resume(
            self,
            t1,
            save_at=save_at,
            stop=stop,
            max_steps=max_steps,
            checkpoint=checkpoint,
            progress=progress,
            throw=throw,
        )

    def to_xarray(self) -> "xarray.Dataset":
        """The observations as an `xarray.Dataset` with the coordinate `time`; status, counts and notes as attributes.

        An observable that is a tree of arrays gives one variable per leaf, named `observable.leaf`.
        """
        from .storage import to_xarray

        return to_xarray(self)

    def save(self, path: str | os.PathLike) -> Path:
        """Write the whole trajectory, including the networks, as a Zarr store (a folder).

        An earlier trajectory of that name is replaced when the new one is complete. Arrays of types that Zarr does not
        know (bfloat16, float8) are stored in a wider type, and loaded in their own.

        **Returns:** the path.
        **Raises:** ValueError if `path` holds anything else; OSError if it cannot be written.
        """
        from .storage import save

        return save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike, *, like: Any = None) -> "Trajectory":
        """Read a trajectory that `save` wrote.

        **Arguments:** `path`: the Zarr store; `like`: a network of the same structure whose arrays are replaced by the
        stored ones; not needed for an `MLP` with named activations.
        **Returns:** the trajectory; `net` is None for any other network if `like` is not given. Observables that were
        trees of arrays have one entry per leaf, `observable.leaf`.
        **Raises:** FileNotFoundError; ValueError if `path` holds something else or a damaged store (the message names
        the damaged file), or if `like` does not fit.
        """
        from .storage import load

        return load(path, like)

    def __repr__(self) -> str:
        if not isinstance(self.times, jax.Array | np.ndarray):  # specifications in the shape of a Trajectory
            return super().__repr__()
        if is_traced(self.times) or self.times.ndim != 1:
            return f"Trajectory({self.times.shape} times of {', '.join(self.observed)})"
        self = self.reached()
        lines = [self.what_happened, "  ".join(f"{name}: {_show(value)}" for name, value in self.stats.items())]
        if self.net is not None:
            lines.append(f"net: {self.net if isinstance(self.net, MLP) else type(self.net).__name__}")
        return "\n".join([*lines, *_table(self.times, flatten(self.observed))])


class RunError(RuntimeError):
    """A run that failed numerically. `trajectory` holds everything up to the failure."""

    def __init__(self, trajectory: Trajectory):
        super().__init__(f"{trajectory.what_happened} Pass `throw=False` to get the part that was computed.")
        self.trajectory = trajectory


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C during a run. `trajectory` holds everything up to there."""

    def __init__(self, trajectory: Trajectory):
        super().__init__(trajectory.what_happened)
        self.trajectory = trajectory


def make_trajectory(
    record: Record,
    names: tuple[str, ...],
    objective: AbstractObjective,
    parameters: PyTree,
    *,
    end_time: Array,
    status: Array,
    counts: Mapping[str, Any],
    notes: Mapping[str, str],
    began: float,
) -> Trajectory:
    """A trajectory from the record of a run, which has one more place than save times, for a run that ends early.

    Inside `jax.jit` that place is dropped. A sweep, which uses its traced results outside, keeps it and repeats the
    last observation in unfilled places, so that the last entry is the same as in a single call.

    **Arguments:** `parameters`: at the end; `began`: the reading of `time.perf_counter` at the start of the call.
    """
    branches = frozen_branches(objective.natural(parameters), objective.frozen)
    notes = {**notes, "frozen": ", ".join(branches)} if branches else notes
    if not is_traced(record.count):
        record, end_time, status = jax.tree.map(complete, (record.cut(), end_time, status))
        # Copies on all devices become arrays of this process alone, as everything that a user has; parts stay parts.
        alone = lambda p: complete(p) if is_traced(p) or p.is_fully_replicated else p
        parameters = jax.tree.map(alone, parameters)
        counts = {name: complete(count) for name, count in counts.items()}
        counts |= {"seconds": jnp.asarray(time.perf_counter() - began)}
    elif current_replay() is not None:
        record = record.padded()
    else:
        record = record.undefined_after(len(record.times) - 1)
    observed, kept = record.values
    return Trajectory(
        times=record.times,
        steps=record.steps,
        observed=dict(zip(names, observed, strict=True)),
        net=objective.net(parameters),
        nets=None if kept is None else eqx.combine(kept, _at_every_time(objective.frozen, len(record.times))),
        end_time=end_time,
        status_code=status,
        counts=dict(counts),
        notes=tuple(notes.items()),
    )


def _at_every_time(frozen: PyTree, count: int) -> PyTree:
    repeated = lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)) if eqx.is_inexact_array(leaf) else leaf
    return jax.tree.map(repeated, frozen)


def conclude(trajectory: Trajectory, throw: bool) -> Trajectory:
    """Return the trajectory, or raise an error if it failed and `throw` is True."""
    require_flag("throw", throw)
    replay = current_replay()
    if replay is not None and throw:
        replay.raising.append(trajectory)  # who replays it sees to it
    known = constant(trajectory)
    if not throw or is_traced(known.status_code) or known.succeeded:
        return trajectory
    raise RunInterrupted(known) if known.status == "interrupted" else RunError(known)


def _plain(count: Any) -> Any:
    return (
        count.item()
        if isinstance(count, jax.Array | np.ndarray | np.generic) and not is_traced(count) and count.ndim == 0
        else count
    )


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _table(times: Array | np.ndarray, observed: Mapping[str, Array], rows: int = 8) -> list[str]:
    shown = np.unique(np.linspace(0, len(times) - 1, rows).round().astype(int)) if len(times) else []
    scalars = {name: np.asarray(values) for name, values in observed.items() if values.ndim == 1}
    width = {name: max(12, len(name)) for name in ["time", *scalars]}
    lines = ["  ".join(name.rjust(width[name]) for name in ["time", *scalars])] if scalars else []
    for i in shown if scalars else []:
        cells = {name: "undefined" if np.isnan(values[i]) else f"{values[i]:.6g}" for name, values in scalars.items()}
        lines.append("  ".join(cell.rjust(width[name]) for name, cell in ({"time": f"{times[i]:.4g}"} | cells).items()))
    others = {name: values.shape[1:] for name, values in observed.items() if values.ndim > 1}
    return lines + [f"and {name} of shape {shape} at {len(times)} times" for name, shape in others.items()]
