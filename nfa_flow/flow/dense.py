"""A flow that can be evaluated at any time after it has ended: marks are kept, and the steps between computed again."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ..checks import is_traced, require_number, wrong
from ..numerics.switches import full_precision, usual_promotion
from ..run.status import RUNNING
from ..run.trajectory import AbstractDense
from .integrate import FlowProblem, FlowState
from .marks import Marks, Row, bytes_of, row_specs, row_step, unobserved, without_record

_MEMORY = 2**26  # bytes that marks take
_FEWEST, _MOST = 16, 1024  # both even


class Followed(eqx.Module):
    """The state of a flow, and its marks."""

    flow: FlowState
    marks: Marks

    @classmethod
    def begun(cls, problem: FlowProblem, first: FlowState) -> "Followed":
        """At the start of a flow."""
        first_mark = without_record(unobserved(problem), first)
        count = min(max(_MEMORY // bytes_of(first_mark) // 2 * 2, _FEWEST), _MOST)
        return cls(first, Marks.begun(first_mark, count, 1))

    @property
    def status(self) -> Int[Array, ""]:
        """The status of the flow."""
        return self.flow.status

    @property
    def t(self) -> Float[Array, ""]:
        """The time of the flow."""
        return self.flow.t


@usual_promotion()
@full_precision
def advance_followed(problem: FlowProblem, state: Followed, budget: int | Int[Array, ""]) -> Followed:
    """At most `budget` more steps (accepted or not), as `advance`."""
    last, bare = state.flow.steps + budget, unobserved(problem)

    def follow(state: Followed) -> Followed:
        new, _, accepted = row_step(problem, state.flow)
        return Followed(new, state.marks.add(without_record(bare, new), accepted))

    return jax.lax.while_loop(lambda s: (s.flow.status == RUNNING) & (s.flow.steps < last), follow, state)


class Dense(AbstractDense):
    """The marks of a flow that has ended at `end`."""

    problem: FlowProblem
    marks: Marks
    end: Float[Array, ""]

    @classmethod
    def of(cls, problem: FlowProblem, state: Followed) -> "Dense":
        """Of a flow in its last state."""
        return cls(unobserved(problem), state.marks, state.t)

    def net_at(self, time: Any) -> Any:
        """See `Trajectory.net_at_time`."""
        if is_traced(time):
            raise wrong("time", "a number that is known, outside of `jax.jit`", "traced by JAX")
        require_number("time", time)
        begin, end = float(self.marks.begin), float(self.end)
        if not begin <= time <= end:
            raise wrong("time", f"within the run, from {begin:g} to {end:g}", f"{float(time):g}")
        return self.problem.objective.net(_parameters(self.problem, self.marks, jnp.asarray(time, self.end.dtype)))


@eqx.filter_jit
@usual_promotion()
@full_precision
def _parameters(problem: FlowProblem, marks: Marks, time: Float[Array, ""]) -> PyTree:
    state = marks.before(time)
    shapes, rest = row_specs(problem, state)
    row = jax.tree.map(lambda spec: jnp.zeros(spec.shape, spec.dtype), shapes)
    row = dataclasses.replace(row, end=jnp.full_like(time, -jnp.inf))

    def again(carry: tuple[FlowState, Row]) -> tuple[FlowState, Row]:
        new, row, accepted = row_step(problem, carry[0])
        keep = lambda new, old: jnp.where(accepted, new, old)
        return new, jax.tree.map(keep, eqx.filter(row, eqx.is_array), carry[1])

    unfinished = lambda carry: (carry[1].end < time) & (carry[0].status == RUNNING)
    _, row = jax.lax.while_loop(unfinished, again, (state, row))
    return eqx.combine(row, rest).at(problem, time)
