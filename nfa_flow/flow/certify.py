"""How far a run is from the exact flow, measured by two laws that the flow obeys and by a second, tighter run."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..checks import is_traced, wrong
from ..problem.mobility import Mobility
from ..run.drive import discard
from ..run.observation import Observe, Observer
from ..run.trajectory import Trajectory
from .invariants import BALANCE_ERROR, LOSS_IDENTITY_ERROR, balance_error, certifying_observer
from .solvers.flow_solver import AbstractFlowSolver

PARAMETER_ERROR = "parameter_error"

_TAKEN = (PARAMETER_ERROR, LOSS_IDENTITY_ERROR, BALANCE_ERROR)


def require_certifiable(
    solver: diffrax.AbstractSolver | None,
    controller: diffrax.AbstractStepSizeController | None,
    observe: Observe | None,
) -> None:
    """Raise ValueError for a constant step, and for observables that have the names of the errors."""
    if isinstance(controller, diffrax.ConstantStepSize):
        raise wrong("certify", "False with a constant step", "True")
    if solver is not None and not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise wrong("certify", f"False with the constant step of {type(solver).__name__}", "True")
    for name in _TAKEN:
        if name in (observe or {}):
            raise wrong("observe", f"without the names {', '.join(_TAKEN)}, which `certify` uses", name)


def certified(
    flow: Callable[..., Trajectory],
    observer: Observer,
    trainable: PyTree,
    *,
    t0: Float[Array, ""],
    t1: Float[Array, ""],
    solver: diffrax.AbstractSolver,
    rtol: Any,
    atol: Any,
    checkpoint: str | os.PathLike | None,
    throw: bool,
) -> Trajectory:
    """The run at these tolerances, with its distance from a second one, to its end, at a tenth of them.

    The checkpoint of the finished first run is kept until the second run has ended, so that an interrupted second run
    can continue. There is no second run if the first one was interrupted, or failed and must `throw`.
    """
    first, second = (certifying_observer(observer, checks=checks) for checks in (True, False))
    run = flow(first, solver=solver, rtol=rtol, atol=atol, checkpoint=checkpoint, keep_checkpoint=True)
    if _interrupted(run):
        return run
    if is_traced(run) or run.succeeded or not throw:
        beside = None if checkpoint is None else f"{os.fspath(checkpoint)}.certify"
        finer = solver.finer() if isinstance(solver, AbstractFlowSolver) else solver
        # A rule would stop the second run at a time of its own, with nothing to compare.
        ends = jnp.where(run.end_time > t0, run.end_time, t1)
        at_end = {"t1": ends, "obeys_stop": False, "dense": False}
        tighter = flow(second, solver=finer, rtol=rtol / 10, atol=atol / 10, checkpoint=beside, **at_end)
        # Where the second run fails, its end is not there to compare with; the first one stands.
        run = with_parameter_error(run, tighter, trainable, t0)
        if _interrupted(tighter):
            return dataclasses.replace(run, status_code=tighter.status_code)
    if checkpoint is not None:
        discard(checkpoint)
    return run


def _interrupted(run: Trajectory) -> bool:
    return not is_traced(run) and run.status == "interrupted"


def with_parameter_error(run: Trajectory, tighter: Trajectory, trainable: PyTree, t0: Float[Array, ""]) -> Trajectory:
    """`run` with ‖θ − θ'‖/‖θ'‖ at each of its times as the observation `parameter_error`, θ' the tighter run.

    θ are the arrays that are trained.

    Both runs must have kept their networks. NaN at times that the tighter run did not reach.
    """
    trained = lambda nets: jax.tree.leaves(eqx.filter(nets, trainable))
    nets, others = trained(run.nets), trained(tighter.nets)
    count = min(len(run.times), len(tighter.times))
    same = jnp.pad(jnp.asarray(run.times[:count] == tighter.times[:count]), (0, len(run.times) - count))
    error = jnp.pad(_distance([a[:count] for a in nets], [a[:count] for a in others]), (0, len(run.times) - count))
    # The end of a run that a rule stopped is none of the times of the other run, but its end too.
    is_end = (jnp.asarray(run.times) == run.end_time) & (run.end_time == tighter.end_time)
    at_end = _distance(*([a[None] for a in trained(each.net)] for each in (run, tighter)))
    error = jnp.where(is_end, at_end, error).astype(run.times.dtype)
    is_start = jnp.asarray(run.times) == t0  # of both
    reached, error = same | is_end | is_start, jnp.where(is_start, 0, error)
    if is_traced(reached) or not jnp.all(reached):  # under `jax_debug_nans` NaN may not even be mentioned
        error = jnp.where(reached, error, jnp.nan)
    return dataclasses.replace(run, observed=run.observed | {PARAMETER_ERROR: error})


def _distance(arrays: list[Array], others: list[Array]) -> Float[Array, " t"]:
    squared = lambda arrays: sum(jnp.sum(a**2, axis=tuple(range(1, a.ndim))) for a in arrays)
    distance, size = squared([a - b for a, b in zip(arrays, others, strict=True)]), squared(others)
    return jnp.sqrt(distance / jnp.where(distance == 0, 1, size))  # 0 and not 0/0 for a network that stays at zero


def with_balance_error(
    run: Trajectory, net: Any, t0: Float[Array, ""], weight_decay: Any, mobility: Mobility | None, trainable: PyTree
) -> Trajectory:
    """`run`, which has kept its networks, with the observation `balance_error` if there is a law for it."""
    error = balance_error(net, run.nets, jnp.asarray(run.times) - t0, weight_decay, mobility, trainable)
    return run if error is None else dataclasses.replace(run, observed=run.observed | {BALANCE_ERROR: error})
