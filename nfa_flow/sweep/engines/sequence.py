"""One lane after another inside a compiled loop: no lane waits for another, each has the arithmetic of a single run.

On a CPU this is the fastest way, except for the smallest networks; every core runs lanes of its own.
"""

import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from ...run.status import RUNNING
from ...run.trajectory import Trajectory
from ..one_run import OneRun
from .compiled import hastily_compiled
from .engine import AbstractCompiledEngine, CompiledStage, Lane, Runs, Take
from .rows import in_sequence, put_row, row_of, stack
from .stages import Stage

_MOST_ROWS = 32
_MOST_BYTES = 2**26
_FIRST_BUDGET = 64
_SLICE_SECONDS = 0.3
_SHORT, _LONG = 0.5, 2.0  # seconds for a batch: a kill loses a longer one, Python's overhead dominates a shorter one


class InSequence(AbstractCompiledEngine):
    """Integrates a batch of lanes in one program, each to its end before the next."""

    name = "sequential"

    def runs(self, one_run: OneRun, take: Take, cancelled: Callable[[], bool]) -> Runs:
        """Run lanes, as in `AbstractEngine.runs`, in batches that take neither too long nor too short."""
        size = 1
        while lanes := take(size):
            began = time.perf_counter()
            runs = self._run(one_run, lanes, cancelled)
            if runs is None:
                return
            seconds = time.perf_counter() - began
            yield lanes, runs
            rows = _rows(self.stage(one_run, lanes[0]))
            size = min(2 * size, rows) if seconds < _SHORT else max(1, size // 2) if seconds > _LONG else size

    def _run(self, one_run: OneRun, lanes: Sequence[Lane], cancelled: Callable[[], bool]) -> list[Trajectory] | None:
        first, count = lanes[0], jnp.asarray(len(lanes), jnp.int32)
        size = _rows(self.stage(one_run, first))
        rows, finals = stack([lane.row for lane in lanes], size), ()
        while True:
            stage = self.stage(one_run, first)
            shared = stage.stage.shared(first.row, first.finals)
            own, state = stage.prepare(shared, rows, finals, count)
            if stage.stage.is_last:
                return stage.trajectories(state, len(lanes))
            state = _integrate(stage, shared, own, state, len(lanes), cancelled)
            if state is None:
                return None
            finals = (*finals, state)
            first = first.after(row_of(state, 0))

    def compiled(self, stage: Stage) -> CompiledStage:
        """The stage with programs that loop over the rows of a batch."""

        def prepare(shared: PyTree, rows: PyTree, finals: PyTree, count: Int[Array, ""]) -> PyTree:
            return in_sequence(lambda row: stage.prepare(shared, *row), (rows, finals), count)

        def advance(shared: PyTree, own: PyTree, states: PyTree, count: Array, budget: Array) -> PyTree:
            """Use the budget for the first row until this has ended, then for the next one."""

            def one(i: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
                states, left = carry
                before = row_of(states, i)
                after = stage.advance(shared, row_of(own, i), before, left)
                return put_row(states, i, after), left - (after.steps - before.steps)

            return jax.lax.fori_loop(0, count, one, (states, budget))[0]

        return CompiledStage(stage, hastily_compiled(prepare), jax.jit(advance, donate_argnums=2))


def _integrate(
    stage: CompiledStage, shared: PyTree, own: PyTree, state: PyTree, count: int, cancelled: Callable[[], bool]
) -> PyTree | None:
    """The final states of all rows, or None if it was canceled before."""
    budget, limit = _FIRST_BUDGET, jnp.asarray(count, jnp.int32)
    while np.any(np.asarray(state.status)[:count] == RUNNING):
        if cancelled():
            return None
        began = time.perf_counter()
        state = jax.block_until_ready(stage.advance(shared, own, state, limit, jnp.asarray(budget, jnp.int32)))
        seconds = time.perf_counter() - began
        budget = int(np.clip(budget * _SLICE_SECONDS / seconds, max(1, budget // 4), 4 * budget))
    return state


def _rows(stage: CompiledStage) -> int:
    return int(np.clip(_MOST_BYTES // stage.stage.row_bytes, 1, _MOST_ROWS))
