"""The path θ(t) of a flow, kept in a bounded memory, to be evaluated where its derivatives are integrated.

A block of steps is stored with all that the solver's own interpolant needs. Those of other blocks are computed again
from marks. A run that fits into one block is computed once.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ...run.status import RUNNING
from ..integrate import FlowProblem, FlowState
from ..marks import Marks, Row, bytes_of, put, row_specs, row_step, unobserved, without_record

_MEMORY = 2**26  # bytes that a path takes
_SHORTEST, _LONGEST = 8, 256  # blocks, in steps; both are even


class Path(eqx.Module):
    """What is kept of a flow: arrays only."""

    marks: Marks  # of which there are as many as steps in a block
    rows: Row  # each array leads with the steps of the block
    block: Int[Array, ""]  # that `rows` hold
    last_time: Float[Array, ""]  # of the run, which a stop rule may have ended within a step

    @property
    def size(self) -> int:
        """Steps in a block."""
        return len(self.rows.end)

    @property
    def last_block(self) -> Int[Array, ""]:
        """The block in which the run ends."""
        return jnp.maximum(self.marks.steps - 1, 0) // self.size

    @property
    def count(self) -> Int[Array, ""]:
        """Steps in the block that is loaded."""
        return jnp.clip(self.marks.steps - self.block * self.size, 1, self.size)

    @property
    def inner_ends(self) -> Int[Array, ""]:
        """The steps of the loaded block without the last one of the run, at whose end nothing can happen any more."""
        return self.count - jnp.where(self.block == self.last_block, 1, 0)

    @property
    def begin(self) -> Float[Array, ""]:
        """The time at which the loaded block begins."""
        return self.rows.begin[0]

    @property
    def end(self) -> Float[Array, ""]:
        """The time at which the loaded block ends."""
        return jnp.where(self.block == self.last_block, self.last_time, self.rows.end[self.count - 1])

    def row_at(self, time: Float[Array, ""]) -> Int[Array, ""]:
        """The step of the loaded block that ends at this time, or is the first to end later."""
        ends = jnp.where(jnp.arange(self.size) < self.count, self.rows.end, jnp.inf)
        return jnp.clip(jnp.searchsorted(ends, time), 0, self.count - 1)


class PathKeeper(eqx.Module):
    """Keeps and evaluates the path of one problem."""

    problem: FlowProblem  # without observations and stop rules
    shapes: Row
    rest: Row  # what is no array in a row

    @classmethod
    def of(cls, problem: FlowProblem, state: FlowState) -> "PathKeeper":
        """The keeper for the runs of a problem; `state`: any of their states."""
        bare = unobserved(problem)
        return cls(bare, *row_specs(bare, without_record(bare, state)))

    def integrate(self, problem: FlowProblem, state: FlowState) -> tuple[FlowState, Path]:
        """Integrate a problem to its end, as `advance` does, and keep its path."""

        def add(carry: tuple[FlowState, Path]) -> tuple[FlowState, Path]:
            new, row, accepted = row_step(problem, carry[0])
            return new, self._add(carry[1], new, eqx.filter(row, eqx.is_array), accepted)

        return jax.lax.while_loop(lambda carry: carry[0].status == RUNNING, add, (state, self._empty(state)))

    def at(self, path: Path, time: Float[Array, ""], first: Any = 0, last: Any = _LONGEST) -> tuple[PyTree, PyTree]:
        """What is kept of the step at a time within the block that is loaded, and the parameters; at its ends outside.

        **Arguments:** `first`, `last`: steps between which the step is; of those that meet at an event, the right one.
        """
        time = jnp.clip(time, path.begin, path.end)
        return self.on(path, jnp.clip(path.row_at(time), first, last), time)

    def on(self, path: Path, row: Int[Array, ""], time: Float[Array, ""]) -> tuple[PyTree, PyTree]:
        """The same on a step of the block."""
        kept = eqx.combine(jax.tree.map(lambda buffer: buffer[row], path.rows), self.rest)
        return kept.dense, kept.at(self.problem, time)

    def load(self, path: Path, block: Int[Array, ""]) -> Path:
        """The path with the steps of another block, computed again from the last mark before it."""
        first, size, stride = block * path.size, path.size, path.marks.stride
        last = jnp.where(block == path.block, 0, jnp.minimum(first + size, path.marks.steps))

        def again(carry: tuple[FlowState, Array, Row]) -> tuple[FlowState, Array, Row]:
            state, done, rows = carry
            new, row, accepted = row_step(self.problem, state)
            at = jnp.where(accepted & (done >= first), done - first, size)
            return new, done + jnp.where(accepted, 1, 0), put(rows, at, eqx.filter(row, eqx.is_array))

        mark, unfinished = first // stride, lambda carry: (carry[1] < last) & (carry[0].status == RUNNING)
        begun = path.marks[mark], mark * stride, path.rows
        rows = jax.lax.while_loop(unfinished, again, begun)[2]
        return dataclasses.replace(path, rows=rows, block=block)

    def _empty(self, state: FlowState) -> Path:
        first = without_record(self.problem, state)
        size = min(max(_MEMORY // bytes_of(self.shapes, first) // 2 * 2, _SHORTEST), _LONGEST)
        rows = jax.tree.map(lambda spec: jnp.zeros((size, *spec.shape), spec.dtype), self.shapes)
        return Path(Marks.begun(first, size, size), rows, block=jnp.zeros((), jnp.int32), last_time=state.t)

    def _add(self, path: Path, state: FlowState, row: Row, accepted: Bool[Array, ""]) -> Path:
        """The path of a run that has made one more step, to `state`."""
        steps, size = path.marks.steps, path.size
        rows = put(path.rows, jnp.where(accepted, steps % size, size), row)
        block = jnp.where(accepted, steps // size, path.block)
        return Path(path.marks.add(without_record(self.problem, state), accepted), rows, block, last_time=state.t)
