"""A flow from a state to its end, and how it goes on from there as if it had never ended.

The last step of a flow is shortened so that it ends at `t1`, or is cut where a stop rule is met. A flow that goes on
from there has other steps than a longer one. So what is kept is the state before the last step, from which the flow
takes the step that it would have taken otherwise: a flow in several parts has the steps of a flow in one.
"""

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..checks import is_traced, require_integer, require_number, wrong
from ..problem.objective import MomentObjective
from ..run.drive import beginning, run_to_end
from ..run.status import COMPLETED, INTERRUPTED, STOPPED
from ..run.suspend import current_replay
from ..run.trajectory import AbstractContinuation, Trajectory, conclude, make_trajectory
from .dense import Dense, Followed, advance_followed
from .derivatives.rule import integrated
from .dynamics.motion import MovingObjective
from .integrate import FlowProblem, FlowState, advance, as_before, begun_again, observed_at_end
from .solvers.choice import evaluations_per_step
from .solvers.flow_solver import AbstractFlowSolver
from .stopping import Stop, check_stop
from .times import check_times, log_times

_advance = eqx.filter_jit(advance)
_observed_at_end = eqx.filter_jit(observed_at_end)
_advance_followed = eqx.filter_jit(advance_followed)
_integrated = eqx.filter_jit(integrated)
_begun_again = eqx.filter_jit(begun_again)

_GOES_ON = ("completed", "stopped", "max_steps", "interrupted")


def driven(
    problem: FlowProblem,
    first: FlowState,
    parameters: PyTree,
    t0: Float[Array, ""],
    *,
    origin: PyTree,
    reason: str,
    deadline: float,
    dense: bool = False,
    progress: bool,
    began: float,
    checkpoint: str | os.PathLike | None,
    keep_checkpoint: bool = False,
) -> Trajectory:
    """The run from a state, however it ends; `parameters`: those of the state. The rest as in `run.drive.drive`."""
    t1 = problem.t1
    if deadline < math.inf and (is_traced(problem, first, parameters, t0) or current_replay() is not None):
        raise wrong("stop", "without `StopAfter` inside `jax.jit`, `jax.vmap` or a batched sweep", "one with it")
    state, interrupted = run_to_end(
        _advance_followed if dense else _advance,
        problem,
        Followed.begun(problem, first) if dense else first,
        hidden=(parameters, t0),
        in_one_piece=lambda: _integrated(problem, first, parameters, t0),
        origin=origin,
        deadline=deadline,
        fraction=lambda state: float((state.t - t0) / (t1 - t0)),
        label=lambda: f"gradient flow to t = {float(t1):g}",
        progress=progress,
        began=began,
        checkpoint=checkpoint,
        keep_checkpoint=keep_checkpoint,
    )
    followed = None
    if isinstance(state, Followed):
        followed, state = Dense.of(problem, state), state.flow
    if deadline < math.inf and int(state.status) == STOPPED:
        state = _observed_at_end(problem, state)
    run = make_trajectory(
        state.record,
        problem.observer.names,
        problem.objective,
        state.parameters,
        end_time=state.t,
        status=jnp.asarray(INTERRUPTED, jnp.int32) if interrupted else state.status,
        counts=_counts(state, problem.solver),
        notes=_notes(problem, reason),
        began=began,
    )
    run = dataclasses.replace(run, dense=followed)
    if state.before is None:
        return run
    is_cut = not interrupted and int(state.status) in (COMPLETED, STOPPED)
    kept = state.before if is_cut else as_before(state)
    return dataclasses.replace(run, continuation=Continuation(problem, kept, t0, reason))


class Continuation(AbstractContinuation):
    """A flow that has ended, and the state from which it goes on."""

    problem: FlowProblem
    state: FlowState
    t0: Float[Array, ""]
    reason: str = eqx.field(static=True)

    def resume(
        self,
        run: Trajectory,
        t1: Any,
        *,
        save_at: Sequence[float] | Float[np.ndarray, " s"] | Float[Array, " s"] | None,
        stop: Stop,
        max_steps: int,
        checkpoint: str | os.PathLike | None,
        progress: bool,
        throw: bool,
    ) -> Trajectory:
        """See `Trajectory.resume`."""
        if is_traced(stop):
            raise wrong("stop", "rules of numbers that are known, outside of `jax.jit`", "traced by JAX")
        if run.status not in _GOES_ON:
            raise ValueError(f"This run cannot go on. {run.what_happened}")
        began = min(beginning(checkpoint), time.perf_counter() - float(run.counts["seconds"]))
        times = _further_times(self.t0, run, t1, save_at)
        require_integer("max_steps", max_steps, at_least=1)
        rules, deadline = check_stop(stop, self.problem.observer.names)
        problem = dataclasses.replace(
            self.problem,
            stop=rules,
            save_times=times,
            t1=jnp.asarray(t1, times.dtype),
            max_steps=jnp.asarray(min(int(self.state.steps) + max_steps, np.iinfo(np.int32).max), jnp.int32),
        )
        first = _begun_again(problem, self.state)
        further = driven(
            problem,
            first,
            first.parameters,
            self.t0,
            origin=first,
            reason=self.reason,
            deadline=deadline,
            progress=progress,
            began=began,
            checkpoint=checkpoint,
        )
        return conclude(_joined(run, further), throw)


def _further_times(t0: Array, run: Trajectory, t1: Any, save_at: Any) -> Float[Array, " s"]:
    """The times at which the rest of the run is observed, all after its last observation."""
    if is_traced(t1, save_at):
        raise wrong("t1", "a number that is known, outside of `jax.jit`, and `save_at` too", "traced by JAX")
    require_number("t1", t1)
    end = float(run.end_time)
    if not t1 > end:
        raise wrong("t1", f"after the end of the run, t = {end:g}", f"{float(t1):g}")
    if save_at is None:
        span, begun = float(t1) - float(t0), end - float(t0)
        save_at = float(t0) + (log_times(begun, span, 61)[1:] if begun > 0 else log_times(1e-4 * span, span, 60))
        save_at = np.unique(np.append(save_at[:-1], float(t1)))
    _, _, times = check_times(end, t1, save_at)
    is_observed = len(run.times) > 0 and float(run.times[-1]) >= end
    return times[1:] if is_observed and float(times[0]) == end and len(times) > 1 else times


def _joined(run: Trajectory, further: Trajectory) -> Trajectory:
    """Both parts of a run: the end, the counts and the state of the second are those of the whole.

    The second part begins before the end of the first. If it does not get beyond, as with a rule that has been met
    already, the run ends where it ended.
    """
    if further.end_time <= run.end_time:
        return dataclasses.replace(run, status_code=further.status_code)
    series = lambda run: (run.times, run.steps, run.observed, eqx.filter(run.nets, eqx.is_inexact_array))
    together = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), series(run), series(further))
    times, steps, observed, arrays = together
    nets = eqx.combine(arrays, eqx.filter(further.nets, eqx.is_inexact_array, inverse=True))
    return dataclasses.replace(further, times=times, steps=steps, observed=observed, nets=nets)


def _counts(state: FlowState, solver: diffrax.AbstractSolver) -> dict[str, Any]:
    known = evaluations_per_step(solver) is not None
    counts = {
        "steps": state.steps,
        "rejected": state.rejected,
        "gradient_evaluations": state.evaluations if known else None,
    }
    if isinstance(solver, AbstractFlowSolver):
        work = solver.work(state.solver_state)
        counts |= work | {"gradient_evaluations": state.evaluations + work["gradient_evaluations"]}
    return counts


def _notes(problem: FlowProblem, reason: str) -> dict[str, str]:
    objective, dynamics = problem.objective, {}
    if isinstance(objective, MovingObjective):
        objective, dynamics = objective.objective, {"dynamics": type(objective.dynamics).__name__}
    enters = "second moments" if isinstance(objective, MomentObjective) else "samples"
    return {"solver": type(problem.solver).__name__, "reason": reason, "data_enters_as": enters} | dynamics
