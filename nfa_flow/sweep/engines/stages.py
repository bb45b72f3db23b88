"""A user's function `one_run` cut into stages that can be compiled, each up to the next run inside it.

Traced with its batched settings abstract, `one_run` leaves at its first run that is not integrated yet (see
`nfa_flow.run.suspend`). What it had prepared by then, the problem and the initial state, are the outputs of a function
of one row of settings; the run's own `advance` integrates them; the next trace goes on from the final state. In the
last stage `one_run` returns its `Trajectory`.

What does not depend on the row (the data, as a rule) is found in the traced program, computed once and shared.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Var, jaxpr_as_fun
from jaxtyping import Array, PyTree

from ...checks import wrong
from ...run.drive import is_key
from ...run.status import COMPLETED, STOPPED
from ...run.suspend import Suspended, replaying
from ...run.trajectory import Trajectory
from ...run.trees import flatten

KEY = "key"

Row = Mapping[str, Any]  # batched setting → number; "key" → the data of a PRNG key


class Stage:
    """From one run inside `one_run` to the next, for one row of settings at a time.

    `finals` are the final states of the runs before, or their shapes. The caller maps and compiles `prepare` and
    `advance`.
    """

    def __init__(self, one_run: Callable, fixed: Mapping[str, Any], row: Row, finals: Sequence[PyTree]):
        self.is_last = False
        self.observed: tuple[str, ...] = ()  # in the last stage, names of observables
        self.stats: tuple[str, ...] = ()  # and of counts and notes
        self._static: PyTree = None

        def outputs(row: Row, finals: Sequence[PyTree]) -> PyTree:
            arrays, self._static = eqx.partition(self._leave(one_run, fixed, row, finals), eqx.is_array)
            return arrays

        program, shapes = jax.make_jaxpr(outputs, return_shape=True)(
            *jax.tree.map(_abstract, (dict(row), tuple(finals)))
        )
        self._jaxpr, self._consts = program.jaxpr, program.consts
        self._structure = jax.tree.structure(shapes)
        known = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
        constants = [known.get(v) if isinstance(v, Var) else None for v in program.jaxpr.outvars]
        varies = _depends_on_inputs(program.jaxpr)
        computed = [not v and constant is None for v, constant in zip(varies, constants, strict=True)]
        of_program = lambda leaves: jax.tree.unflatten(self._structure, leaves)[0]
        self._varies, self._computed, self._constants = map(of_program, (varies, computed, constants))
        self.state_shape = shapes[1]
        self._own_shapes = eqx.filter(shapes[0], self._varies)
        self.row_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((self._own_shapes, shapes[1])))

    def _leave(self, one_run: Callable, fixed: Mapping[str, Any], row: Row, finals: Sequence[PyTree]) -> PyTree:
        """(program, state) of the next run; or None and (trajectory, those of earlier runs that raise if they fail)."""
        settings = dict(row)
        key = jax.random.wrap_key_data(settings.pop(KEY))
        try:
            with replaying(finals) as replay:
                run = require_trajectory(one_run(key=key, **fixed, **settings))
        except Suspended as suspended:
            return self._program_of(suspended), suspended.state
        self.is_last = True
        self.observed, self.stats = tuple(flatten(run.observed)), (*run.counts, *dict(run.notes))
        earlier = (each for each in replay.raising if each is not run)
        return None, (_without_nets(run), tuple(map(_without_nets, earlier)))

    def _program_of(self, run: Suspended) -> PyTree:
        """Its `advance` and its gradient, with everything that they take from the problem and from closures as leaves.

        A loss, an observable or an optimizer of the user's may hold numbers that differ between rows.
        """
        budget = jnp.zeros((), jnp.int32)
        gradient = lambda problem, state: problem.objective.gradient(state.parameters)
        return (
            run.problem,
            eqx.filter_closure_convert(run.advance, run.problem, run.state, budget),
            eqx.filter_closure_convert(gradient, run.problem, run.state),
        )

    def shared(self, row: Row, finals: Sequence[PyTree]) -> PyTree:
        """What all rows have in common, computed from any of them; constants are passed on without a copy."""
        common = lambda *inputs: eqx.filter(self._evaluate(*inputs)[0], self._computed)
        return self._consts, eqx.combine(jax.jit(common)(self._consts, row, finals), self._constants)

    def prepare(self, shared: PyTree, row: Row, finals: Sequence[PyTree]) -> tuple[PyTree, PyTree]:
        """(what differs between rows in the problem, state); in the last stage (None, arrays of the trajectory)."""
        problem, state = self._evaluate(shared[0], row, finals)
        return jax.tree.map(_key_data, eqx.filter(problem, self._varies)), state

    def advance(self, shared: PyTree, own: PyTree, state: PyTree, budget: Array) -> PyTree:
        """The state after at most `budget` more steps."""
        (problem, advance, _), state = self._whole(shared, own, state)
        return eqx.filter(advance(problem, state, budget), eqx.is_array)

    def gradient(self, shared: PyTree, own: PyTree, state: PyTree) -> PyTree:
        """The gradient of what the run minimizes, where it is."""
        (problem, _, gradient), state = self._whole(shared, own, state)
        return gradient(problem, state)

    def trajectory(self, arrays: PyTree) -> Trajectory:
        """The trajectory with these arrays, without its networks.

        Where an earlier run inside `one_run` failed and would have raised, that of the first such run.
        """
        run, earlier = eqx.combine(arrays, self._static[1])
        failed = (each for each in earlier if int(each.status_code) not in (COMPLETED, STOPPED))
        return next(failed, run)

    def _whole(self, shared: PyTree, own: PyTree, state: PyTree) -> tuple[Any, Any]:
        own = jax.tree.map(lambda leaf, like: _as_key(leaf) if is_key(like) else leaf, own, self._own_shapes)
        return eqx.combine(own, shared[1], self._static[0]), eqx.combine(state, self._static[1])

    def _evaluate(self, consts: Sequence[Any], row: Row, finals: Sequence[PyTree]) -> PyTree:
        function = jaxpr_as_fun(ClosedJaxpr(self._jaxpr, consts))
        return jax.tree.unflatten(self._structure, function(*jax.tree.leaves((dict(row), tuple(finals)))))


def require_trajectory(run: Any) -> Trajectory:
    """What `one_run` returned, if it is a `Trajectory`."""
    if not isinstance(run, Trajectory):
        raise wrong("one_run", "a function that returns a `Trajectory`", f"one that returns {type(run).__name__}")
    return run


def _without_nets(run: Trajectory) -> Trajectory:
    return dataclasses.replace(run, net=None, nets=None)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """Its shape and type; a Python number keeps the weak type that lets a network decide the precision."""
    is_number = isinstance(leaf, bool | int | float)
    aval = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=is_number or aval.weak_type)


def _depends_on_inputs(jaxpr: Jaxpr) -> list[bool]:
    """Which outputs of a program depend on its inputs, constants aside. A nested call counts as one operation."""
    known = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(isinstance(v, Var) and v in known for v in equation.invars):
            known.update(equation.outvars)
    return [isinstance(v, Var) and v in known for v in jaxpr.outvars]


def _key_data(leaf: Array) -> Array:
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def _as_key(leaf: Array) -> Array:
    return jax.random.wrap_key_data(leaf)
