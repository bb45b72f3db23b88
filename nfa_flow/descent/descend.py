"""The loop of training in steps: compiled, in intervals between observations, able to pause and continue."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ..numerics.switches import full_precision
from ..problem.objective import AbstractDataObjective, AbstractObjective
from ..run.observation import Observer, Record, empty_record
from ..run.status import COMPLETED, DIVERGED, NO_GRADIENT, RUNNING
from ..run.trees import derivative_if


class Minibatches(eqx.Module):
    """Every epoch passes the samples in a new random order, in batches of equal size."""

    key: PRNGKeyArray
    size: int = eqx.field(static=True)


class DescentProblem(eqx.Module):
    """Everything that stays the same during one training run."""

    objective: AbstractObjective
    observer: Observer
    optimizer: optax.GradientTransformation
    save_steps: Int[Array, " s"]
    steps: Int[Array, ""]
    time_per_step: Float[Array, ""]
    batches: Minibatches | None

    def time_of(self, steps: Int[Array, ""]) -> Float[Array, ""]:
        """The time after this number of steps."""
        return steps.astype(self.time_per_step.dtype) * self.time_per_step


class DescentState(eqx.Module):
    """The state of a training run: enough to continue exactly from here."""

    parameters: PyTree
    optimizer_state: PyTree
    order: Int[Array, " n"] | None
    steps: Int[Array, ""]
    failure: Int[Array, ""]  # of the step that was not made: a status, RUNNING where there is none
    status: Int[Array, ""]
    record: Record


def start(problem: DescentProblem, parameters: PyTree) -> DescentState:
    """The state before the first step."""
    order = None if problem.batches is None else jnp.arange(problem.observer.data.samples)
    record = empty_record(
        len(problem.save_steps) + 1, problem.time_per_step.dtype, problem.observer, problem.objective, parameters
    )
    return DescentState(
        parameters=parameters,
        optimizer_state=first_optimizer_state(problem.optimizer, parameters),
        order=order,
        steps=jnp.asarray(0, jnp.int32),
        failure=jnp.asarray(RUNNING, jnp.int32),
        status=jnp.asarray(RUNNING, jnp.int32),
        record=record,
    )


@full_precision
def advance(problem: DescentProblem, state: DescentState, budget: int | Int[Array, ""]) -> DescentState:
    """At most `budget` more steps; fewer if the run ends."""
    last = jnp.minimum(state.steps + budget, problem.steps)
    failed = lambda s: s.failure != RUNNING
    finished = lambda s: failed(s) | (s.steps >= problem.steps)

    def interval(s: DescentState) -> DescentState:
        """Observe if a save step is reached, then train up to the next one."""
        s = eqx.tree_at(lambda s: s.record, s, _save(problem, s))
        status = jnp.where(finished(s) & ~failed(s), COMPLETED, s.failure).astype(jnp.int32)
        s = eqx.tree_at(lambda s: s.status, s, status)
        target = jnp.where(s.record.count < len(problem.save_steps), problem.save_steps[s.record.count], last)
        unfinished = lambda s: (s.steps < jnp.minimum(target, last)) & ~failed(s)
        return jax.lax.while_loop(unfinished, lambda s: _step(problem, s), s)

    goes_on = lambda s: (s.status == RUNNING) & ((s.steps < last) | finished(s))
    return jax.lax.while_loop(goes_on, interval, state)


@full_precision
def in_known_steps(problem: DescentProblem, state: DescentState, steps: int) -> DescentState:
    """The whole run in a number of steps that is no array, so that JAX can go through it backwards.

    Only every √`steps`-th state is kept for that, and in one such part every state; all between is computed again.
    """
    length = math.isqrt(steps) + 1

    def one(s: DescentState, step: Int[Array, ""]) -> tuple[DescentState, None]:
        # Conditions of the step alone, which is the same in all lanes of a batch, so that one branch is computed.
        is_due = jnp.any(problem.save_steps == step)
        s = jax.lax.cond(is_due, lambda s: eqx.tree_at(lambda s: s.record, s, _save(problem, s)), lambda s: s, s)
        unless_failed = lambda new, old: jnp.where(s.failure == RUNNING, new, old)
        train = lambda s: jax.tree.map(unless_failed, _step(problem, s), s)
        return jax.lax.cond(step < steps, train, lambda s: s, s), None

    some = jax.checkpoint(lambda s, steps: jax.lax.scan(jax.checkpoint(one), s, steps))
    numbers = jnp.arange(length * -(-(steps + 1) // length), dtype=jnp.int32).reshape(-1, length)
    last, _ = jax.lax.scan(some, state, numbers)
    record = _save(problem, last)  # where it failed, if it did
    status = jnp.where(last.failure == RUNNING, COMPLETED, last.failure).astype(jnp.int32)
    last = eqx.tree_at(lambda s: (s.record, s.status), last, (record, status))
    return derivative_if(status == COMPLETED, last)


def _step(problem: DescentProblem, state: DescentState) -> DescentState:
    objective, order = _batch(problem, state)
    gradient = objective.gradient(state.parameters)
    new, optimizer_state = optimizer_step(problem.optimizer, gradient, state.optimizer_state, state.parameters)
    finite = _all_finite(new)
    # Later the gradient is infinite too where a run diverges, as the loss overflows before the parameters do.
    failure = jnp.where((state.steps > 0) | _all_finite(gradient), DIVERGED, NO_GRADIENT)
    keep = lambda a, b: jnp.where(finite, a, b)
    return eqx.tree_at(
        lambda s: (s.parameters, s.optimizer_state, s.order, s.steps, s.failure),
        state,
        (
            jax.tree.map(keep, new, state.parameters),
            optimizer_state,
            order,
            state.steps + jnp.where(finite, 1, 0),
            jnp.where(finite, RUNNING, failure).astype(jnp.int32),
        ),
        is_leaf=lambda leaf: leaf is None,
    )


def _all_finite(tree: PyTree) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


@jax.numpy_dtype_promotion("standard")  # Adam, for one, relies on it, even where the user's own functions may not
def first_optimizer_state(optimizer: optax.GradientTransformation, parameters: PyTree) -> PyTree:
    """The state of an optimizer before its first step, as arrays."""
    return jax.tree.map(jnp.asarray, optimizer.init(parameters))


@jax.numpy_dtype_promotion("standard")
def optimizer_step(
    optimizer: optax.GradientTransformation, gradient: PyTree, state: PyTree, parameters: PyTree
) -> tuple[PyTree, PyTree]:
    """The parameters and the state of an optimizer after a step."""
    updates, state = optimizer.update(gradient, state, parameters)
    return optax.apply_updates(parameters, updates), state


def _batch(problem: DescentProblem, state: DescentState) -> tuple[AbstractObjective, Int[Array, " n"] | None]:
    """The objective of this step, and the order in which this epoch passes the samples."""
    objective, batches = problem.objective, problem.batches
    if batches is None or not isinstance(objective, AbstractDataObjective):
        return objective, state.order
    samples, size = objective.data.samples, batches.size
    epoch, batch = jnp.divmod(state.steps, samples // size)
    order = jax.lax.cond(
        batch == 0,
        lambda: jax.random.permutation(jax.random.fold_in(batches.key, epoch), samples),
        lambda: state.order,
    )
    return objective.on(jax.lax.dynamic_slice(order, (batch * size,), (size,))), order


def _save(problem: DescentProblem, state: DescentState) -> Record:
    """Observe when the next save step is reached; if the run diverges, also at its last finite parameters."""

    def due(record: Record) -> Array:
        at_the_end = (state.failure != RUNNING) & ((record.count == 0) | (record.steps[record.count - 1] < state.steps))
        now = (record.count < len(problem.save_steps)) & (problem.save_steps[record.count] == state.steps)
        return now | at_the_end

    def add(record: Record) -> Record:
        values = problem.observer(problem.objective, state.parameters)
        return record.add(problem.time_of(state.steps), state.steps, values)

    return jax.lax.cond(due(state.record), add, lambda record: record, state.record)
