"""One lane after another inside a compiled loop: no lane waits for another, each gets the arithmetic of a single run.

On a CPU this is the fastest way for all but the smallest networks; every core works on lanes of its own.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from ...run.status import RUNNING
from ...run.trajectory import Trajectory
from ..result import to_result
from .compiled import Compiled
from .engine import AbstractCompiledEngine, Deliver, Lane, Leg, Take, trajectories
from .rows import in_sequence, put_row, row_of, stack
from .stages import Stage

_MOST_ROWS = 32
_MOST_BYTES = 2**26
_FIRST_BUDGET = 64
_SLICE_SECONDS = 0.3
_SHORT, _LONG = 0.5, 2.0  # seconds for a batch: a kill loses the longer ones, Python's overhead the shorter ones


class InSequence(AbstractCompiledEngine):
    """See above."""

    name = "sequential"

    def work(self, take: Take, deliver: Deliver, cancelled: Callable[[], bool]) -> None:
        """See `AbstractEngine.work`."""
        size = 1
        while lanes := take(size):
            began = time.perf_counter()
            runs = self._run(lanes, cancelled)
            if runs is None:
                return
            seconds = time.perf_counter() - began
            results = [to_result(run, seconds / len(lanes), self.name) for run in runs]
            deliver(list(zip(lanes, results, strict=True)))
            rows = self._rows(lanes[0])
            size = min(2 * size, rows) if seconds < _SHORT else max(1, size // 2) if seconds > _LONG else size

    def _run(self, lanes: Sequence[Lane], cancelled: Callable[[], bool]) -> list[Trajectory] | None:
        first, size, count = lanes[0], self._rows(lanes[0]), jnp.asarray(len(lanes), jnp.int32)
        rows, finals = stack([lane.row for lane in lanes], size), ()
        while True:
            leg = self.leg(first)
            shared = leg.shared(first)
            own, state = leg.prepare(shared, rows, finals, count)
            if leg.stage.is_last:
                return trajectories(leg.stage, state, len(lanes))
            state = _integrate(leg, shared, own, state, len(lanes), cancelled)
            if state is None:
                return None
            finals = (*finals, state)
            first = first.after(row_of(state, 0))

    def _rows(self, lane: Lane) -> int:
        return int(
            np.clip(_MOST_BYTES // self.leg(dataclasses.replace(lane, finals=())).stage.row_bytes, 1, _MOST_ROWS)
        )

    def _make_leg(self, stage: Stage) -> Leg:
        def prepare(shared: PyTree, rows: PyTree, finals: PyTree, count: Int[Array, ""]) -> PyTree:
            return in_sequence(lambda row: stage.prepare(shared, *row), (rows, finals), count)

        def advance(shared: PyTree, own: PyTree, states: PyTree, count: Array, budget: Array) -> PyTree:
            """Spend the budget on the first row until it ends, then on the next."""

            def one(i: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
                states, left = carry
                before = row_of(states, i)
                after = stage.advance(shared, row_of(own, i), before, left)
                return put_row(states, i, after), left - (after.steps - before.steps)

            return jax.lax.fori_loop(0, count, one, (states, budget))[0]

        return Leg(stage, Compiled(prepare, hastily=True), Compiled(advance, donate=(2,)))


def _integrate(
    leg: Leg, shared: PyTree, own: PyTree, state: PyTree, count: int, cancelled: Callable[[], bool]
) -> PyTree | None:
    """The final states of all rows; None where it was cancelled on the way."""
    budget, limit = _FIRST_BUDGET, jnp.asarray(count, jnp.int32)
    while np.any(np.asarray(state.status)[:count] == RUNNING):
        if cancelled():
            return None
        began = time.perf_counter()
        state = jax.block_until_ready(leg.advance(shared, own, state, limit, jnp.asarray(budget, jnp.int32)))
        seconds = time.perf_counter() - began
        budget = int(np.clip(budget * _SLICE_SECONDS / seconds, max(1, budget // 4), 4 * budget))
    return state
