"""Linear differential equations along a path, with the solver and the tolerance of the flow itself."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..integrate import FlowProblem, after_rejection, attempted
from ..solvers.control import with_tolerances
from ..solvers.flow_solver import AbstractFlowSolver

# The tolerance is relative to the solution as it is, and to the largest that it has been: one that dies away, like the
# derivative of a flow that has converged, is followed over so many digits and then forgotten.
_OF_SIZE, _OF_PEAK = 1e-2, 1e-5

Field = Callable[[Array, PyTree], PyTree]


class LinearState(eqx.Module):
    """Where the solution is, and what its solver goes on with."""

    parameters: PyTree
    dt: Float[Array, ""]
    solver_state: PyTree
    controller_state: PyTree
    peak: Float[Array, ""]  # the largest root mean square so far
    attempts: Int[Array, ""]
    failed: Bool[Array, ""]


class Piece(NamedTuple):
    """What a step has covered: the duration of the step (0 if it was rejected) and the solution in it."""

    elapsed: Float[Array, ""]
    evaluate: Callable[[Array], PyTree]  # at a duration since the start of the step


class Linear(eqx.Module):
    """How v' = f(τ, v) is solved along a flow, where τ is the time since the start of a step."""

    solver: diffrax.AbstractSolver
    controller: diffrax.PIDController | None
    constant_step: Float[Array, ""]  # of a solver without an error estimate
    most: Int[Array, ""]  # attempts

    @classmethod
    def of(cls, problem: FlowProblem, constant_step: Float[Array, ""]) -> "Linear":
        """With solver and tolerance of a flow."""
        solver = problem.solver
        solver = solver.for_derivatives() if isinstance(solver, AbstractFlowSolver) else solver
        if isinstance(solver, diffrax.AbstractImplicitSolver) and problem.controller is not None:
            solver = with_tolerances(solver, problem.controller)
        most = 10 * jnp.minimum(problem.max_steps, 10**8) + 1000  # a solution that jumps begins anew each time
        return cls(solver, problem.controller, constant_step, most)

    def nothing(self, field: Field, v: PyTree, horizon: Float[Array, ""]) -> LinearState:
        """The state before the start of any solution of the shape of `v`: zero, with which nothing is integrated."""
        zero = jnp.zeros_like(horizon)
        first = LinearState(v, zero, None, None, zero, jnp.zeros((), jnp.int32), jnp.asarray(False))
        shapes = jax.eval_shape(lambda: self.begin(field, v, horizon, first))
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def begin(self, field: Field, v: PyTree, horizon: Float[Array, ""], before: LinearState) -> LinearState:
        """The state at the start of a solution, or after a jump."""
        zero, size = jnp.zeros_like(horizon), _rms(v)
        # A solution that begins at zero is followed from the size that it has after a millionth of the horizon.
        size = jnp.where(size > 0, size, 1e-6 * horizon * _rms(field(zero, v)))
        peak = jnp.maximum(jnp.maximum(before.peak, size), jnp.finfo(size.dtype).tiny ** 0.5)
        state = dataclasses.replace(before, parameters=v, peak=peak)
        (solver, controller), terms = self._at_tolerance(state), _terms(field)
        dt, controller_state = self.constant_step, None
        if controller is not None:
            order: Any = solver.error_order(terms)
            dt, controller_state = controller.init(terms, zero, horizon, v, None, None, solver.func, order)
        solver_state = solver.init(terms, zero, dt, v, None)
        made = jax.tree.map(jnp.asarray, (dt, solver_state, controller_state))
        return dataclasses.replace(state, dt=made[0], solver_state=made[1], controller_state=made[2])

    def step(self, field: Field, state: LinearState, remaining: Float[Array, ""]) -> tuple[LinearState, Piece]:
        """One attempt, of a step that is at most `remaining`."""
        solver, controller = self._at_tolerance(state)
        dt = jnp.minimum(state.dt, remaining)
        equation = _Equation(_terms(field), solver, controller)
        tried = attempted(equation, state, dt)
        keep = lambda new, old: jnp.where(tried.accepted, new, old)
        v, attempts = jax.tree.map(keep, tried.parameters, state.parameters), state.attempts + 1
        stuck = jnp.asarray(self.controller is None) & ~tried.accepted
        failed = stuck | ~jnp.isfinite(tried.next_dt) | (attempts >= self.most) | (tried.solver_failed & tried.accepted)
        after = LinearState(
            parameters=v,
            dt=tried.next_dt,
            solver_state=jax.tree.map(keep, tried.solver_state, after_rejection(equation, state, tried)),
            controller_state=tried.controller_state,
            peak=jnp.maximum(state.peak, _rms(v)),
            attempts=attempts,
            failed=state.failed | failed,
        )
        interpolation: Any = solver.interpolation_cls
        inside = interpolation(t0=jnp.zeros_like(dt), t1=dt, **tried.dense)
        return after, Piece(jnp.where(tried.accepted, dt, 0), inside.evaluate)

    def _at_tolerance(self, state: LinearState) -> tuple[Any, Any]:
        """Solver and controller with the tolerance of the solution as it is."""
        if self.controller is None:
            return self.solver, None
        rtol: Any = self.controller.rtol
        atol = rtol * jnp.maximum(_OF_SIZE * _rms(state.parameters), _OF_PEAK * state.peak)
        controller = eqx.tree_at(lambda c: c.atol, self.controller, atol.astype(jnp.result_type(rtol)))
        if not hasattr(self.solver, "root_finder"):
            return self.solver, controller
        return eqx.tree_at(lambda s: s.root_finder.atol, self.solver, controller.atol), controller


class _Equation(NamedTuple):
    terms: diffrax.ODETerm
    solver: Any
    controller: Any


def _terms(field: Field) -> diffrax.ODETerm:
    return diffrax.ODETerm(lambda t, v, args: field(jnp.asarray(t), v))


def _rms(tree: PyTree) -> Float[Array, ""]:
    leaves = jax.tree.leaves(tree)
    return jnp.sqrt(jnp.asarray(sum(jnp.sum(leaf**2) for leaf in leaves)) / sum(leaf.size for leaf in leaves))
