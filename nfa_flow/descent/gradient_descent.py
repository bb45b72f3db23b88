"""The same training run with any optax optimizer."""

import os
import warnings
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ..checks import called, require_integer, require_key, require_number, wrong
from ..data import Dataset
from ..nets import MLP
from ..nets.scale_by_parametrization import scales_by_parametrization
from ..numerics.meshes import on_automatic_axes
from ..problem.losses import Loss, require_scalar
from ..problem.memory import within_memory
from ..problem.objective import TotalObjective, make_objective
from ..problem.trained import Trainable
from ..run.drive import beginning, run_to_end
from ..run.interrupts import never_ignored
from ..run.observation import Observe, make_observer
from ..run.status import INTERRUPTED
from ..run.trajectory import Trajectory, conclude, make_trajectory
from .descend import (
    DescentProblem,
    Minibatches,
    advance,
    first_optimizer_state,
    in_known_steps,
    optimizer_step,
    start,
)
from .plain_rate import plain_rate

_start = eqx.filter_jit(start)
_advance = eqx.filter_jit(advance)


def gradient_descent(
    net: Any,
    data: Dataset,
    optimizer: optax.GradientTransformation,
    steps: int,
    *,
    batch_size: int | None = None,
    key: PRNGKeyArray | None = None,
    time_per_step: float | Float[Array, ""] | None = None,
    weight_decay: float | Float[Array, ""] = 0.0,
    trainable: Trainable | None = None,
    loss: Loss = "mse",
    observe: Observe | None = None,
    save_at: Sequence[int] | Int[np.ndarray, " s"] | None = None,
    save_nets: bool = False,
    memory: int | None = None,
    checkpoint: str | os.PathLike | None = None,
    progress: bool = True,
    throw: bool = True,
) -> Trajectory:
    """Train `net` on `data` by `steps` steps of an optax optimizer.

    **Arguments:** as in `gradient_flow`, and
    - `optimizer`: for example `optax.adamw(1e-3)`. Use the same object in later calls to avoid recompilation.
    - `steps`: number of steps.
    - `batch_size`: None for the full batch; otherwise every epoch uses the samples once in a random order, without the
      remainder that does not fill a batch.
    - `key`: PRNG key for the order of the samples; needed with `batch_size`.
    - `time_per_step`: gradient-flow time of one step, for the time axis. By default η for plain gradient descent,
      `optax.sgd(η)` with a number η, traced or not. It is required for every other optimizer: usually the learning
      rate, divided by 1 − β for momentum β, so that the time axis is that of `gradient_flow`; with 1 the time is the
      number of steps.
    - `weight_decay`: λ of the term (λ/2)‖θ‖² in the objective; decoupled decay belongs to the optimizer. Neither
      changes a frozen array.
    - `save_at`: increasing step numbers in [0, steps]; by default 0 and about 60 log-spaced ones.

    **Returns:** a `Trajectory`; `times` are `time_per_step` × step. `stats`: `steps`, `gradient_evaluations`,
    `seconds` (of all sessions, compilation included), `batch`.

    **Warns:** if the parametrization of an `MLP` has learning rates that the optimizer does not use.

    **Raises:** ValueError for bad arguments; `RunError` when the parameters stop being finite; `RunInterrupted` on
    Ctrl-C. Both carry the `trajectory` so far.
    """
    began, (net, data) = beginning(checkpoint), on_automatic_axes((net, data))
    require_integer("steps", steps, at_least=1)
    by_samples = batch_size is not None
    parameters, objective = make_objective(net, data, loss, weight_decay, trainable=trainable, by_samples=by_samples)
    batches = _check_batches(batch_size, key, data)
    objective = within_memory(objective, parameters, memory)
    _check_optimizer(optimizer, parameters)
    _warn_about_mobilities(net, optimizer, parameters)
    time_per_step = _time_per_step(time_per_step, optimizer, parameters)
    problem = DescentProblem(
        objective=objective,
        observer=make_observer(observe, data, parameters, keep_parameters=save_nets),
        optimizer=optimizer,
        save_steps=_check_save_steps(save_at, steps),
        steps=jnp.asarray(steps, jnp.int32),
        time_per_step=jnp.asarray(time_per_step, jnp.zeros(()).dtype),
        batches=batches,
    )
    if batch_size is not None and isinstance(objective, TotalObjective):
        batch = eqx.filter_eval_shape(objective.on, jnp.arange(batch_size))
        require_scalar(objective.loss_function, net, batch.data)
    with never_ignored():
        first = _start(problem, parameters)
    state, interrupted = run_to_end(
        _advance,
        problem,
        first,
        hidden=_constants(optimizer, parameters),
        in_one_piece=lambda: in_known_steps(problem, first, steps),
        origin=first,
        fraction=lambda state: float(state.steps / steps),
        label=lambda: f"{steps:,} optimizer steps",
        progress=progress,
        began=began,
        checkpoint=checkpoint,
    )
    trajectory = make_trajectory(
        state.record,
        problem.observer.names,
        objective,
        state.parameters,
        end_time=problem.time_of(state.steps),
        status=jnp.asarray(INTERRUPTED, jnp.int32) if interrupted else state.status,
        counts={"steps": state.steps, "gradient_evaluations": state.steps},
        notes={"batch": "full" if batch_size is None else f"{batch_size} samples"},
        began=began,
    )
    return conclude(trajectory, throw)


def _time_per_step(given: Any, optimizer: optax.GradientTransformation, parameters: PyTree) -> Any:
    if given is not None:
        require_number("time_per_step", given, above=0)
        return given
    rate = plain_rate(optimizer, parameters)
    if rate is None:
        must_be = "given for an optimizer other than `optax.sgd(rate)` (its learning rate, or 1 to count steps)"
        raise wrong("time_per_step", must_be, None)
    return rate


def _check_optimizer(optimizer: Any, parameters: PyTree) -> None:
    if isinstance(optimizer, optax.MultiSteps):
        raise wrong("optimizer", "an optax optimizer: here its `.gradient_transformation()`", "an `optax.MultiSteps`")
    if not isinstance(optimizer, optax.GradientTransformation):
        raise wrong("optimizer", "an optax optimizer such as `optax.sgd(1e-2)`", repr(optimizer))

    def states(parameters: PyTree) -> tuple[PyTree, PyTree]:
        state = first_optimizer_state(optimizer, parameters)
        return state, optimizer_step(optimizer, parameters, state, parameters)[1]

    must_be = (
        "one that needs gradients and one set of parameters only (no loss value, no line search, no `optax.lookahead`)"
    )
    before, after = called("optimizer", must_be, jax.eval_shape, states, parameters)
    types = lambda state: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)]
    if types(before) != types(after):
        must_be = "one whose state keeps its shapes and dtypes"
        changes = [(a, b) for a, b in zip(types(before), types(after), strict=False) if a != b]
        raise wrong("optimizer", must_be, f"one that changes {changes[0][0]} to {changes[0][1]}" if changes else "not")


def _constants(optimizer: optax.GradientTransformation, parameters: PyTree) -> list[Any]:
    """The arrays that an optimizer holds, such as a learning rate that JAX traces."""
    first = lambda gradient: optimizer_step(optimizer, gradient, first_optimizer_state(optimizer, gradient), gradient)
    return jax.make_jaxpr(first)(parameters).consts


def _warn_about_mobilities(net: Any, optimizer: optax.GradientTransformation, parameters: PyTree) -> None:
    """Warn when layers have learning rates of their own, which the flow uses and this optimizer does not."""
    if not isinstance(net, MLP) or net.parametrization is None:
        return
    if scales_by_parametrization(optimizer, parameters) or all(m == 1 for m in jax.tree.leaves(net.mobility)):
        return
    message = (
        f"`optimizer` does not follow the learning rates that {net.parametrization.name} gives the layers of `net`, "
        "as `gradient_flow` does: chain `nf.nets.scale_by_parametrization()` after it."
    )
    warnings.warn(message, UserWarning, stacklevel=3)


def _check_batches(batch_size: int | None, key: PRNGKeyArray | None, data: Dataset) -> Minibatches | None:
    if batch_size is None:
        return None
    require_integer("batch_size", batch_size, at_least=1)
    if batch_size > data.samples:
        raise wrong("batch_size", f"at most the number of samples, {data.samples}", batch_size)
    if key is None:
        raise wrong("key", "a PRNG key such as `jax.random.key(0)` when `batch_size` is given", None)
    require_key("key", key)
    return Minibatches(key, batch_size)


def _check_save_steps(save_at: Any, steps: int) -> Int[Array, " s"]:
    if save_at is None:
        return jnp.asarray(np.unique(np.concatenate([[0], np.geomspace(1, steps, 60).round()])).astype(np.int32))
    chosen = np.asarray(save_at)
    if chosen.ndim != 1 or chosen.size == 0 or not np.issubdtype(chosen.dtype, np.integer):
        raise wrong("save_at", "a non-empty sequence of whole step numbers", repr(save_at))
    if not (np.all(np.diff(chosen) > 0) and chosen[0] >= 0 and chosen[-1] <= steps):
        raise wrong("save_at", f"strictly increasing step numbers in [0, {steps}]", repr(save_at))
    return jnp.asarray(chosen, jnp.int32)
