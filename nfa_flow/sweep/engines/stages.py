"""A user's function `one_run` cut into stages that can be compiled, each up to the next integration inside it.

`one_run` is an ordinary Python function that calls `gradient_flow` or `gradient_descent`, once or several times. If it
was called for each run separately, it would integrate one run at a time, and compile everything again that depends on
the settings. To integrate many runs side by side, a sweep has to stop the function when it starts an integration,
integrate from outside, and let the function continue. A Python function cannot be stopped halfway, but it can be called
again:

    one_run(key, scale)                 called 1st time    2nd time          3rd time
    ───────────────────────────────     ───────────────    ──────────────    ──────────────
    net = MLP(…, Gaussian(scale))       │ stage 1          │ (again)         │ (again)
    a = gradient_flow(net, …)           ╰→ Suspended       │ final state 1   │ final state 1
    net = pruned(a.net)                                    │ stage 2         │ (again)
    b = gradient_flow(net, …)                              ╰→ Suspended      │ final state 2
    return b                                                                 ╰→ stage 3: the Trajectory

The first call ends at its first integration by raising `Suspended` (`nfa_flow.run.suspend`), which carries everything
that is needed to integrate: the problem, the initial state and the function `advance`. The second call gets the final
state of this integration instead, passes it at once, and ends at the second integration. This is repeated until
`one_run` returns.

All these calls are traces: the settings are abstract, and JAX records the computation of a call as a program. So each
stage is traced once for any number of runs. Its program `prepare` computes the problem and the initial state of the
integration, from the numbers that differ between runs (a row: the batched settings and the key) and the previous final
states. Its program `advance` makes some steps from such a state. An engine maps both over many rows. In the last stage,
`prepare` computes the arrays of the trajectory.

Everything that does not depend on the row (usually the data) is found in the traced program, computed once and shared.
"""

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Var, jaxpr_as_fun
from jaxtyping import Array, PyTree

from ...run.drive import is_key
from ...run.status import COMPLETED, STOPPED
from ...run.suspend import Suspended, replaying
from ...run.trajectory import Trajectory
from ...run.trees import flatten
from ..one_run import OneRun, Row
from .compiled import device_of_thread


class Stage:
    """The part of `one_run` from one integration to the next, for one row of settings.

    `finals` are the final states of the previous integrations, or their shapes. The caller maps and compiles `prepare`
    and `advance`.
    """

    def __init__(self, one_run: OneRun, fixed: Mapping[str, Any], row: Row, finals: Sequence[PyTree]):
        self.is_last = False
        self.observed: tuple[str, ...] = ()  # in the last stage, names of observables
        self.stats: tuple[str, ...] = ()  # and of counts and notes
        self._static: PyTree = None
        self._shared: dict[Any, PyTree] = {}
        self._lock = threading.Lock()

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

    def _leave(self, one_run: OneRun, fixed: Mapping[str, Any], row: Row, finals: Sequence[PyTree]) -> PyTree:
        """(program, state) of the next integration. In the last stage: None, and the trajectory with those of previous
        integrations that raise an error if they fail."""
        try:
            with replaying(finals) as replay:
                run = one_run(fixed, row)
        except Suspended as suspended:
            # The arrays in closures of `advance` become leaves: a loss, an observable or an optimizer of the user may
            # hold numbers that differ between rows.
            inputs = suspended.problem, suspended.state, jnp.zeros((), jnp.int32)
            advance = eqx.filter_closure_convert(suspended.advance, *inputs)
            return (suspended.problem, advance), suspended.state
        self.is_last = True
        self.observed, self.stats = tuple(flatten(run.observed)), (*run.counts, *dict(run.notes))
        earlier = (each for each in replay.raising if each is not run)
        return None, (_without_nets(run), tuple(map(_without_nets, earlier)))

    def shared(self, row: Row, finals: Sequence[PyTree]) -> PyTree:
        """The arrays that all rows have in common, on the device of this thread, computed from any row.

        Constants are not copied.
        """
        common = lambda *inputs: eqx.filter(self._evaluate(*inputs)[0], self._computed)
        device = device_of_thread()
        with self._lock:
            if device not in self._shared:
                computed = jax.jit(common)(self._consts, row, finals)
                self._shared[device] = self._consts, eqx.combine(computed, self._constants)
            return self._shared[device]

    def prepare(self, shared: PyTree, row: Row, finals: Sequence[PyTree]) -> tuple[PyTree, PyTree]:
        """(the part of the problem that differs between rows, state); at the end (None, arrays of the trajectory)."""
        problem, state = self._evaluate(shared[0], row, finals)
        return jax.tree.map(_key_data, eqx.filter(problem, self._varies)), state

    def advance(self, shared: PyTree, own: PyTree, state: PyTree, budget: Array) -> PyTree:
        """The state after at most `budget` more steps."""
        (problem, advance), state = self._whole(shared, own, state)
        return eqx.filter(advance(problem, state, budget), eqx.is_array)

    def trajectory(self, arrays: PyTree) -> Trajectory:
        """The trajectory with these arrays, without its networks.

        If a previous integration inside `one_run` failed and would have raised an error, its trajectory instead.
        """
        run, earlier = eqx.combine(arrays, self._static[1])
        failed = (each for each in earlier if int(each.status_code) not in (COMPLETED, STOPPED))
        return next(failed, run)

    def _whole(self, shared: PyTree, own: PyTree, state: PyTree) -> tuple[Any, Any]:
        as_before = lambda leaf, like: jax.random.wrap_key_data(leaf) if is_key(like) else leaf
        own = jax.tree.map(as_before, own, self._own_shapes)
        return eqx.combine(own, shared[1], self._static[0]), eqx.combine(state, self._static[1])

    def _evaluate(self, consts: Sequence[Any], row: Row, finals: Sequence[PyTree]) -> PyTree:
        function = jaxpr_as_fun(ClosedJaxpr(self._jaxpr, consts))
        return jax.tree.unflatten(self._structure, function(*jax.tree.leaves((dict(row), tuple(finals)))))


def _without_nets(run: Trajectory) -> Trajectory:
    return dataclasses.replace(run, net=None, nets=None)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape and type of a leaf. A Python number keeps its weak type, so that the network decides the precision."""
    is_number = isinstance(leaf, bool | int | float)
    aval = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=is_number or aval.weak_type)


def _depends_on_inputs(jaxpr: Jaxpr) -> list[bool]:
    """For each output of a program, whether it depends on the inputs. A nested call counts as one operation."""
    known = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(isinstance(v, Var) and v in known for v in equation.invars):
            known.update(equation.outvars)
    return [isinstance(v, Var) and v in known for v in jaxpr.outvars]


def _key_data(leaf: Array) -> Array:
    return jax.random.key_data(leaf) if is_key(leaf) else leaf
