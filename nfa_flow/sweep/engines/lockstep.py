"""All lanes of a bucket in lockstep by `jax.vmap`, each with its own adaptive steps: the way for accelerators.

The lanes of a bucket make a few steps at a time. Lanes that have ended leave the bucket, and waiting lanes take their
places. When no lane waits any more, the bucket shrinks to the next power of two, which costs one compilation per size.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ...run.status import RUNNING
from ..one_run import OneRun
from .compiled import hastily_compiled
from .engine import AbstractCompiledEngine, CompiledStage, Lane, Runs, Take
from .rows import put_row, row_of, rows_on_host, stack
from .stages import Stage

_MOST_ROWS = 1024
_MOST_BYTES = 2**31
_SHORTEST_SLICE = 8
_SLICES_PER_LANE = 16  # after its end, a lane occupies its place for half a slice on average
_REFILL = 8  # refill when an eighth of the places is free


class InLockstep(AbstractCompiledEngine):
    """Integrates all lanes of a bucket at once."""

    name = "vmap"

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self._gather = jax.jit(row_of)
        self._place = jax.jit(put_row)
        self._accounts = threading.Lock()
        self._longest_first = 0.0  # seconds of a first slice, most of which is compilation
        # The steps of all places of all buckets, and the part of them that lanes used.
        self.computed_steps = self.needed_steps = 0

    def runs(self, one_run: OneRun, take: Take, cancelled: Callable[[], bool], size: int | None = None) -> Runs:
        """Run lanes, as in `AbstractEngine.runs`. `size`: that of the buckets, if it is known."""
        lanes = take(size or _MOST_ROWS)
        if not lanes:
            return
        stage = self.stage(one_run, lanes[0])
        if size is None:
            size = _power_of_two(int(min(len(lanes), max(1, _MOST_BYTES // stage.stage.row_bytes))))
        if not stage.stage.is_last:
            blocks = self._integrated(stage, lanes, take, cancelled, size)
            yield from self.runs(one_run, lambda _: next(blocks, []), cancelled, size)  # no block exceeds a bucket
        while stage.stage.is_last and lanes:
            _, arrays = stage.prepare(_shared(stage, lanes[0]), *_batch(lanes, size))
            yield lanes, stage.trajectories(arrays, len(lanes))
            lanes = take(size)

    def _integrated(
        self, stage: CompiledStage, waiting: Sequence[Lane], take: Take, cancelled: Callable[[], bool], size: int
    ) -> Iterator[list[Lane]]:
        """Blocks of lanes that have reached the end of this stage."""
        shared, bucket, budget = _shared(stage, waiting[0]), _Bucket(size), _SHORTEST_SLICE
        is_first, spent = True, 0.0  # whether the next slice is the first one of this size; seconds of the later ones
        while not cancelled():
            while bucket.has_room and (waiting or (waiting := take(bucket.free))):
                entering, waiting = waiting[: bucket.free], waiting[bucket.free :]
                rows = stage.prepare(shared, *_batch(entering, bucket.size))
                bucket.enter(entering, rows, self._place)
            if bucket.occupied == 0:
                return
            # The remaining lanes take about as long as the previous ones: is that worth another compilation?
            if bucket.has_room and spent > self._longest_first and bucket.shrink(self._gather):
                is_first, spent = True, 0.0
            seconds = self._advance(stage, shared, bucket, budget)
            if is_first:
                is_first, self._longest_first = False, max(self._longest_first, seconds)
            else:
                spent += seconds
            if lanes := bucket.leave(self._gather):
                lengths = [int(lane.finals[-1].steps) for lane in lanes]
                budget = max(_SHORTEST_SLICE, int(np.mean(lengths)) // _SLICES_PER_LANE)
                yield lanes

    def _advance(self, stage: CompiledStage, shared: PyTree, bucket: "_Bucket", budget: int) -> float:
        """Make at most `budget` steps in every lane of the bucket. **Returns:** the duration in seconds."""
        began, before, own = time.perf_counter(), bucket.steps, bucket.rows[0]
        budgets = np.where(bucket.taken, budget, 0).astype(np.int32)
        bucket.rows = (own, jax.block_until_ready(stage.advance(shared, own, bucket.rows[1], budgets)))
        steps = bucket.steps - before
        with self._accounts:
            self.needed_steps += int(steps.sum())
            self.computed_steps += int(steps.max()) * bucket.size
        return time.perf_counter() - began

    def compiled(self, stage: Stage) -> CompiledStage:
        """The stage with programs for all rows of a bucket."""
        prepare, advance = jax.vmap(stage.prepare, (None, 0, 0)), jax.vmap(stage.advance, (None, 0, 0, 0))
        return CompiledStage(stage, hastily_compiled(prepare), jax.jit(advance, donate_argnums=2))


class _Bucket:
    """Places for lanes, and for each place a row of arrays: (the lane's own part of the problem, its state)."""

    def __init__(self, size: int):
        self.lanes: list[Lane | None] = [None] * size
        self.rows: Any = None

    @property
    def size(self) -> int:
        return len(self.lanes)

    @property
    def taken(self) -> np.ndarray:
        return np.asarray([lane is not None for lane in self.lanes])

    @property
    def occupied(self) -> int:
        return int(self.taken.sum())

    @property
    def free(self) -> int:
        return self.size - self.occupied

    @property
    def has_room(self) -> bool:
        """Whether enough places are free for a refill."""
        return self.free >= max(1, self.size // _REFILL)

    @property
    def steps(self) -> np.ndarray:
        return np.asarray(self.rows[1].steps)

    def enter(self, lanes: Sequence[Lane], rows: PyTree, place: Callable) -> None:
        """Put lanes, with their prepared rows, into the first free places."""
        places = np.flatnonzero(~self.taken)[: len(lanes)]
        out_of_range = np.full(self.size - len(lanes), self.size)
        self.rows = rows if self.rows is None else place(self.rows, np.concatenate([places, out_of_range]), rows)
        for i, lane in zip(places, lanes, strict=True):
            self.lanes[i] = lane

    def leave(self, gather: Callable) -> list[Lane]:
        """Remove and return the lanes that have ended, with their final states."""
        ended = np.flatnonzero(self.taken & (np.asarray(self.rows[1].status) != RUNNING))
        if not ended.size:
            return []
        finals = rows_on_host(gather(self.rows[1], np.resize(ended, self.size)), len(ended))
        left = [self.lanes[i] for i in ended]
        for i in ended:
            self.lanes[i] = None
        return [lane.after(final) for lane, final in zip(left, finals, strict=True) if lane is not None]

    def shrink(self, gather: Callable) -> bool:
        """Shrink to the next power of two that holds the lanes. **Returns:** whether the size has changed."""
        kept, size = np.flatnonzero(self.taken), _power_of_two(2 * self.occupied - 1)
        if size == self.size:
            return False
        self.rows = gather(self.rows, np.resize(kept, size))
        self.lanes = [self.lanes[i] for i in kept] + [None] * (size - len(kept))
        return True


def _shared(stage: CompiledStage, lane: Lane) -> PyTree:
    return stage.stage.shared(lane.row, lane.finals)


def _batch(lanes: Sequence[Lane], size: int) -> tuple[PyTree, PyTree]:
    return stack([lane.row for lane in lanes], size), stack([lane.finals for lane in lanes], size)


def _power_of_two(most: int) -> int:
    """The largest power of two up to `most`."""
    return 1 << (most.bit_length() - 1)
