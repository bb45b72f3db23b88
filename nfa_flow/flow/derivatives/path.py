"""The path θ(t) of a flow, kept in a bounded memory, to be evaluated where its derivatives are integrated.

A block of steps is stored with all that the solver's own interpolant needs. Of the others some states are kept, as
marks from which the steps of another block are computed again: one at every `stride` steps, a number that doubles when
there is no room for more marks. A run that fits into one block is computed once.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ...run.observation import Observer, empty_record
from ...run.status import RUNNING
from ..integrate import FlowProblem, FlowState, step

_MEMORY = 2**26  # bytes that a path takes
_SHORTEST, _LONGEST = 8, 256  # blocks, in steps; both are even


class Row(eqx.Module):
    """An accepted step from the time `begin` to `end`, and what interpolates it."""

    begin: Float[Array, ""]
    end: Float[Array, ""]
    dt: Float[Array, ""]  # the attempted step, which an event may have ended early
    dense: PyTree


class Path(eqx.Module):
    """What is kept of a flow: arrays only."""

    marks: FlowState  # each array leads with the marks
    stride: Int[Array, ""]  # accepted steps between two marks
    rows: Row  # each array leads with the steps of the block
    block: Int[Array, ""]  # that `rows` hold
    steps: Int[Array, ""]  # accepted in the whole run
    last_time: Float[Array, ""]  # of the run, which a stop rule may have ended within a step

    @property
    def size(self) -> int:
        """Steps in a block, and the number of marks."""
        return len(self.rows.end)

    @property
    def last_block(self) -> Int[Array, ""]:
        """The block in which the run ends."""
        return jnp.maximum(self.steps - 1, 0) // self.size

    @property
    def count(self) -> Int[Array, ""]:
        """Steps in the block that is loaded."""
        return jnp.clip(self.steps - self.block * self.size, 1, self.size)

    @property
    def begin(self) -> Float[Array, ""]:
        """The time at which the loaded block begins."""
        return self.rows.begin[0]

    @property
    def end(self) -> Float[Array, ""]:
        """The time at which the loaded block ends."""
        return jnp.minimum(self.rows.end[self.count - 1], self.last_time)

    def row_at(self, time: Float[Array, ""]) -> Int[Array, ""]:
        """The step of the loaded block that ends at this time, or is the first to end later."""
        ends = jnp.where(jnp.arange(self.size) < self.count, self.rows.end, jnp.inf)
        return jnp.clip(jnp.searchsorted(ends, time), 0, self.count - 1)


class PathKeeper(eqx.Module):
    """Keeps and evaluates the path of one problem."""

    problem: FlowProblem  # without observations and stop rules
    rest: Row  # what is no array in a row

    @classmethod
    def of(cls, problem: FlowProblem, state: FlowState) -> "PathKeeper":
        """The keeper for the runs of a problem; `state`: any of their states."""
        nothing = Observer((), (), problem.observer.data, False)
        bare = dataclasses.replace(
            problem, observer=nothing, save_times=jnp.full_like(problem.save_times[:1], jnp.inf), stop=()
        )
        row = eqx.filter_eval_shape(lambda state: _step(bare, state)[1], _unobserved(bare, state))
        return cls(bare, eqx.filter(row, _is_spec, inverse=True))

    def integrate(self, problem: FlowProblem, state: FlowState) -> tuple[FlowState, Path]:
        """Integrate a problem to its end, as `advance` does, and keep its path."""

        def add(carry: tuple[FlowState, Path]) -> tuple[FlowState, Path]:
            new, row, accepted = _step(problem, carry[0])
            return new, self._add(carry[1], new, eqx.filter(row, eqx.is_array), accepted)

        return jax.lax.while_loop(lambda carry: carry[0].status == RUNNING, add, (state, self._empty(state)))

    def at(self, path: Path, time: Float[Array, ""]) -> PyTree:
        """The parameters at a time within the block that is loaded."""
        at = path.row_at(time)
        row = eqx.combine(jax.tree.map(lambda buffer: buffer[at], path.rows), self.rest)
        inside = self.problem.solver.interpolation_cls(t0=jnp.zeros_like(row.dt), t1=row.dt, **row.dense)
        return inside.evaluate((time - row.begin).astype(row.dt.dtype))

    def load(self, path: Path, block: Int[Array, ""]) -> Path:
        """The path with the steps of another block, computed again from the last mark before it."""
        first, size = block * path.size, path.size
        mark = first // path.stride
        state = jax.tree.map(lambda buffer: buffer[mark], path.marks)
        last = jnp.where(block == path.block, 0, jnp.minimum(first + size, path.steps))

        def again(carry: tuple[FlowState, Array, Row]) -> tuple[FlowState, Array, Row]:
            state, done, rows = carry
            new, row, accepted = _step(self.problem, state)
            at = jnp.where(accepted & (done >= first), done - first, size)
            return new, done + jnp.where(accepted, 1, 0), _put(rows, at, eqx.filter(row, eqx.is_array))

        begun = state, mark * path.stride, path.rows
        rows = jax.lax.while_loop(lambda carry: carry[1] < last, again, begun)[2]
        return dataclasses.replace(path, rows=rows, block=block)

    def _empty(self, state: FlowState) -> Path:
        first = _unobserved(self.problem, state)
        row = eqx.filter(eqx.filter_eval_shape(lambda state: _step(self.problem, state)[1], first), _is_spec)
        size = _size(row, first)
        none = jnp.zeros((), jnp.int32)
        buffers = lambda tree: jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), tree)
        marks = _put(buffers(first), none, first)
        return Path(marks=marks, stride=none + size, rows=buffers(row), block=none, steps=none, last_time=state.t)

    def _add(self, path: Path, state: FlowState, row: Row, accepted: Bool[Array, ""]) -> Path:
        """The path of a run that has made one more step, to `state`."""
        steps, size = path.steps + jnp.where(accepted, 1, 0), path.size
        rows = _put(path.rows, jnp.where(accepted, path.steps % size, size), row)
        block = jnp.where(accepted, path.steps // size, path.block)
        path = _with_room(dataclasses.replace(path, rows=rows, block=block, steps=steps, last_time=state.t))
        at = jnp.where(accepted & (steps % path.stride == 0), steps // path.stride, size)
        return dataclasses.replace(path, marks=_put(path.marks, at, _unobserved(self.problem, state)))


def _step(problem: FlowProblem, state: FlowState) -> tuple[FlowState, Row, Bool[Array, ""]]:
    new, attempt = step(problem, state)
    row = Row(state.t - state.t_excess, new.t - new.t_excess, attempt.dt, attempt.dense)
    return new, row, new.rejected == state.rejected


def _unobserved(bare: FlowProblem, state: FlowState) -> FlowState:
    record = empty_record(2, bare.t1.dtype, bare.observer, bare.objective, state.parameters)
    return dataclasses.replace(state, record=record, budget=None)


def _with_room(path: Path) -> Path:
    """The path with room for a mark at its last step: without every other one if they are too many."""

    def thinned(path: Path) -> Path:
        half = jax.tree.map(lambda buffer: buffer.at[: path.size // 2].set(buffer[::2]), path.marks)
        return dataclasses.replace(path, marks=half, stride=2 * path.stride)

    return jax.lax.while_loop(lambda path: path.steps // path.stride >= path.size, thinned, path)


def _size(row: PyTree, state: PyTree) -> int:
    """How many rows and as many states fit into the memory of a path."""
    each = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((row, state)))
    return min(max(_MEMORY // each // 2 * 2, _SHORTEST), _LONGEST)


def _put(buffers: PyTree, at: Int[Array, ""], values: PyTree) -> PyTree:
    """The buffers with these values in one place; none if there is no such place."""
    return jax.tree.map(lambda buffer, value: buffer.at[at].set(value, mode="drop"), buffers, values)


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)
