"""The exact gradient flow of a network on a dataset."""

import dataclasses
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, PyTree

from ..checks import is_traced, require_integer, require_number, wrong
from ..data import Dataset
from ..nets import MLP
from ..problem.half_precision import in_single_precision
from ..problem.losses import Loss
from ..problem.memory import within_memory
from ..problem.mobility import Mobility, own_mobility
from ..problem.objective import AbstractObjective, MomentObjective, make_objective
from ..problem.trained import Trainable
from ..run.drive import beginning, run_to_end
from ..run.interrupts import never_ignored
from ..run.observation import Observe, Observer, make_observer
from ..run.status import INTERRUPTED
from ..run.trajectory import Trajectory, conclude, make_trajectory
from .certify import certified, require_certifiable, with_balance_error
from .integrate import FlowProblem, FlowState, advance, start
from .kinks.find import find_kinks
from .kinks.pieces import count_kinks
from .solvers.choice import choose_solver, default_rtol, evaluations_per_step, ignored_kinks, warn_about_tolerance
from .solvers.flow_solver import AbstractFlowSolver
from .solvers.ndf import NDF
from .solvers.piecewise import Piecewise
from .solvers.smoothed import Smoothed
from .stopping import AbstractStop, StopWhen
from .times import log_times

_start = eqx.filter_jit(start)
_advance = eqx.filter_jit(advance)


def gradient_flow(
    net: Any,
    data: Dataset,
    t1: float | Float[Array, ""],
    *,
    t0: float | Float[Array, ""] = 0.0,
    weight_decay: float | Float[Array, ""] = 0.0,
    mobility: Mobility | None = None,
    trainable: Trainable | None = None,
    loss: Loss = "mse",
    observe: Observe | None = None,
    save_at: Sequence[float] | Float[np.ndarray, " s"] | Float[Array, " s"] | None = None,
    save_nets: bool = False,
    solver: diffrax.AbstractSolver | None = None,
    rtol: float | Float[Array, ""] | None = None,
    atol: float | Float[Array, ""] | None = None,
    dt0: float | Float[Array, ""] | None = None,
    max_steps: int = 1_000_000,
    memory: int | None = None,
    stop: AbstractStop | Sequence[AbstractStop] = (),
    certify: bool = False,
    checkpoint: str | os.PathLike | None = None,
    progress: bool = True,
    throw: bool = True,
) -> Trajectory:
    """Integrate dθ/dt = −m ∇_θ[ℒ(θ) + (λ/2)‖θ‖²] from `net` at time `t0` to time `t1`; m = 1 by default.

    ℒ is the (weighted) mean of the per-sample loss. A linear `MLP` with the squared loss is integrated through the
    second moments of the data, at a cost that does not depend on the number of samples.

    **Arguments:**
    - `net`: any Equinox module from one sample "d" to a prediction "c"; for a `TotalLoss` any tree of arrays.
    - `data`: the samples.
    - `t1`, `t0`: end and start in gradient-flow time; to continue an earlier run, pass its `net` and `end_time`.
    - `weight_decay`: λ ≥ 0.
    - `mobility`: m > 0: one number per layer of an `MLP`, or a tree of numbers or arrays in the structure of the
      network's floating-point arrays. By default that of the network's parametrization if it is an `MLP` with one,
      otherwise 1.
    - `trainable`: which arrays of the network are trained, as a filter of Equinox: a function of leaves, or a tree of
      True and False in the structure of the network, in which one of them may be in the place of a branch. By default
      all floating-point arrays, also constants such as means of the inputs. Frozen are all others, those behind
      `jax.lax.stop_gradient`, and those that the loss does not depend on: they stay as they are, without weight decay,
      and count in no norm. `stats["frozen"]` names them.
    - `loss`: "mse" (½‖f − y‖²), "cross_entropy", or a function `(prediction, target) -> scalar` of one sample,
      whose prediction and target may be of different shapes; or `nf.TotalLoss(function)` with a function `(net, data)
      -> scalar` in the place of the mean over samples, whose kinks are not located.
    - `observe`: name → function `(net, data) -> array` (or tree of arrays), evaluated inside the compiled solve, so
      memory grows with the number of observations only. By default the loss is observed. Use the same function objects
      in later calls to avoid recompilation.
    - `save_at`: increasing times in [t0, t1]; by default t0 and 60 log-spaced times up to t1.
    - `save_nets`: whether to keep also the network at each of these times.
    - `solver`: any one-step diffrax ODE solver, or `nf.flow.NDF`, `TSRKC3`, `RKC2` and `Piecewise`. By default `NDF` if
      network and loss are smooth, `Piecewise` if they have kinks, and `TSRKC3` if the network is huge, or has kinks
      that cannot be located or are more than 50 000 (samples times kinks per sample); `stats` has the solver and the
      reason.
    - `rtol`, `atol`: tolerances of the error of a step per parameter. By default `rtol` = 1e-6, and 1e-3 across kinks
      that the solver does not locate (larger if the floating-point type requires it); `atol` = rtol/1000 times the root
      mean square of the initial parameters (1 at most), because errors made near a small initialization grow while the
      flow leaves it.
      With mobility m, `atol` is for θ/√m. The relative error of all parameters at the end of a run stays within about
      10 × `rtol` if the flow is smooth and does not amplify errors itself.
    - `dt0`: the first step; for a solver without an error estimate (`diffrax.Euler`) the constant step.
    - `max_steps`: bound on accepted and rejected steps together.
    - `memory`: how many bytes gradients and Hessian products may take, beside data and parameters. If it is less than
      they take for all samples at once, these are evaluated in chunks, one after another, with the same result up to
      rounding. By default an eighth of the memory of the device. `Piecewise` and `Smoothed` do not use it.
    - `stop`: rules such as `LossBelow(1e-8)` or `StopWhen("accuracy", above=0.99)`. If one of them is met at the end of
      a step, the time at which it was met is located within the step, with an error like that of all observations, and
      the flow ends there and observes that moment; at `t0` if it is met there.
    - `certify`: measure at each time how far the run is from the exact flow, as additional observations.
      `parameter_error`: the relative distance of all parameters from a second run at a tenth of the tolerances, which
      ends where the first one did; NaN at times that the second run did not reach. `loss_identity_error`: |F(t0) − F(t)
      − ∫‖√m∇F‖² dt| / (F(t0) − F(t)) of F = ℒ + (λ/2)‖θ‖²; it grows when the flow moves by less than the tolerances.
      `balance_error`, for an `MLP` with consecutive layers and identity, relu, leaky relu or |z| between them: the
      distance of their balance from its law, relative to their weights. It needs memory for the networks at all times.
      `stats` belong to the first run and leave out the four gradients that the loss identity takes per step and per
      time.
    - `checkpoint`: a file for the state of an unfinished run (written every 10 s and on Ctrl-C); the same call
      continues from it. With `certify` there is a second file next to it, for the second run.
    - `progress`: show a progress bar on stderr.
    - `throw`: whether to raise an error when the run fails, or to return the part that was computed, with its `status`.

    **Returns:** a `Trajectory`. `stats`: `steps`, `rejected`, `gradient_evaluations` (None if the solver does not
    report it, as diffrax's implicit solvers), `hessian_vector_products` and a summary of the orders or stages for the
    solvers of this library, or of the kinks that `Piecewise` met, `seconds` (of all sessions, compilation included),
    `solver` and `reason`.

    **Raises:** ValueError for bad arguments; `RunError` when the flow blows up or reaches `max_steps`;
    `RunInterrupted` on Ctrl-C. Both carry the `trajectory` so far.

    **Source:** Elkabetz & Cohen 2021 (gradient flow of deep nets); Tansley, Massart & Cartis 2026 (the setting).
    """
    began = beginning(checkpoint)
    if certify:
        require_certifiable(solver, observe)
    mobility = _own_mobility(net) if mobility is None else mobility
    parameters, objective = make_objective(net, data, loss, weight_decay, trainable=trainable, mobility=mobility)
    observer = make_observer(observe, data, parameters, keep_parameters=save_nets or certify)
    t0, t1, save_times = _check_times(t0, t1, save_at)
    kinks, dtype = find_kinks(net, data, loss, parameters), _dtype(parameters)
    objective = within_memory(objective, parameters, memory)
    parameters, objective = in_single_precision(parameters, objective)
    reason, gates = "chosen by the user", 0 if kinks is None else count_kinks(objective, parameters)
    if solver is None:
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(parameters))
        solver, reason = choose_solver(dtype, size, kinks, gates)
    _check_solver(solver, gates)
    kinks = ignored_kinks(solver, kinks)
    if rtol is None:
        rtol = default_rtol(dtype, kinks)
    else:
        require_number("rtol", rtol, above=0)
        warn_about_tolerance(rtol, dtype, kinks)
    atol = _default_atol(rtol, parameters) if atol is None else atol
    require_number("atol", atol, above=0)
    require_integer("max_steps", max_steps, at_least=1)
    flow = partial(
        _flow, objective, parameters, t0=t0, t1=t1, save_times=save_times, stop=_check_stop(stop, observer.names)
    )
    flow = partial(flow, reason=reason, dt0=dt0, max_steps=max_steps, progress=progress, began=began)
    if not certify:
        return conclude(flow(observer, solver=solver, rtol=rtol, atol=atol, checkpoint=checkpoint), throw)
    run = certified(
        flow,
        observer,
        objective.trainable,
        t0=t0,
        t1=t1,
        solver=solver,
        rtol=rtol,
        atol=atol,
        checkpoint=checkpoint,
        throw=throw,
    )
    run = with_balance_error(run, net, t0, weight_decay, mobility, objective.trainable)
    return conclude(run if save_nets else dataclasses.replace(run, nets=None), throw)


def _own_mobility(net: Any) -> Mobility | None:
    """The mobilities that the parametrization of a network gives to its flow; those for Adam give none."""
    parametrization = net.parametrization if isinstance(net, MLP) else None
    if parametrization is not None and parametrization.rule != "sgd":
        raise wrong("mobility", f"given for a network whose {parametrization.name} is meant for Adam", "None")
    return own_mobility(net)


def _flow(
    objective: AbstractObjective,
    parameters: PyTree,
    observer: Observer,
    *,
    t0: Float[Array, ""],
    t1: Float[Array, ""],
    save_times: Float[Array, " s"],
    stop: tuple[AbstractStop, ...],
    obeys_stop: bool = True,
    solver: Any,
    reason: str,
    rtol: Any,
    atol: Any,
    dt0: Any,
    max_steps: int,
    checkpoint: str | os.PathLike | None,
    keep_checkpoint: bool = False,
    progress: bool,
    began: float,
) -> Trajectory:
    """One run at one tolerance, however it ends."""
    solver, controller = _controlled(solver, rtol, atol, dt0, _dtype(parameters))
    problem = FlowProblem(
        objective=objective,
        observer=observer,
        solver=solver,
        controller=controller,
        stop=stop,
        obeys_stop=jnp.asarray(obeys_stop),
        save_times=save_times,
        t1=t1,
        max_steps=jnp.asarray(max_steps, jnp.int32),
    )
    dt0 = None if dt0 is None else jnp.asarray(dt0, t1.dtype)
    with never_ignored():
        first = _start(problem, parameters, t0, dt0)
    state, interrupted = run_to_end(
        _advance,
        problem,
        first,
        whole=problem.max_steps,
        origin=(parameters, t0, dt0),
        fraction=lambda state: float((state.t - t0) / (t1 - t0)),
        label=lambda: f"gradient flow to t = {float(t1):g}",
        progress=progress,
        began=began,
        checkpoint=checkpoint,
        keep_checkpoint=keep_checkpoint,
    )
    return make_trajectory(
        state.record,
        observer.names,
        objective,
        state.parameters,
        end_time=state.t,
        status=jnp.asarray(INTERRUPTED, jnp.int32) if interrupted else state.status,
        counts=_counts(state, solver),
        notes=_notes(problem, reason),
        began=began,
    )


def _check_times(t0, t1, save_at) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, " s"]]:
    time_dtype = jnp.zeros(()).dtype
    require_number("t0", t0)
    require_number("t1", t1)
    if is_traced(t0, t1, save_at):
        if save_at is None:
            raise wrong("save_at", "given when `t0` or `t1` is traced by JAX", "None")
        return jnp.asarray(t0, time_dtype), jnp.asarray(t1, time_dtype), jnp.asarray(save_at, time_dtype)
    # As the loop sees them: in float32 a span of 1 at a time of 1e8 is none.
    is_lost = float(t1) > float(t0)
    t0, t1 = (_in_dtype(name, time, time_dtype) for name, time in (("t0", t0), ("t1", t1)))
    if not t1 > t0:
        raise wrong("t1", f"after `t0` = {t0:g}{f' in {time_dtype}' if is_lost else ''}", f"{t1:g}")
    if save_at is None:
        times = t0 + np.concatenate([[0.0], log_times(1e-4 * (t1 - t0), t1 - t0, 60)])
        save_at = np.unique(times.astype(time_dtype))
    try:
        times = np.asarray(save_at, dtype=time_dtype)
    except (TypeError, ValueError):
        raise wrong("save_at", "a non-empty sequence of times", repr(save_at)) from None
    if times.ndim != 1 or times.size == 0:
        raise wrong("save_at", "a non-empty sequence of times", f"of shape {times.shape}")
    if not np.all(np.diff(times) > 0):
        raise wrong("save_at", "strictly increasing", _first_bad(times))
    rounding = 4 * float(jnp.finfo(time_dtype).eps) * max(abs(t0), abs(t1))
    if not (times[0] >= t0 - rounding and times[-1] <= t1 + rounding):
        raise wrong("save_at", f"within [t0, t1] = [{t0:g}, {t1:g}]", f"from {times[0]:g} to {times[-1]:g}")
    return jnp.asarray(t0, time_dtype), jnp.asarray(t1, time_dtype), jnp.asarray(np.clip(times, t0, t1), time_dtype)


def _in_dtype(name: str, time: Any, dtype: np.dtype) -> float:
    with np.errstate(over="ignore"):
        rounded = float(np.asarray(time, dtype))
    if not np.isfinite(rounded):
        raise wrong(name, f"a time that {dtype} holds", f"{float(time):g}")
    return rounded


def _first_bad(times: np.ndarray) -> str:
    i = int(np.argmin(np.diff(times) > 0))
    return f"{times[i]:g} followed by {times[i + 1]:g} at position {i + 1}"


def _check_stop(stop: AbstractStop | Sequence[AbstractStop], observed: Sequence[str]) -> tuple[AbstractStop, ...]:
    rules: Any = (stop,) if isinstance(stop, AbstractStop) else stop
    if not isinstance(rules, Sequence) or not all(isinstance(rule, AbstractStop) for rule in rules):
        raise wrong("stop", "rules such as `LossBelow(1e-8)`", repr(stop))
    for rule in rules:
        if isinstance(rule, StopWhen) and rule.name.partition(".")[0] not in observed:
            raise wrong("stop", f"a rule on an observable, {' or '.join(observed)}", f"one on {rule.name!r}")
    # As arrays, so that another bound does not compile again.
    return tuple(jax.tree.map(jnp.asarray, rule) for rule in rules)


def _check_solver(solver: Any, gates: int | str) -> None:
    """Raise ValueError for what is no solver, or not of this flow; `gates` as in `choose_solver`."""
    if not isinstance(solver, diffrax.AbstractSolver):
        raise wrong("solver", "a diffrax solver such as `diffrax.Tsit5()`", repr(solver))
    # The leapfrog remembers absolute times, which the loop does not have; others solve split or stochastic equations.
    if isinstance(solver, diffrax.LeapfrogMidpoint) or not isinstance(solver.term_structure, type):
        raise wrong("solver", "a one-step solver of a single ODE term", type(solver).__name__)
    if isinstance(solver, Piecewise | Smoothed) and (gates == 0 or isinstance(gates, str)):
        kinks = f"kinks in {gates}, which it cannot gate" if gates else "a network and a loss without kinks"
        raise wrong("solver", f"another one for {kinks}", type(solver).__name__)


def _controlled(
    solver: diffrax.AbstractSolver, rtol: Any, atol: Any, dt0: Any, dtype: DTypeLike
) -> tuple[diffrax.AbstractSolver, diffrax.PIDController | None]:
    """The solver with its tolerances set, and its step size controller; None for a constant step."""
    # Proportional-integral control: fewer rejected steps than the default where stability limits the step. NDF selects
    # its steps itself, through the default coefficients.
    pcoeff, icoeff = (0.0, 1.0) if isinstance(solver, NDF) else (0.3, 0.4)
    rtol, atol = _of_a_step(solver, jnp.asarray(rtol, dtype), jnp.asarray(atol, dtype))
    controller = diffrax.PIDController(rtol, atol, pcoeff=pcoeff, icoeff=icoeff)
    if isinstance(solver, diffrax.AbstractImplicitSolver):
        solver = _with_tolerances(solver, controller)
    if dt0 is not None:
        require_number("dt0", dt0, above=0)
    if isinstance(solver, diffrax.AbstractAdaptiveSolver):
        return solver, controller
    if dt0 is None:
        raise wrong("dt0", f"given for {type(solver).__name__}, which has no error estimate to choose its step", "None")
    return solver, None


def _of_a_step(
    solver: Any, rtol: Float[Array, ""], atol: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The tolerances of a step that make the error at the end of a run proportional to `rtol`.

    Steps shrink as rtol^{1/q} if the estimated error of a step is O(h^q), and the error at the end as h^p, where p is
    the order of the solver. Pairs that estimate the error of the lower of their orders have q = p, but RKC2 has q = 3.
    """
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        return rtol, atol
    terms: Any = None
    of_step: Any = solver.error_order(terms)
    excess = max(1, of_step / solver.order(terms)) - 1
    return (rtol ** (1 + excess), atol * rtol**excess) if excess else (rtol, atol)


def _with_tolerances(solver: Any, controller: diffrax.PIDController) -> Any:
    """The solver whose root finder, if it has no tolerances of its own, has those of the controller."""
    unset = diffrax.with_stepsize_controller_tols(diffrax.VeryChord)().rtol
    names = [name for name in ("rtol", "atol", "norm") if getattr(solver.root_finder, name) is unset]
    values = [getattr(controller, name) for name in names]
    return eqx.tree_at(lambda s: [getattr(s.root_finder, name) for name in names], solver, values)


@jax.jit
def _default_atol(rtol: Any, parameters: Any) -> Any:
    leaves = jax.tree.leaves(parameters)
    size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in leaves) / sum(leaf.size for leaf in leaves))
    return jnp.asarray(rtol, size.dtype) / 1000 * jnp.clip(size, 1e-12, 1)


def _dtype(parameters: PyTree) -> DTypeLike:
    return jnp.result_type(*jax.tree.leaves(parameters))


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
    return {
        "solver": type(problem.solver).__name__,
        "reason": reason,
        "data_enters_as": "second moments" if isinstance(problem.objective, MomentObjective) else "samples",
    }
