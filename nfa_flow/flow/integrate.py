"""The loop that integrates dθ/dt = −∇(ℒ + (λ/2)‖θ‖²) with any diffrax solver.

It does what `diffrax.diffeqsolve` does, with three differences that long flows need: the loop can pause after a bounded
number of steps and go on (progress, Ctrl-C, checkpoints) with nothing lost, not even the proposed step size; time is
accumulated outside the solver, which sees only the step (the flow is autonomous), so steps far below the resolution of
a float32 time remain exact; and gradients are counted as they are spent.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ..drive import COMPLETED, DIVERGED, MAX_STEPS, RUNNING, SOLVER_FAILED, STEP_UNDERFLOW, STOPPED
from ..objective import AbstractObjective
from ..observation import Observer, Record, empty_record
from .choice import evaluations_per_step
from .stopping import AbstractStop


class FlowProblem(eqx.Module):
    """Everything that stays the same during one flow."""

    objective: AbstractObjective
    observer: Observer
    solver: diffrax.AbstractSolver
    controller: diffrax.AbstractStepSizeController
    stop: tuple[AbstractStop, ...]
    save_times: Float[Array, " s"]
    t1: Float[Array, ""]
    max_steps: Int[Array, ""]

    @property
    def terms(self) -> diffrax.ODETerm:
        return diffrax.ODETerm(lambda t, y, args: jax.tree.map(jnp.negative, self.objective.gradient(y)))


class FlowState(eqx.Module):
    """Where a flow is: enough to go on from exactly here."""

    t: Float[Array, ""]
    dt: Float[Array, ""]
    parameters: PyTree
    solver_state: PyTree
    controller_state: PyTree
    steps: Int[Array, ""]
    rejected: Int[Array, ""]
    evaluations: Int[Array, ""]
    status: Int[Array, ""]
    record: Record


def start(problem: FlowProblem, parameters: PyTree, t0: Float[Array, ""], dt0: Float[Array, ""] | None) -> FlowState:
    """The state at `t0`, with a first step size chosen by the controller unless `dt0` is given."""
    dtype = jnp.result_type(*jax.tree.leaves(parameters))
    zero = jnp.zeros((), dtype)
    horizon = (problem.t1 - t0).astype(dtype)
    dt0 = None if dt0 is None else dt0.astype(dtype)
    solver, terms = problem.solver, problem.terms
    dt, controller_state = problem.controller.init(
        terms, zero, horizon, parameters, dt0, None, solver.func, solver.error_order(terms)
    )
    solver_state = solver.init(terms, zero, jnp.asarray(dt, dtype), parameters, None)
    size = len(problem.save_times)
    count = lambda n: jnp.asarray(n, jnp.int32)  # noqa: E731
    return FlowState(
        t=t0,
        dt=jnp.asarray(dt, dtype),
        parameters=parameters,
        solver_state=jax.tree.map(jnp.asarray, solver_state),
        controller_state=jax.tree.map(jnp.asarray, controller_state),
        steps=count(0),
        rejected=count(0),
        evaluations=count(0 if dt0 is not None else 2),
        status=count(RUNNING),
        record=empty_record(size, problem.t1.dtype, problem.observer, problem.objective, parameters),
    )


def advance(problem: FlowProblem, state: FlowState, budget: int | Int[Array, ""]) -> FlowState:
    """Make at most `budget` more steps (accepted or not); fewer if the flow ends."""
    last = state.steps + budget
    return jax.lax.while_loop(lambda s: (s.status == RUNNING) & (s.steps < last), lambda s: _step(problem, s), state)


def _step(problem: FlowProblem, state: FlowState) -> FlowState:
    dtype, old = state.dt.dtype, state.parameters
    remaining = problem.t1 - state.t
    reaches_end = state.dt.astype(remaining.dtype) >= remaining
    dt = jnp.where(reaches_end, remaining.astype(dtype), state.dt)
    zero = jnp.zeros_like(dt)
    new, error, dense, solver_state, result = problem.solver.step(
        problem.terms, zero, dt, old, None, state.solver_state, False
    )
    finite = _all_finite(new)
    if error is not None:
        error = jax.tree.map(lambda e: jnp.where(finite & jnp.isfinite(e), e, jnp.inf), error)
    error_order: Any = problem.solver.error_order(problem.terms)
    accepted, start_of_next, end_of_next, _, controller_state, _ = problem.controller.adapt_step_size(
        zero, dt, old, new, None, error, error_order, state.controller_state
    )
    accepted = jnp.asarray(accepted) & finite
    keep = lambda a, b: jnp.where(accepted, a, b)  # noqa: E731
    new_t = jnp.where(reaches_end, problem.t1, state.t + dt.astype(state.t.dtype))
    steps = state.steps + 1
    stopped, stop_evaluations = _asks_to_stop(problem, new, accepted)
    evaluations = (
        state.evaluations + _evaluations(problem.solver, is_first=state.steps == state.rejected) + stop_evaluations
    )

    failed = (result != diffrax.RESULTS.successful) & accepted
    status = jnp.select(
        [
            failed,
            stopped,
            accepted & reaches_end,
            ~accepted & (error is None),
            new_t == state.t,
            steps >= problem.max_steps,
        ],
        [SOLVER_FAILED, STOPPED, COMPLETED, DIVERGED, STEP_UNDERFLOW, MAX_STEPS],
        RUNNING,
    ).astype(jnp.int32)
    t, parameters = keep(new_t, state.t), jax.tree.map(keep, new, old)

    interpolation = problem.solver.interpolation_cls(t0=zero, t1=dt, **dense)
    at = lambda time: jax.tree.map(  # noqa: E731
        lambda between, end: jnp.where(time == t, end, between),
        interpolation.evaluate((time - state.t).astype(dtype)),
        parameters,
    )
    return FlowState(
        t=t,
        dt=jnp.asarray(end_of_next - start_of_next, dtype),
        parameters=parameters,
        solver_state=jax.tree.map(keep, solver_state, state.solver_state),
        controller_state=jax.tree.map(jnp.asarray, controller_state),
        steps=steps,
        rejected=state.rejected + jnp.where(accepted, 0, 1),
        evaluations=evaluations,
        status=status,
        record=_save(problem, state.record, t, steps, accepted, status, at),
    )


def _save(problem, record: Record, t, steps, accepted, status, at) -> Record:
    """Observe at every save time passed by this step; where the flow ends early, also at its end."""
    times = problem.save_times
    ends_early = (status != RUNNING) & (status != COMPLETED)

    def due(record: Record) -> Array:
        last = record.times[record.count - 1]
        passed = accepted & (times[record.count] <= t)
        at_the_end = ends_early & ((record.count == 0) | (last < t))
        return (record.count < len(times)) & (passed | at_the_end)

    def add(record: Record) -> Record:
        time = jnp.minimum(times[record.count], t)
        return record.add(time, steps, problem.observer(problem.objective, at(time)))

    return jax.lax.while_loop(due, add, record)


def _asks_to_stop(problem: FlowProblem, parameters: PyTree, accepted) -> tuple[Array, Array]:
    if not problem.stop:
        return jnp.asarray(False), jnp.asarray(0, jnp.int32)

    def ask() -> Array:
        loss, gradient = problem.objective.loss_and_gradient(parameters)
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient)))
        return jnp.any(jnp.stack([rule(loss, norm) for rule in problem.stop]))

    return jax.lax.cond(accepted, ask, lambda: jnp.asarray(False)), jnp.where(accepted, 1, 0)


def _evaluations(solver: diffrax.AbstractSolver, *, is_first: Array) -> Array:
    cost = evaluations_per_step(solver)
    per_step, extra_first = (0, 0) if cost is None else cost
    return per_step + jnp.where(is_first, extra_first, 0)


def _all_finite(tree: PyTree) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
