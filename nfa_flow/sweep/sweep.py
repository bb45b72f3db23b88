"""The functions `sweep` and `load_sweep`: from one function and a grid to a labeled dataset of all runs."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from ..checks import require_choice, wrong
from ..numerics.blas import one_blas_thread
from ..run.interrupts import never_ignored
from ..run.trajectory import Trajectory
from .engines.choice import BATCHES, Batch
from .grid import Grid
from .one_run import OneRun, check_signature
from .plan import Group, make_plan
from .progress import Tally, shown
from .result import BATCH_NOTE, ERROR, Results, RunResult
from .workers.local import LocalWorkers
from .workers.remote import RemoteWorkers, check_executor

if TYPE_CHECKING:
    import xarray

    from .store.keeper import Keeper


class SweepInterrupted(KeyboardInterrupt):
    """Ctrl-C during a sweep. `dataset` holds the finished runs; with a store, the same call continues from there."""

    def __init__(self, dataset: "xarray.Dataset", message: str):
        super().__init__(message)
        self.dataset = dataset


def sweep(
    one_run: Callable[..., Trajectory],
    grid: Grid,
    *,
    store: str | os.PathLike | None = None,
    accept: str | Sequence[str] = (),
    executor: Executor | None = None,
    batch: Batch = "auto",
    progress: bool | Callable[[Tally], None] = True,
) -> "xarray.Dataset":
    """Call `one_run(key=…, **settings)` for all settings of a grid.

    Runs that differ only in numbers (seeds, decay rates, scales) share one compiled program, but each has its own
    adaptive steps; runs that differ in structure are compiled separately. All cores or accelerators of this machine are
    used, without further processes. A run that fails is recorded with its reason and disturbs no other run.

    **Arguments:**
    - `one_run`: your function, from a PRNG key and settings to the `Trajectory` of `gradient_flow` or
      `gradient_descent`, or of several of them one after another. JAX traces it, as under `jax.jit`; if that is not
      possible, it is called run by run. A traced function cannot catch a `RunError`: if one of the integrations inside
      it fails, the whole run has failed.
    - `grid`: the settings.
    - `store`: a Zarr store (a folder) that keeps every finished run. The same call continues from the finished runs,
      and values may be added to the grid. `xr.open_zarr(store)` opens the result, as it was when a sweep last began or
      ended; finished runs are in its group `runs`. Two processes may use one store at the same time. Each runs whatever
      was missing when it started, so some runs may be computed twice. The finished runs must have been computed with
      the same functions of yours (and everything that these refer to), sources of this library, versions of packages,
      precision and random numbers. Otherwise the store is refused, and the error names the differences.
    - `accept`: names of differences that do not matter, as in the error, or the first part of a name (`"one_run"`,
      `"versions.jax"`). The finished runs are kept, and the accepted differences are written into the store.
    - `executor`: any `concurrent.futures.Executor` to run on instead, such as a `ProcessPoolExecutor` that spawns, or
      `client.get_executor()` of dask, which waits for workers that have not started yet; one worker per core or
      accelerator is best. `one_run` is sent with every piece of the work, so load large data inside it instead of
      binding them to it.
    - `batch`: "sequential" runs lanes one after another in a compiled loop on every core; "vmap" in lockstep,
      refilling and shrinking the batch as lanes end; "off" calls `one_run` itself, several calls at once in threads, so
      it must not use random numbers with a global state; "auto" is "sequential" on a CPU and "vmap" on an accelerator.
      Under `jax_debug_nans`, `jax_debug_infs` and `jax_disable_jit` it is always "off".
    - `progress`: whether to show a progress bar on stderr; or a function that is called in this thread several times a
      second with the counts so far (`total`, `done`, `failed`, `running`).

    **Returns:** a dataset of all observables, whose dimensions are the axes of the grid and `time`, and of
    `<observable>_at_end`, `status`, `reason`, `end_time` and counts of each run. Values that a run does not have are
    NaN. If save times differ between runs, `time` has no labels and `times` is a variable. If a count or note has the
    name of an axis, it is called `<name>_of_run`. Networks are not kept: observe everything that you need of them. The
    CSV file beside the store is a table of all finished runs.

    Results do not depend on other lanes. They equal those of a single call up to rounding, which an adaptive solver may
    amplify: to about 1e-12 with explicit solvers, and up to its tolerance with `NDF`, because rounding may decide
    whether it iterates once more. "sequential" gives the same bits however the runs are distributed; "vmap" may sum in
    another order. Solver, default tolerance and notes are those of a single call.

    **Raises:** ValueError for bad arguments, and for a store with other settings; OSError if the store cannot be
    written (the finished runs stay); RuntimeError if every run raised an error, or the executor lost its workers;
    `SweepInterrupted` on Ctrl-C; `SystemExit` of `one_run`, after its run has been recorded as an error.
    """
    if not isinstance(grid, Grid):
        raise wrong("grid", "a `Grid`", repr(grid))
    require_choice("batch", batch, BATCHES)
    if not isinstance(progress, bool) and not callable(progress):
        raise wrong("progress", "True, False or a function", repr(progress))
    accept = [accept] if isinstance(accept, str) else accept
    if not isinstance(accept, Sequence) or not all(isinstance(name, str) for name in accept):
        raise wrong("accept", "the name of a difference, or a list of names", repr(accept))
    check_executor(executor)
    check_signature(one_run, grid)
    with never_ignored():
        from .store.keeper import Keeper  # here, because xarray takes a while to import

        function = OneRun.of(one_run)
        keeper = Keeper(grid, function.identity, store, accept)
        try:
            plan = make_plan(function, grid, batch) if keeper.missing else None
            keeper.begin()
            if plan is not None:
                left = [rest for group in plan.groups(grid) if (rest := _unfinished(group, keeper.results)).lanes]
                workers = LocalWorkers(function, left) if executor is None else RemoteWorkers(executor, function, left)
                _collect(workers, keeper, Tally(len(grid), len(keeper.results)), progress)
            _require_one_without_error(keeper.results)
            return keeper.conclude()
        except SystemExit:  # of `one_run`, whose run is recorded
            keeper.conclude()
            raise
        except KeyboardInterrupt:
            raise SweepInterrupted(keeper.conclude(), f"The sweep was interrupted: {keeper.describe()}.") from None


def load_sweep(path: str | os.PathLike) -> "xarray.Dataset":
    """The dataset of the last sweep on this store, with the runs that are finished by now.

    Nothing is run. After a kill, and while another process runs the sweep, the `status` of the other runs is "missing".
    Until a sweep ends, `xr.open_zarr(path)` shows only the runs that were finished when it began. If the last sweep had
    fewer values than an earlier one, the other runs stay in the store, but are not in this dataset.

    **Raises:** FileNotFoundError if there is no sweep at `path`, or no run of it has finished; ValueError if there is
    something else, or a damaged file, which the message names.
    """
    from .store.load import load

    return load(path)


def _unfinished(group: Group, results: Mapping[str, RunResult]) -> Group:
    """The unfinished lanes of a group, batched as before: results must not depend on when a sweep was interrupted."""
    before = [results[lane.key].notes[BATCH_NOTE] for lane in group.lanes if lane.key in results]
    lanes = [lane for lane in group.lanes if lane.key not in results]
    return dataclasses.replace(group, lanes=lanes, batch=before[0] if before and group.batch == "auto" else group.batch)


def _collect(
    workers: LocalWorkers | RemoteWorkers, keeper: "Keeper", tally: Tally, progress: bool | Callable[[Tally], None]
) -> None:
    def keep(results: Results) -> None:
        keeper.add(results)
        for _, result in results:
            tally.add(result)
        tally.running = workers.running
        show(tally)

    try:
        with shown(tally, progress) as show, one_blas_thread():
            workers.run(keep)
    finally:
        keeper.flush()


def _require_one_without_error(results: Mapping[str, RunResult]) -> None:
    errors = [result.reason for result in results.values() if result.status == ERROR]
    if errors and len(errors) == len(results):
        raise RuntimeError(f"every run of the sweep raised an error, such as {errors[0]}")
