"""A flow as a function that JAX can differentiate, in either direction.

A derivative of the program that integrates a flow would be that of its step sizes, its inner iterations and its error
estimates. Here the derivative is that of the flow: the equations of `tangent` and `adjoint`, solved to the tolerance
of the flow itself along the path that it took.
"""

import dataclasses
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from ...numerics.switches import full_precision, usual_promotion
from ...run.observation import Observer, Record
from ...run.status import COMPLETED, STOPPED
from ..integrate import FlowProblem, FlowState, advance, loss_and_gradient
from ..marks import unobserved
from ..solvers.piecewise import Piecewise
from ..stopping import Moment, excess
from .across_kinks import AcrossKinks
from .adjoint import add, backwards
from .linear import Linear
from .path import Path, PathKeeper
from .tangent import forwards
from .variation import Variation


@eqx.filter_custom_jvp
def integrated(problem: FlowProblem, first: FlowState, parameters: PyTree, t0: Float[Array, ""]) -> FlowState:
    """The last state of a flow from `first`, the state at `parameters` and `t0`.

    It has derivatives of parameters, times and observations with respect to `parameters`, `t0`, and the objective, the
    observables, the times and the stop rules of `problem`. They are NaN if the run failed or began on a kink. Counts,
    and all that says how the run was integrated, have none.

    **Raises:** NotImplementedError for derivatives of a flow with kinks that the solver does not locate, and for second
    derivatives.
    """
    return advance(problem, first, problem.max_steps)


@integrated.def_jvp
@usual_promotion()
@full_precision
def _(primals: tuple, tangents: tuple) -> tuple[FlowState, PyTree]:
    problem, first, parameters, t0 = primals
    if problem.unlocated is not None:
        raise NotImplementedError(
            f"The derivatives of a flow jump where it meets kinks (here in the {problem.unlocated}), and the solver "
            "does not locate them: use `solver=nf.flow.Smoothed(beta=...)`, a flow that is smooth."
        )
    d_problem, _, d_parameters, d_t0 = tangents
    # Of the same numbers, but not constant: a second derivative must pass through `_once`, and be refused there.
    first = eqx.tree_at(lambda first: (first.t, first.parameters), first, (t0, parameters))
    keeper = PathKeeper.of(problem, first)
    state, path, thetas = _integrate(keeper, problem, first)
    record, dp = state.record, d_problem.objective
    of_start = Variation(unobserved(problem), _perturbed(problem.objective, dp))  # which is on no kinks
    variation = AcrossKinks(of_start.problem, of_start.p) if isinstance(problem.solver, Piecewise) else of_start
    moved = lambda v, velocity, dt: jax.tree.map(lambda v, f: v + f * dt.astype(f.dtype), v, velocity)
    v = _materialized(d_parameters, parameters)
    if d_t0 is not None:
        v = moved(v, of_start.velocity(None, parameters), -d_t0)
    d_thetas, d_end = _along(keeper, path, variation, Linear.of(problem, first.dt), record, v, dp)
    dense, _ = keeper.at(path, state.t)
    at_end, is_held = variation.velocity(dense, state.parameters), variation.is_held(dense)
    d_times, d_t = _of_times(problem, d_problem, state, t0, d_t0, at_end, is_held, d_end)
    if d_times is not None:
        d_thetas = jax.vmap(moved)(d_thetas, variation.velocities(keeper, path, record.times, thetas), d_times)
        d_end = moved(d_end, at_end, d_t)
    d_values = _of_values(problem, d_problem, state, thetas, d_thetas)
    d_state = eqx.tree_at(
        lambda state: (state.t, state.parameters, state.record.times, state.record.values),
        jax.tree.map(lambda _: None, state),
        (d_t, d_end, d_times, d_values),
        is_leaf=lambda leaf: leaf is None,
    )
    defined = (state.status == COMPLETED) | (state.status == STOPPED)
    undefined = jnp.where(defined, 1, jnp.nan)
    return state, jax.tree.map(lambda tangent: tangent * undefined.astype(tangent.dtype), d_state)


class _Keeping(Observer):
    """An observer that also keeps the parameters that it sees."""

    observer: Observer

    def __call__(self, objective: Any, parameters: PyTree, known: Any = MappingProxyType({})) -> PyTree:
        return self.observer(objective, parameters, known), parameters


def _integrate(keeper: PathKeeper, problem: FlowProblem, first: FlowState) -> tuple[FlowState, Path, PyTree]:
    """The last state, the path, and the parameters at all recorded times (at others, the last ones)."""
    size = len(first.record.times)
    buffers = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), first.parameters)
    record = dataclasses.replace(first.record, values=(first.record.values, buffers))
    old = problem.observer
    problem = dataclasses.replace(problem, observer=_Keeping(old.names, old.observables, old.data, False, old))
    state, path = keeper.integrate(problem, dataclasses.replace(first, record=record))
    values, thetas = state.record.values
    filled = jnp.arange(size) < state.record.count
    shaped = lambda buffer: filled.reshape(-1, *[1] * (buffer.ndim - 1))
    thetas = jax.tree.map(lambda buffer, last: jnp.where(shaped(buffer), buffer, last), thetas, state.parameters)
    return dataclasses.replace(state, record=dataclasses.replace(state.record, values=values)), path, thetas


def _along(
    keeper: PathKeeper, path: Path, variation: Variation, linear: Linear, record: Record, v: PyTree, dp: PyTree
) -> tuple[PyTree, PyTree]:
    """The derivatives of θ at the recorded times and at the end, as a linear map of those of θ(t0) and p.

    JAX can transpose, and batch, the solution of a linear system with a solver of the user's own: here x = b plus what
    the flow makes of b, with the identity in the place of a matrix that is never used.
    """
    path, p, record = _once((path, variation.p, record))
    variation = dataclasses.replace(variation, p=p)
    common = variation, keeper, path, linear, record.times, record.count

    def solve(_: Any, b: tuple) -> tuple:
        v, dp, at_times, at_end = b
        d_times, d_end = forwards(*common, v, dp)
        return v, dp, add(at_times, d_times), add(at_end, d_end)

    def transpose(_: Any, c: tuple) -> tuple:
        to_v, to_p, at_times, at_end = c
        to_start, to_objective = backwards(*common, at_times, at_end)
        return add(to_v, to_start), add(to_p, to_objective), at_times, at_end

    # All of b must come from the tangents for JAX to transpose it, also what is zero.
    zero = 0 * jnp.asarray(sum(jnp.sum(leaf) for leaf in jax.tree.leaves((v, dp))))
    many = lambda leaf: jnp.zeros((len(record.times), *leaf.shape), leaf.dtype)
    b = jax.tree.map(
        lambda leaf: leaf + zero.astype(leaf.dtype), (v, dp, jax.tree.map(many, v), jax.tree.map(jnp.zeros_like, v))
    )
    return jax.lax.custom_linear_solve(lambda x: x, b, solve, transpose)[2:]


def _of_times(
    problem: FlowProblem,
    d_problem: Any,
    state: FlowState,
    t0: Array,
    d_t0: Any,
    velocity: PyTree,
    is_held: bool | Bool[Array, ""],
    v: PyTree,
) -> tuple[Any, Any]:
    """The derivatives of the recorded times, and of the last one; None if there are none.

    **Arguments:** at the end: `velocity`; `is_held`: whether it is a projection; `v`: the derivative of θ.
    """
    if d_problem.save_times is None and d_problem.t1 is None and not problem.stop:
        return None, None
    d_times, d_t = jnp.zeros_like(state.record.times), _materialized(d_problem.t1, state.t)
    if d_problem.save_times is not None:
        d_times = d_times.at[:-1].set(d_problem.save_times)
    if problem.stop:
        stopped, last = state.status == STOPPED, state.record.count - 1
        inside = _of_stop(problem, d_problem, stopped, state.parameters, velocity, is_held, v)
        d_t = jnp.where(stopped, jnp.where(state.t > t0, inside, _materialized(d_t0, t0)), d_t)
        d_times = d_times.at[last].set(jnp.where(stopped, d_t, d_times[last]))
    return d_times, d_t


def _of_stop(
    problem: FlowProblem,
    d_problem: Any,
    stopped: Bool[Array, ""],
    theta: PyTree,
    velocity: PyTree,
    is_held: bool | Bool[Array, ""],
    v: PyTree,
) -> Float[Array, ""]:
    """The derivative of the time at which a stop rule is met; not a number for a rule that is only a condition."""
    parts = lambda problem: (problem.objective, problem.observer, problem.stop)
    moving = _perturbed(parts(problem), parts(d_problem))

    def met(theta: PyTree, moving: PyTree) -> Array:
        objective, observer, stop = eqx.combine(moving, parts(problem))

        def both() -> tuple[Array, PyTree]:
            loss, gradient = loss_and_gradient(dataclasses.replace(problem, objective=objective), None, theta)
            free = jnp.where(is_held, jnp.nan, 1)  # of rules about the norm of a projected gradient there is none
            return loss, jax.tree.map(lambda g: g * free.astype(g.dtype), gradient)

        return excess(stop, Moment(objective, observer, theta, both), problem.t1.dtype)[0]

    by_time = jax.jvp(lambda theta: met(theta, moving), (theta,), (velocity,))[1]
    # Backwards a division by zero would reach everything, also where no rule was met.
    undefined = stopped & (by_time == 0)
    by_time = jnp.where(stopped & ~undefined, by_time, 1)
    return -jax.jvp(met, (theta, moving), (v, parts(d_problem)))[1] / by_time * jnp.where(undefined, jnp.nan, 1)


def _of_values(problem: FlowProblem, d_problem: Any, state: FlowState, thetas: PyTree, d_thetas: PyTree) -> PyTree:
    """The derivatives of the recorded values: each observable by itself, so that no other one's can spoil it."""
    observer, d_observer = problem.observer, d_problem.observer
    objective, dp = problem.objective, d_problem.objective
    filled = jnp.arange(len(state.record.times)) < state.record.count

    def of(value: Any, q: Any, dq: Any) -> PyTree:
        """Of a function of θ, the objective and q."""
        fixed, tangents = (objective, q), (dp, dq)
        moving = _perturbed(fixed, tangents)

        @jax.checkpoint
        def row(at: tuple) -> PyTree:
            theta, v, is_filled = at
            function = lambda theta, moving: value(theta, *eqx.combine(moving, fixed))
            slope = jax.jvp(function, (theta, moving), (v, tangents))[1]
            return jax.tree.map(lambda leaf: _if_any(leaf, is_filled), slope)

        return jax.lax.map(row, (thetas, d_thetas, filled))

    values, kept = state.record.values
    one = lambda name: lambda theta, objective, observer: observer.one(name, objective, theta)
    count = 1 if observer.observables is None else len(observer.observables)
    found = [of(one(name), observer, d_observer) for name in observer.names[:count]]
    found += [None] * (len(values) - count)  # what only the run itself knows
    d_kept = None if kept is None else of(lambda theta, objective, _: objective.natural(theta), None, None)
    return tuple(found), d_kept


def _if_any(tangent: Any, is_filled: Bool[Array, ""]) -> Array | None:
    """The tangent where there is a value; None for integers, which have none."""
    return None if tangent.dtype == jax.dtypes.float0 else jnp.where(is_filled, tangent, jnp.zeros_like(tangent))


def _perturbed(tree: PyTree, tangent: PyTree) -> PyTree:
    """What has a tangent in a tree."""
    return eqx.filter(tree, jax.tree.map(lambda leaf: leaf is not None, tangent, is_leaf=lambda leaf: leaf is None))


def _materialized(tangent: PyTree, tree: PyTree) -> PyTree:
    """A tangent with zeros for None."""
    filled = lambda leaf, each: None if leaf is None else jnp.zeros_like(leaf) if each is None else each
    return jax.tree.map(filled, tree, tangent, is_leaf=lambda leaf: leaf is None)


@jax.custom_jvp
def _once(tree: PyTree) -> PyTree:
    return tree


@_once.defjvp
def _(primals: tuple, tangents: tuple) -> Any:
    raise NotImplementedError(
        "A run has first derivatives only: `jax.hessian`, or a derivative of a derivative, does not pass through it."
    )
