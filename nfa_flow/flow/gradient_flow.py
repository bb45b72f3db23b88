"""The exact gradient flow of a network on a dataset."""

import dataclasses
import math
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

from ..checks import is_traced, require_flag, require_instance, require_integer, require_number, wrong
from ..data import Dataset
from ..nets import MLP
from ..numerics.meshes import on_automatic_axes
from ..problem.half_precision import in_single_precision
from ..problem.losses import Loss
from ..problem.memory import within_memory
from ..problem.mobility import Mobility, root_mobility
from ..problem.objective import AbstractObjective, make_objective
from ..problem.trained import Trainable
from ..run.drive import beginning
from ..run.interrupts import never_ignored
from ..run.observation import Observe, Observer, make_observer
from ..run.suspend import current_replay
from ..run.trajectory import Trajectory, conclude
from ..run.trees import constant
from .certify import certified, require_certifiable, with_balance_error
from .driven import driven
from .dynamics.abstract import AbstractDynamics
from .dynamics.gradient import Gradient
from .dynamics.motion import in_motion
from .integrate import FlowProblem, start
from .kinks.find import find_kinks
from .kinks.pieces import count_kinks
from .solvers.choice import choose_solver, default_rtol, ignored_kinks, warn_about_tolerance
from .solvers.control import check_controller, check_solver, controlled, tolerances
from .solvers.ndf import NDF
from .stopping import AbstractStop, Stop, check_stop
from .times import check_times

_start = eqx.filter_jit(start)
_GRADIENT = Gradient()


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
    dynamics: AbstractDynamics = _GRADIENT,
    observe: Observe | None = None,
    save_at: Sequence[float] | Float[np.ndarray, " s"] | Float[Array, " s"] | None = None,
    save_nets: bool = False,
    solver: diffrax.AbstractSolver | None = None,
    rtol: float | Float[Array, ""] | None = None,
    atol: float | Float[Array, ""] | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    dt0: float | Float[Array, ""] | None = None,
    max_steps: int = 1_000_000,
    memory: int | None = None,
    stop: Stop = (),
    certify: bool = False,
    resumable: bool = False,
    dense: bool = False,
    checkpoint: str | os.PathLike | None = None,
    progress: bool = True,
    throw: bool = True,
) -> Trajectory:
    """Integrate dθ/dt = −m ∇_θ[ℒ(θ) + (λ/2)‖θ‖²] from `net` at time `t0` to time `t1`; m = 1 by default.

    With `dynamics` it integrates the flow of an optimizer in the place of gradient flow.

    ℒ is the (weighted) mean of the per-sample loss. A linear `MLP` with the squared loss is integrated through the
    second moments of the data, at a cost that does not depend on the number of samples.

    **Arguments:**
    - `net`: any Equinox module from one sample "d" to a prediction "c"; for a `TotalLoss` any tree of arrays.
    - `data`: the samples; of `data.on(mesh)` several devices compute the flow together, also in several processes.
    - `t1`, `t0`: end and start in gradient-flow time.
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
    - `dynamics`: what moves the parameters, such as `nf.dynamics.Adam(learning_rate=1e-3)`, the flow that follows Adam.
      By default gradient flow. Its memory, such as a momentum, begins as that of the optimizer does. Observables of the
      Hessian see no mobilities if its Jacobian is not symmetric.
    - `observe`: name → function `(net, data) -> array` (or tree of arrays), evaluated inside the compiled solve, so
      memory grows with the number of observations only. By default the loss is observed. Use the same function objects
      in later calls to avoid recompilation.
    - `save_at`: increasing times in [t0, t1]; by default t0 and 60 log-spaced times up to t1.
    - `save_nets`: whether to keep also the network at each of these times.
    - `solver`: any one-step diffrax ODE solver, or `nf.flow.NDF`, `TSRKC3`, `RKC2` and `Piecewise`. By default `NDF` if
      network and loss are smooth, `Piecewise` if they have kinks, and `TSRKC3` if the network is huge, or has kinks
      that cannot be located or are more than 50 000 (samples times kinks per sample). For dynamics whose Jacobian is
      not symmetric `diffrax.Tsit5`, or `NDF` if they are stiff (`RMSProp`, `Sign`, `Muon`); only gradient flow locates
      kinks. `stats` has the solver and the reason.
    - `rtol`, `atol`: tolerances of the error of a step per parameter. By default `rtol` = 1e-6, and 1e-3 across kinks
      that the solver does not locate (larger if the floating-point type requires it); `atol` = rtol/1000 times the root
      mean square of the initial parameters (1 at most), because errors made near a small initialization grow while the
      flow leaves it.
      With mobility m, `atol` is for θ/√m. The relative error of all parameters at the end of a run stays within about
      10 × `rtol` if the flow is smooth and does not amplify errors itself.
    - `stepsize_controller`: a `diffrax.PIDController`, whose tolerances of a step take the place of `rtol` and `atol`
      and whose coefficients must be the default ones for `NDF`; or `diffrax.ConstantStepSize()`, with `dt0`, for
      solvers of diffrax. By default a `PIDController` with these tolerances and proportional-integral control.
    - `dt0`: the first step; for a solver without an error estimate (`diffrax.Euler`) the constant step.
    - `max_steps`: bound on accepted and rejected steps together.
    - `memory`: how many bytes gradients and Hessian products may take on a device, beside data and parameters. If it is
      less than they take for all samples at once, these are evaluated in chunks, one after another, with the same
      result up to rounding, and so are loss and accuracy where they are observed. By default an eighth of the memory of
      the device. `Piecewise`, `Smoothed` and
      `nf.dynamics.NaturalGradient` do not use it.
    - `stop`: rules such as `LossBelow(1e-8)` or `StopWhen("accuracy", above=0.99)`. If one of them is met at the end of
      a step, the time at which it was met is located within the step, with an error like that of all observations, and
      the flow ends there and observes that moment; at `t0` if it is met there. `StopAfter(seconds=60)` ends it when the
      call has taken so long.
    - `certify`: measure at each time how far the run is from the exact flow, as additional observations.
      `parameter_error`: the relative distance of all parameters from a second run at a tenth of the tolerances, which
      ends where the first one did; NaN at times that the second run did not reach. `loss_identity_error`: |F(t0) − F(t)
      − ∫‖√m∇F‖² dt| / (F(t0) − F(t)) of F = ℒ + (λ/2)‖θ‖²; it grows when the flow moves by less than the tolerances.
      Other dynamics have an energy of their own in the place of F. `balance_error`, for gradient flow of an `MLP` with
      consecutive layers and identity, relu, leaky relu or |z| between them: the distance of their balance from its law,
      relative to their weights. It needs memory for the networks at all times.
      `stats` belong to the first run and leave out the four gradients that the loss identity takes per step and per
      time.
    - `resumable`: keep the state of the solver, so that `run.resume(t1)` goes on as if the run had not ended. It takes
      the memory of a second state during the run, and of one after it, which is up to ten times that of the network.
      Not inside `jax.jit`, `jax.vmap` and batched sweeps, and not with `certify`.
    - `dense`: keep what `run.net_at_time(t)` needs to evaluate the network at any time of the run: 1 024 states of the
      solver, or as many as fit into 64 MiB, but 16 at least. Steps between them are computed again. Not inside
      `jax.jit`, `jax.vmap` and batched sweeps.
    - `checkpoint`: a file for the state of an unfinished run (written every 10 s and on Ctrl-C); the same call
      continues from it, on another mesh too if both meshes divide the samples. With `certify` there is a second file
      next to it, for the second run.
    - `progress`: show a progress bar on stderr.
    - `throw`: whether to raise an error when the run fails, or to return the part that was computed, with its `status`.

    **Returns:** a `Trajectory`. `stats`: `steps`, `rejected`, `gradient_evaluations` (of the velocity, which for some
    dynamics takes a Hessian product too; None if the solver does not
    report it, as diffrax's implicit solvers), `hessian_vector_products` and a summary of the orders or stages for the
    solvers of this library, or of the kinks that `Piecewise` met, `seconds` (of all sessions, compilation included),
    `solver` and `reason`.

    **Raises:** ValueError for bad arguments; `RunError` when the flow blows up or reaches `max_steps`;
    `RunInterrupted` on Ctrl-C. Both carry the `trajectory` so far.

    **Source:** Elkabetz & Cohen 2021 (gradient flow of deep nets); Tansley, Massart & Cartis 2026 (the setting).
    """
    began, (net, data) = beginning(checkpoint), on_automatic_axes((net, data))
    require_flag("resumable", resumable)
    require_flag("dense", dense)
    if certify:
        require_certifiable(solver, stepsize_controller, observe)
    if certify and resumable:
        raise wrong("resumable", "False with `certify=True`, whose second run would not go on", True)
    require_instance(
        "dynamics", dynamics, AbstractDynamics, "one such as `nf.dynamics.Adam(1e-3)`, or `nf.dynamics.of(optimizer)`"
    )
    mobility = _own_mobility(net, dynamics) if mobility is None else mobility
    if mobility is not None and not dynamics.mobile:
        raise wrong("mobility", f"None for {type(dynamics).__name__}, which has none", mobility)
    parameters, objective, factors = _objective(
        dynamics, net, data, loss, weight_decay, trainable=trainable, mobility=mobility
    )
    observer = make_observer(observe, data, parameters, keep_parameters=save_nets or certify)
    t0, t1, save_times = check_times(t0, t1, save_at)
    kinks, dtype = find_kinks(net, data, loss, parameters), _dtype(parameters)
    objective = within_memory(objective, parameters, memory)
    parameters, objective = in_single_precision(parameters, objective)
    reason, gates = "chosen by the user", 0 if kinks is None else _count_gates(dynamics, kinks, objective, parameters)
    if solver is None:
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(parameters))
        solver, reason = choose_solver(dtype, size, kinks, gates, symmetric=dynamics.symmetric, stiff=dynamics.stiff)
    check_solver(solver, gates, symmetric=dynamics.symmetric)
    if not dynamics.symmetric and isinstance(solver, NDF):
        solver = solver.for_unsymmetric()
    check_controller(stepsize_controller, solver)
    kinks = ignored_kinks(solver, kinks)
    rtol, atol = tolerances(stepsize_controller, rtol, atol)
    if rtol is None:
        rtol = default_rtol(dtype, kinks)
    else:
        require_number("rtol", rtol, above=0)
        warn_about_tolerance(rtol, dtype, kinks)
    atol = _default_atol(rtol, parameters) if atol is None else atol
    require_number("atol", atol, above=0)
    require_integer("max_steps", max_steps, at_least=1)
    rules, deadline = check_stop(stop, observer.names)
    if certify and deadline < math.inf:
        raise wrong("stop", "without `StopAfter` with `certify=True`, whose second run takes longer", "one with it")
    if type(dynamics) is not Gradient:
        parameters, objective = in_motion(_as_arrays(dynamics, _dtype(parameters)), objective, parameters, factors)
    flow = partial(_flow, objective, parameters, t0=t0, t1=t1, save_times=save_times, stop=rules, deadline=deadline)
    flow = partial(
        flow,
        stepsize_controller=stepsize_controller,
        reason=reason,
        unlocated=kinks,
        dt0=dt0,
        max_steps=max_steps,
        resumable=resumable,
        dense=dense,
        progress=progress,
        began=began,
    )
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
    if type(dynamics) is Gradient:  # whose law it is
        run = with_balance_error(run, net, t0, weight_decay, mobility, objective.trainable)
    return conclude(run if save_nets else dataclasses.replace(run, nets=None), throw)


def _own_mobility(net: Any, dynamics: AbstractDynamics) -> Mobility | None:
    """The mobilities that the parametrization of a network gives to its flow, if they are for this dynamics."""
    parametrization = net.parametrization if isinstance(net, MLP) else None
    if parametrization is None:
        return None
    if parametrization.rule != dynamics.rule:
        meant = f"{parametrization.name} is meant for {'SGD' if parametrization.rule == 'sgd' else 'Adam'}"
        raise wrong("mobility", f"given for a network whose {meant}", f"None with {type(dynamics).__name__}")
    if not dynamics.mobile:
        must_be = f"one with mobilities for a network with those of {parametrization.name}"
        raise wrong("dynamics", must_be, f"{type(dynamics).__name__}, which has none")
    return net.mobility


def _objective(
    dynamics: AbstractDynamics, *problem: Any, mobility: Mobility | None, **options: Any
) -> tuple[PyTree, AbstractObjective, PyTree | None]:
    """Parameters, their objective, and mobilities that are not in the objective, but multiply the velocity."""
    if mobility is None or dynamics.symmetric:
        return *make_objective(*problem, mobility=mobility, **options), None
    parameters, objective = make_objective(*problem, **options)
    roots = root_mobility(mobility, problem[0], parameters)
    return parameters, objective, jax.tree.map(jnp.square, roots)


def _count_gates(dynamics: AbstractDynamics, kinks: str, objective: AbstractObjective, parameters: PyTree) -> int | str:
    """The number of kinks that can be located, or a word for those that cannot."""
    if type(dynamics) is Gradient:
        return count_kinks(objective, parameters)
    return f"the {kinks} under another dynamics than gradient flow"


def _as_arrays(dynamics: AbstractDynamics, dtype: DTypeLike) -> AbstractDynamics:
    """With arrays for numbers, so that another learning rate does not compile again."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if eqx.is_array_like(leaf) else leaf, dynamics)


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
    deadline: float,
    solver: Any,
    stepsize_controller: Any,
    reason: str,
    unlocated: str | None,
    rtol: Any,
    atol: Any,
    dt0: Any,
    max_steps: int,
    checkpoint: str | os.PathLike | None,
    keep_checkpoint: bool = False,
    resumable: bool,
    dense: bool,
    progress: bool,
    began: float,
) -> Trajectory:
    """One run at one tolerance, however it ends."""
    solver, controller = controlled(solver, stepsize_controller, rtol, atol, dt0, _dtype(parameters))
    problem = FlowProblem(
        objective=objective,
        observer=observer,
        solver=solver,
        controller=controller,
        stop=stop,
        unlocated=unlocated,
        obeys_stop=jnp.asarray(obeys_stop),
        save_times=save_times,
        t1=t1,
        max_steps=jnp.asarray(max_steps, jnp.int32),
    )
    dt0 = None if dt0 is None else jnp.asarray(dt0, t1.dtype)
    if (resumable or dense) and (is_traced(problem, parameters, t0) or current_replay() is not None):
        option = "resumable" if resumable else "dense"
        raise wrong(option, "False inside `jax.jit`, `jax.vmap` or a batched sweep", True)
    with never_ignored():
        first = _start(*constant((problem, parameters, t0, dt0)), resumable=resumable)
    return driven(
        problem,
        first,
        parameters,
        t0,
        origin=(parameters, t0, dt0),
        reason=reason,
        deadline=deadline,
        dense=dense,
        progress=progress,
        began=began,
        checkpoint=checkpoint,
        keep_checkpoint=keep_checkpoint,
    )


@jax.jit
def _default_atol(rtol: Any, parameters: Any) -> Any:
    leaves = jax.tree.leaves(parameters)
    size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in leaves) / sum(leaf.size for leaf in leaves))
    return jnp.asarray(rtol, size.dtype) / 1000 * jnp.clip(size, 1e-12, 1)


def _dtype(parameters: PyTree) -> DTypeLike:
    return jnp.result_type(*jax.tree.leaves(parameters))
