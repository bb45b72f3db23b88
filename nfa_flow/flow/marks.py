"""Some states of a flow, from which the steps after them are computed again."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..run.observation import Observer, empty_record
from .integrate import FlowProblem, FlowState, step


class Row(eqx.Module):
    """A step from the time `begin` to `end`, and what interpolates it."""

    begin: Float[Array, ""]
    end: Float[Array, ""]
    dt: Float[Array, ""]  # the attempted step, which an event may have ended early
    dense: PyTree

    def at(self, problem: FlowProblem, time: Float[Array, ""]) -> PyTree:
        """The parameters at a time within the step."""
        interpolation: Any = problem.solver.interpolation_cls
        inside = interpolation(t0=jnp.zeros_like(self.dt), t1=self.dt, **self.dense)
        return inside.evaluate((time - self.begin).astype(self.dt.dtype))


class Marks(eqx.Module):
    """States after every `stride` accepted steps; `stride` doubles when there is no room for more."""

    states: FlowState  # each array leads with the marks
    stride: Int[Array, ""]  # accepted steps between two marks
    steps: Int[Array, ""]  # accepted so far

    @classmethod
    def begun(cls, first: FlowState, count: int, stride: int) -> "Marks":
        """Room for `count` states, an even number, of which the start is the first."""
        buffers = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), first)
        none = jnp.zeros((), jnp.int32)
        return cls(put(buffers, none, first), none + stride, none)

    @property
    def begin(self) -> Float[Array, ""]:
        """The time of the first mark."""
        return self.states.t[0]

    def __getitem__(self, mark: Int[Array, ""]) -> FlowState:
        return jax.tree.map(lambda buffer: buffer[mark], self.states)

    def before(self, time: Float[Array, ""]) -> FlowState:
        """The last mark before a time, or the first one."""
        taken = jnp.arange(self._size) <= self.steps // self.stride
        return self[jnp.maximum(jnp.sum(taken & (self.states.t < time)) - 1, 0)]

    def add(self, state: FlowState, accepted: Bool[Array, ""]) -> "Marks":
        """The marks after one more step, to `state`."""
        steps = self.steps + jnp.where(accepted, 1, 0)
        marks = dataclasses.replace(self, steps=steps)._with_room()
        at = jnp.where(accepted & (steps % marks.stride == 0), steps // marks.stride, self._size)
        return dataclasses.replace(marks, states=put(marks.states, at, state))

    @property
    def _size(self) -> int:
        return len(self.states.t)

    def _with_room(self) -> "Marks":
        """The marks with room for one at the last step: without every other one if they are too many."""

        def thinned(marks: Marks) -> Marks:
            half = jax.tree.map(lambda buffer: buffer.at[: marks._size // 2].set(buffer[::2]), marks.states)
            return Marks(half, 2 * marks.stride, marks.steps)

        return jax.lax.while_loop(lambda marks: marks.steps // marks.stride >= marks._size, thinned, self)


def unobserved(problem: FlowProblem) -> FlowProblem:
    """The problem without observations and stop rules, whose steps are the same."""
    nothing = Observer((), (), problem.observer.data, False)
    never = jnp.full_like(problem.save_times[:1], jnp.inf)
    return dataclasses.replace(problem, observer=nothing, save_times=never, stop=())


def without_record(bare: FlowProblem, state: FlowState) -> FlowState:
    """The state of a problem as one of the same problem without observations."""
    record = empty_record(2, bare.t1.dtype, bare.observer, bare.objective, state.parameters)
    return dataclasses.replace(state, record=record, budget=None, before=None)


def row_step(problem: FlowProblem, state: FlowState) -> tuple[FlowState, Row, Bool[Array, ""]]:
    """One more attempt: the state after it, what it covers, and whether it was accepted."""
    new, attempt = step(problem, state)
    row = Row(state.t - state.t_excess, new.t - new.t_excess, attempt.dt, attempt.dense)
    return new, row, new.rejected == state.rejected


def row_specs(bare: FlowProblem, state: FlowState) -> tuple[Row, Row]:
    """The shapes of the arrays of a row, and the rest of it."""
    row = eqx.filter_eval_shape(lambda state: row_step(bare, state)[1], state)
    is_spec = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
    return eqx.partition(row, is_spec)


def put(buffers: PyTree, at: Int[Array, ""], values: PyTree) -> PyTree:
    """The buffers with these values in one place; none if there is no such place."""
    return jax.tree.map(lambda buffer, value: buffer.at[at].set(value, mode="drop"), buffers, values)


def bytes_of(*trees: PyTree) -> int:
    """The memory of the arrays, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trees))
