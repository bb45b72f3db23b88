"""One function over many settings: a labeled dataset that loses no finished run."""

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
    """Ctrl-C during a sweep. `dataset` holds the finished runs; with a store, the same call goes on from there."""

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

    Runs that differ in numbers only (seeds, decay rates, scales) share one compiled program, with adaptive steps of
    their own; those that differ in structure are compiled each. All cores or accelerators of this machine are used,
    without processes of their own. A run that fails is recorded with its reason and disturbs no other.

    **Arguments:**
    - `one_run`: your function, from a PRNG key and settings to the `Trajectory` of `gradient_flow` or
      `gradient_descent`, or of several of them one after another. It is traced by JAX, as under `jax.jit`, where that
      is possible, and called run by run where it is not. Batched, `except RunError` inside it cannot work: where a
      run fails, the whole has failed.
    - `grid`: the settings.
    - `store`: a Zarr store (a folder) that keeps every finished run. The same call goes on from what is there, also
      with values added to the grid. `xr.open_zarr(store)` opens the result, as it was when a sweep last began or ended;
      finished runs are in its group `runs`. Two processes may use one store at the same time. Each runs whatever was
      missing when it started, so some runs may be computed twice. Where anything else that decides the results differs
      from what the finished runs were computed with, the store is refused with the names of what differs: your
      functions and what they refer to, the sources of this library, versions of packages, precision, random numbers.
    - `accept`: names of differences that you know of, as the refusal gives them, or the first part of a name
      (`"one_run"`, `"versions.jax"`): the finished runs are kept, and what was accepted is written into the store.
    - `executor`: any `concurrent.futures.Executor` to run on instead, such as a `ProcessPoolExecutor` that spawns, or
      `client.get_executor()` of dask, which waits for workers that have not started yet; one worker per core or
      accelerator is best. `one_run` is sent with every part of the work, so large data are better loaded inside it than
      bound to it.
    - `batch`: "sequential" runs lanes one after another in a compiled loop on every core; "vmap" in lockstep,
      refilling and shrinking the batch as lanes end; "off" calls `one_run` plainly, several at once in threads, so that
      it must not rely on random numbers with a global state; "auto" is "sequential" on a CPU and "vmap" on an
      accelerator. Under `jax_debug_nans`, `jax_debug_infs` and `jax_disable_jit` always "off".
    - `progress`: show a progress bar on stderr; or a function that is called several times a second with the counts so
      far (`total`, `done`, `failed`, `running`), in this thread.

    **Returns:** a dataset with the grid's axes and `time` as dimensions (NaN where a run has no value) of all
    observables, and `<observable>_at_end`, `status`, `reason`, `end_time` and counts of each run. Where save times
    differ between runs, `time` has no labels and `times` is a variable. A count or note of a name that an axis has is
    `<name>_of_run`. Networks are not kept: observe what you need of them. A table of all runs is the CSV file beside
    the store.

    Results do not depend on other lanes. They equal those of a single call to rounding, which an adaptive solver may
    amplify: explicit solvers to about 1e-12, `NDF` to its tolerance where rounding decides about one more iteration.
    "sequential" gives the same bits however runs are spread; "vmap" may sum in another order. Solver, default
    tolerance and notes are those of a single call.

    **Raises:** ValueError for bad arguments, and for a store of other settings; OSError when the store cannot be
    written (finished runs stay); RuntimeError when every run raised an error, or the executor lost its workers;
    `SweepInterrupted` on Ctrl-C; `SystemExit` of `one_run`, whose run is recorded as an error.
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
        except SystemExit:  # of `one_run`: its run is recorded
            keeper.conclude()
            raise
        except KeyboardInterrupt:
            raise SweepInterrupted(keeper.conclude(), f"The sweep was interrupted: {keeper.describe()}.") from None


def load_sweep(path: str | os.PathLike) -> "xarray.Dataset":
    """The dataset of the last sweep on this store, of all its runs, or of those that are finished by now.

    Nothing is run. After a kill, and while another process runs the sweep, `status` is "missing" for the other runs;
    `xr.open_zarr(path)` shows the runs that were finished when that sweep began, until a sweep ends. Where the last
    sweep had fewer values than an earlier one, the other runs stay stored, but are not in its dataset.

    **Raises:** FileNotFoundError where there is no sweep, or none of whose runs has finished; ValueError where there is
    something else, and for a damaged file, which it names.
    """
    from .store.load import load

    return load(path)


def _unfinished(group: Group, results: Mapping[str, RunResult]) -> Group:
    """What is left of a group, to be batched as before: results must not depend on when the sweep was interrupted."""
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
