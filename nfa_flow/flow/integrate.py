"""The loop that integrates dθ/dt = −∇(ℒ + (λ/2)‖θ‖²) with any diffrax solver.

It does what `diffrax.diffeqsolve` does, with three differences that long flows need: the loop can pause after a bounded
number of steps and go on (progress, Ctrl-C, checkpoints) with nothing lost, not even the proposed step size; time is
accumulated outside the solver, which sees only the step (the flow is autonomous), with compensation, so steps far below
the resolution of a float32 time are not lost; and gradients are counted as they are spent. The README has a table of
all differences.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..numerics.switches import full_precision, usual_promotion
from ..problem.objective import AbstractObjective
from ..run.observation import Observer, Record, empty_record
from ..run.status import COMPLETED, DIVERGED, MAX_STEPS, NO_GRADIENT, RUNNING, SOLVER_FAILED, STEP_UNDERFLOW, STOPPED
from .dynamics.motion import MovingObjective
from .invariants import LOSS_IDENTITY_ERROR, LossBudget, dissipation, loss_budget, squared
from .locate import first_positive
from .solvers.choice import evaluations_per_step
from .solvers.flow_solver import AbstractFlowSolver
from .stopping import AbstractStop, Moment, excess


class FlowProblem(eqx.Module):
    """Everything that stays the same during one flow."""

    objective: AbstractObjective
    observer: Observer
    solver: diffrax.AbstractSolver
    controller: diffrax.PIDController | None
    stop: tuple[AbstractStop, ...]
    obeys_stop: Bool[Array, ""]  # false for the second run of `certify`, in the same compiled program
    save_times: Float[Array, " s"]
    t1: Float[Array, ""]
    max_steps: Int[Array, ""]
    unlocated: str | None = eqx.field(static=True)  # where there are kinks that the solver does not locate

    @property
    def symmetric(self) -> bool:
        """Whether the Jacobian of the velocity is symmetric."""
        return not isinstance(self.objective, MovingObjective) or self.objective.dynamics.symmetric

    @property
    def terms(self) -> diffrax.ODETerm:
        return diffrax.ODETerm(Velocity(self.objective))


class Velocity(eqx.Module):
    """The vector field of a flow, which a solver may ask for its objective."""

    objective: AbstractObjective

    def __call__(self, t: Any, y: PyTree, args: Any) -> PyTree:
        return self.objective.velocity(y)


class FlowState(eqx.Module):
    """Where a flow is: enough to go on from exactly here."""

    t: Float[Array, ""]
    t_excess: Float[Array, ""]  # what rounding has added to t: the flow is at t − t_excess
    dt: Float[Array, ""]
    parameters: PyTree
    solver_state: PyTree
    controller_state: PyTree
    steps: Int[Array, ""]
    rejected: Int[Array, ""]
    evaluations: Int[Array, ""]
    status: Int[Array, ""]
    record: Record
    budget: LossBudget | None  # only of a run that is certified
    before: "FlowState | None"  # the state before the last step, without its record; only of a run that can go on


@usual_promotion()
@full_precision
def start(
    problem: FlowProblem,
    parameters: PyTree,
    t0: Float[Array, ""],
    dt0: Float[Array, ""] | None,
    *,
    resumable: bool = False,
) -> FlowState:
    """The state at `t0`, with a first step size chosen by the controller unless `dt0` is given.

    A chosen step is NaN if the gradient is not finite: then the first step ends the flow, and observes its start.
    """
    dtype = jnp.result_type(*jax.tree.leaves(parameters))
    zero = jnp.zeros((), dtype)
    dt, controller_state = None if dt0 is None else dt0.astype(dtype), None
    if problem.controller is not None:
        solver, terms = problem.solver, problem.terms
        horizon, order = (problem.t1 - t0).astype(dtype), solver.error_order(terms)
        dt, controller_state = problem.controller.init(terms, zero, horizon, parameters, dt, None, solver.func, order)
    dt = jnp.asarray(dt, dtype)
    count = lambda n: jnp.asarray(n, jnp.int32)
    state = FlowState(
        t=t0,
        t_excess=jnp.zeros_like(t0),
        dt=dt,
        parameters=parameters,
        solver_state=jax.tree.map(jnp.asarray, problem.solver.init(problem.terms, zero, dt, parameters, None)),
        controller_state=jax.tree.map(jnp.asarray, controller_state),
        steps=count(0),
        rejected=count(0),
        evaluations=count(2 if dt0 is None else 0),
        status=count(RUNNING),
        record=_empty_record(problem, parameters),
        budget=loss_budget(problem.observer, problem.objective, parameters),
        before=None,
    )
    return dataclasses.replace(state, before=as_before(state)) if resumable else state


@usual_promotion()
@full_precision
def begun_again(problem: FlowProblem, before: FlowState) -> FlowState:
    """The state of a run that goes on from `before`, and has not recorded anything yet."""
    record = _empty_record(problem, before.parameters)
    running = jnp.full_like(before.status, RUNNING)
    return dataclasses.replace(before, status=running, record=record, before=before)


@usual_promotion()
@full_precision
def observed_at_end(problem: FlowProblem, state: FlowState) -> FlowState:
    """The state of a run that was ended from outside, with an observation of its end."""
    known = _known(problem, state.solver_state, state.parameters, state.budget)
    observe = lambda time: problem.observer(problem.objective, state.parameters, known)
    record = _save(problem, state.record, state.t, state.steps, jnp.asarray(False), state.status, observe)
    return dataclasses.replace(state, record=record)


def _empty_record(problem: FlowProblem, parameters: PyTree) -> Record:
    size, dtype = len(problem.save_times) + 1, problem.t1.dtype
    return empty_record(size, dtype, problem.observer, problem.objective, parameters)


def as_before(state: FlowState) -> FlowState:
    """The state without what it has recorded, as it is kept to go on from it."""
    return dataclasses.replace(state, record=state.record.without_places(), before=None)


@usual_promotion()
@full_precision
def advance(problem: FlowProblem, state: FlowState, budget: int | Int[Array, ""]) -> FlowState:
    """At most `budget` more steps (accepted or not); fewer if the flow ends."""
    last = state.steps + budget
    return jax.lax.while_loop(lambda s: (s.status == RUNNING) & (s.steps < last), lambda s: step(problem, s)[0], state)


class Attempt(NamedTuple):
    """One step as the solver proposes it and the controller judges it."""

    dt: Array
    elapsed: Array  # the part of dt after which the step ended
    parameters: PyTree
    solver_state: PyTree
    controller_state: PyTree
    accepted: Array
    solver_failed: Array
    next_dt: Array
    dense: dict[str, Any]
    stops: Any = False  # whether a rule ends the flow in this step
    stop_evaluations: Any = 0


def step(problem: FlowProblem, state: FlowState) -> tuple[FlowState, Attempt]:
    """The state after one more attempt, and the attempt."""
    remaining = (problem.t1 - state.t) + state.t_excess
    solver = problem.solver if isinstance(problem.solver, AbstractFlowSolver) else None
    dt = state.dt if solver is None else solver.reach(state.solver_state, state.dt)
    reaches_end = dt.astype(remaining.dtype) >= remaining
    attempt = attempted(problem, state, jnp.where(reaches_end, remaining.astype(dt.dtype), dt))
    interpolation = problem.solver.interpolation_cls(t0=jnp.zeros_like(attempt.dt), t1=attempt.dt, **attempt.dense)
    attempt = _until_stop(problem, state, attempt, interpolation.evaluate)
    is_whole = attempt.elapsed == attempt.dt
    reaches_end &= is_whole
    has_gradient = (state.steps > 0) | jnp.isfinite(state.dt)
    accepted, steps = attempt.accepted & has_gradient, state.steps + 1
    new_t, new_excess = _later(state, attempt.elapsed)
    new_t, new_excess = jnp.where(reaches_end, problem.t1, new_t), jnp.where(reaches_end, 0, new_excess)
    ends = {
        SOLVER_FAILED: attempt.solver_failed & accepted,
        STOPPED: attempt.stops & accepted,
        COMPLETED: accepted & reaches_end,
        NO_GRADIENT: ~has_gradient,
        DIVERGED: ~accepted & ((problem.controller is None) | ~jnp.isfinite(attempt.next_dt)),
        STEP_UNDERFLOW: (new_t == state.t) & (new_excess == state.t_excess) & is_whole,  # an event may come at once
        MAX_STEPS: steps >= problem.max_steps,
    }
    status = jnp.select(list(ends.values()), list(ends.keys()), RUNNING).astype(jnp.int32)
    if solver is not None:
        trouble = solver.trouble(attempt.solver_state)
        status = jnp.where(accepted & (trouble != RUNNING) & (status != STOPPED), trouble, status)

    keep = lambda new, old: jnp.where(accepted, new, old)
    t, parameters = keep(new_t, state.t), jax.tree.map(keep, attempt.parameters, state.parameters)
    solver_state = jax.tree.map(keep, attempt.solver_state, after_rejection(problem, state, attempt))
    spent = lambda duration: _spent(problem, state, interpolation, duration, accepted)

    def since(time: Array) -> Array:
        return jnp.clip((time - state.t) + state.t_excess, 0, attempt.elapsed).astype(attempt.dt.dtype)

    def observe(time: Array) -> PyTree:
        inside = interpolation.evaluate(since(time))
        observed = jax.tree.map(lambda inside, end: jnp.where(time == t, end, inside), inside, parameters)
        known = _known(problem, solver_state, observed, spent(since(time)))
        return problem.observer(problem.objective, observed, known)

    after = FlowState(
        t=t,
        t_excess=keep(new_excess, state.t_excess),
        dt=attempt.next_dt,
        parameters=parameters,
        solver_state=solver_state,
        controller_state=attempt.controller_state,
        steps=steps,
        rejected=state.rejected + jnp.where(accepted, 0, 1),
        evaluations=state.evaluations + _evaluations(problem.solver, state) + attempt.stop_evaluations,
        status=status,
        record=_save(problem, state.record, t, steps, accepted, status, observe),
        budget=spent(attempt.elapsed),
        before=None if state.before is None else as_before(state),
    )
    return after, attempt


def after_rejection(problem: Any, state: Any, attempt: Attempt) -> PyTree:
    """The solver state from which to try again."""
    if isinstance(problem.solver, AbstractFlowSolver):
        return problem.solver.after_rejection(state.solver_state, attempt.solver_state)
    return state.solver_state


def _spent(
    problem: FlowProblem, state: FlowState, interpolation: Any, duration: Array, accepted: Array
) -> LossBudget | None:
    """The budget after a part of a step."""
    if (budget := state.budget) is None:
        return None
    rate = lambda parameters: _power(problem, state.solver_state, parameters)
    amount = lambda: dissipation(rate, interpolation.evaluate, duration)
    return budget.spend(jax.lax.cond(accepted & budget.checks, amount, lambda: jnp.zeros_like(budget.dissipated)))


def _power(problem: FlowProblem, solver_state: PyTree, parameters: PyTree) -> Float[Array, ""]:
    """How fast the energy of the flow falls."""
    if isinstance(problem.objective, MovingObjective):
        return problem.objective.power(parameters)
    return squared(loss_and_gradient(problem, solver_state, parameters)[1])


def loss_and_gradient(problem: FlowProblem, solver_state: PyTree, parameters: PyTree) -> tuple[Array, PyTree]:
    """The loss, and minus the velocity of the flow; without a `solver_state` that of its smooth pieces."""
    if isinstance(problem.solver, AbstractFlowSolver):
        return problem.solver.loss_and_gradient(problem.objective, solver_state, parameters)
    return problem.objective.loss_and_gradient(parameters)


def _known(problem: FlowProblem, solver_state: PyTree, parameters: PyTree, budget: LossBudget | None) -> dict:
    """What the run knows and observables may use."""
    known = {}
    if isinstance(problem.solver, AbstractFlowSolver) and not isinstance(problem.objective, MovingObjective):
        sharpness = problem.solver.sharpness(solver_state)
        known = {} if sharpness is None else {"sharpness": sharpness}
    if budget is not None:
        known |= {LOSS_IDENTITY_ERROR: budget.error(problem.objective.energy(parameters))}
    return known


def _later(state: FlowState, dt: Array) -> tuple[Array, Array]:
    """Time after a step, by compensated summation (Kahan): no step is too small for a long time in float32."""
    step = dt.astype(state.t.dtype) - state.t_excess
    t = state.t + step
    return t, (t - state.t) - step


def attempted(problem: Any, state: Any, dt: Array) -> Attempt:
    """A step `dt` from `state`. Of `problem` it uses terms, solver and controller, and of `state` what they left."""
    zero, old = jnp.zeros_like(dt), state.parameters
    new, error, dense, solver_state, result = problem.solver.step(
        problem.terms, zero, dt, old, None, state.solver_state, False
    )
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(new)]))
    failed = jnp.asarray(result != diffrax.RESULTS.successful)
    elapsed = problem.solver.elapsed(solver_state, dt) if isinstance(problem.solver, AbstractFlowSolver) else dt
    if problem.controller is None:
        return Attempt(dt, elapsed, new, solver_state, state.controller_state, finite, failed, state.dt, dense)
    error = jax.tree.map(lambda e: jnp.where(finite & jnp.isfinite(e), e, jnp.inf), error)
    order: Any = problem.solver.error_order(problem.terms)
    accepted, start_of_next, end_of_next, _, controller_state, _ = problem.controller.adapt_step_size(
        zero, dt, old, new, None, error, order, state.controller_state
    )
    controller_state = jax.tree.map(jnp.asarray, controller_state)
    next_dt = jnp.asarray(end_of_next - start_of_next, dt.dtype)
    accepted = jnp.asarray(accepted) & finite
    return Attempt(dt, elapsed, new, solver_state, controller_state, accepted, failed, next_dt, dense)


def _save(problem, record: Record, t, steps, accepted, status, observe) -> Record:
    """Observe at every save time passed by this step; if the flow ends early, also at its end."""
    times = problem.save_times
    ends_early = (status != RUNNING) & (status != COMPLETED)

    def due(record: Record) -> Array:
        last = record.times[record.count - 1]
        passed = accepted & (record.count < len(times)) & (times[record.count] <= t)
        at_the_end = ends_early & ((record.count == 0) | (last < t))
        return passed | at_the_end

    def add(record: Record) -> Record:
        time = jnp.where(record.count < len(times), jnp.minimum(times[record.count], t), t)
        return record.add(time, steps, observe(time))

    return jax.lax.while_loop(due, add, record)


def _until_stop(problem: FlowProblem, state: FlowState, attempt: Attempt, path: Callable) -> Attempt:
    """The attempt, ended at the time at which a stop rule is met if that is the case at its end."""
    if not problem.stop:
        return attempt

    def excess_at(parameters: PyTree, solver_state: PyTree) -> tuple[Array, Array]:
        both = lambda: loss_and_gradient(problem, solver_state, parameters)
        moment = Moment(problem.objective, problem.observer, parameters, both)
        return excess(problem.stop, moment, attempt.dt.dtype)

    at_end = lambda: excess_at(attempt.parameters, attempt.solver_state)
    nothing = jnp.asarray(-jnp.inf, attempt.dt.dtype), jnp.asarray(0, jnp.int32)
    end_value, cost = jax.lax.cond(attempt.accepted & problem.obeys_stop, at_end, lambda: nothing)
    stops = end_value >= 0
    inside = lambda duration: excess_at(path(duration), state.solver_state)
    elapsed, further = first_positive(inside, attempt.elapsed, end_value, stops)
    parameters = jax.lax.cond(elapsed < attempt.elapsed, lambda: path(elapsed), lambda: attempt.parameters)
    return attempt._replace(elapsed=elapsed, parameters=parameters, stops=stops, stop_evaluations=cost + further)


def _evaluations(solver: diffrax.AbstractSolver, state: FlowState) -> Array | int:
    cost = evaluations_per_step(solver)
    if cost is None:
        return 0
    per_step, until_first_accepted = cost
    return per_step + jnp.where(state.steps == state.rejected, until_first_accepted, 0)
