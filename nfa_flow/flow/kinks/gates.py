"""A program with its kinks taken out: every maximum, absolute value or selection is frozen on one of its two sides.

At a kink a program selects between two smooth functions by the sign of a third, the *switching function* h: relu(z) is
z where h = z > 0, and 0 elsewhere. A *gate* s replaces the selection: s·z. With frozen gates the program is smooth
everywhere, also on the wrong side of its kinks, where it continues the smooth piece that it is on.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from jaxtyping import Array, Float

from ...checks import is_traced
from .find import program_has_kinks
from .program import jaxprs_in, trace

_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
_CALLS |= {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr", "checkpoint": "jaxpr", "remat2": "jaxpr"}
_SHAPES = frozenset("broadcast_in_dim reshape squeeze expand_dims transpose".split())
_COMPARISONS = {"gt": 1, "ge": 1, "lt": -1, "le": -1}
_OTHERS = frozenset("sign floor ceil round argmax argmin eq ne reduce_and reduce_or and or not xor sort".split())
_REDUCTIONS = frozenset("reduce_max reduce_min reduce_window_max reduce_window_min".split())
_KINKED = frozenset(["max", "min", "abs", "clamp", "select_n", *_COMPARISONS, *_REDUCTIONS, *_OTHERS])
_FAR = 40.0  # softplus(x) is x or 0 beyond, to the last digit
_LOOPS = frozenset("scan while cond".split())

# (h, the function where h > 0, the function where h < 0) -> what stands in the place of the selection
Gate = Callable[[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]], Float[Array, "..."]]


class CannotGate(ValueError):
    """A program has a kink that no gate describes; the message says which, after "kinks in"."""


def gated(function: Callable, gate: Gate, moving: Any, *arguments: Any) -> tuple[Any, list[Float[Array, "..."]]]:
    """`function(moving, *arguments)` with a gate in the place of each selection, and the switching functions h.

    **Arguments:** `gate`: called for the kinks in the order in which the program meets them; `moving`: the arguments
    with respect to which kinks count. What depends on `arguments` alone is evaluated as it is.
    **Raises:** CannotGate for kinks in a loop, steps, and kinks that do not depend on `arguments`.
    """
    program, shape = jax.make_jaxpr(function, return_shape=True)(moving, *arguments)
    interpreter, moved, fixed = _Interpreter(gate), jax.tree.leaves(moving), jax.tree.leaves(arguments)
    dependence = [(True, False)] * len(moved) + [(False, True)] * len(fixed)
    outputs, _ = interpreter.run(program, [*moved, *fixed], dependence, [True] * len(program.jaxpr.outvars))
    return jax.tree.unflatten(jax.tree.structure(shape), outputs), interpreter.switches


def frozen(gates: Float[Array, " k"]) -> Gate:
    """Gates s in the order of the kinks: 1 is the side h > 0, 0 the other one, and s between mixes both."""
    position = 0

    def gate(h: Array, high: Array, low: Array) -> Array:
        nonlocal position
        position += h.size
        s = gates[position - h.size : position].reshape(h.shape)
        return s * high + (1 - s) * low

    return gate


def rounded(beta: Float[Array, ""] | float) -> Gate:
    """Smooth kinks: max(h, 0) becomes softplus(βh)/β, whose slope is between 0 and 1, as on a slide.

    At h = 0 exactly the slope is the mean, as it should be, but the value is not rounded.
    """

    def gate(h: Array, high: Array, low: Array) -> Array:
        x = jnp.asarray(beta, h.dtype) * h
        is_near = (jnp.abs(x) < _FAR) & (x != 0)
        x_near = jnp.where(is_near, x, 1)
        near = low + (high - low) * (jax.nn.softplus(x_near) / x_near)
        side = jnp.where(x > 0, high, jnp.where(x < 0, low, (high + low) / 2))
        return jnp.where(is_near, near, side)

    return gate


def count_gates(function: Callable, moving: Any, *arguments: Any) -> list[int]:
    """The number of kinks of every selection in `function`, in the order in which the program meets them.

    **Raises:** CannotGate as `gated`.
    """
    switches = lambda *all: gated(function, lambda h, high, low: low, *all)[1]
    return [h.size for h in jax.eval_shape(switches, moving, *arguments)]


_Dependence = tuple[bool, bool]  # on what moves, and on the other arguments


class _Interpreter:
    """Evaluates programs operation by operation, and collects the switching functions on its way."""

    def __init__(self, gate: Gate):
        self._gate = gate
        self.switches: list[Float[Array, "..."]] = []
        self._comparisons: dict[int, tuple[Array, Array]] = {}  # by its identity: a comparison, its switching function

    def run(
        self, program: ClosedJaxpr, arguments: list[Any], dependence: list[_Dependence], is_used: list[bool]
    ) -> tuple[list[Any], list[_Dependence]]:
        """Outputs and what they depend on; `is_used`: whether the gradient of an output is."""
        jaxpr = program.jaxpr
        values = dict(zip(jaxpr.constvars, program.consts, strict=True)) | dict(
            zip(jaxpr.invars, arguments, strict=True)
        )
        depends = dict(zip(jaxpr.invars, dependence, strict=True))
        used = _used(jaxpr, is_used)
        read = lambda v: v.val if isinstance(v, Literal) else values[v]
        on = lambda v: (False, False) if isinstance(v, Literal) else depends.get(v, (False, False))
        for equation in jaxpr.eqns:
            operands, name = [read(v) for v in equation.invars], equation.primitive.name
            kinds = [on(v) for v in equation.invars]
            kind = any(moves for moves, _ in kinds), any(enters for _, enters in kinds)
            outputs, of_outputs = None, [kind] * len(equation.outvars)
            if kind[0] and any(v in used for v in equation.outvars) and _is_doubtful(equation):
                if name not in _CALLS:
                    outputs = self._kinked(equation, operands, kinds, kind)
                elif not _is_smooth(inner := _closed(equation.params[_CALLS[name]]), operands, [m for m, _ in kinds]):
                    outputs, of_outputs = self.run(inner, operands, kinds, [v in used for v in equation.outvars])
            outputs = _evaluate(equation, operands) if outputs is None else outputs
            self._note_comparison(equation, operands, outputs)
            for v, output, of_output in zip(equation.outvars, outputs, of_outputs, strict=True):
                values[v], depends[v] = output, of_output
        return [read(v) for v in jaxpr.outvars], [on(v) for v in jaxpr.outvars]

    def _mix(self, h: Array, high: Array, low: Array, kind: _Dependence) -> Array:
        """What stands in the place of a selection."""
        if not kind[1]:
            raise CannotGate("the weights alone")
        self.switches.append(h)
        return self._gate(h, high, low)

    def _kinked(
        self, equation: Any, operands: list[Any], kinds: list[_Dependence], kind: _Dependence
    ) -> list[Array] | None:
        """The outputs of an operation with its kinks gated; None for one without kinks of its own."""
        name, params = equation.primitive.name, equation.params
        if name in _COMPARISONS or (name == "select_n" and not kinds[0][0]):
            return None
        if name == "select_n" and id(operands[0]) in self._comparisons:
            _, low, high = operands
            return [self._mix(self._comparisons[id(operands[0])][1], high, low, kind)]
        if name in ("max", "min"):
            shape = jnp.broadcast_shapes(*map(jnp.shape, operands))
            a, b = (jnp.broadcast_to(operand, shape) for operand in operands)
            return [self._larger(a, b, kind, name == "max")]
        if name == "abs":
            return [self._mix(operands[0], operands[0], -operands[0], kind)]
        if name == "clamp":
            x = operands[1]
            low, high = jnp.broadcast_to(operands[0], x.shape), jnp.broadcast_to(operands[2], x.shape)
            return [self._larger(self._larger(low, x, kind, True), high, kind, False)]
        if name in ("reduce_max", "reduce_min"):
            return [self._tournament(_along_axes(operands[0], params["axes"]), kind, name == "reduce_max")]
        if name in ("reduce_window_max", "reduce_window_min"):
            is_max = name == "reduce_window_max"
            return [self._tournament(_along_windows(operands[0], params, is_max), kind, is_max)]
        raise CannotGate("loops" if name in _LOOPS else f"`{name}`")

    def _note_comparison(self, equation: Any, operands: list[Any], outputs: list[Any]) -> None:
        """Remember the switching function of a comparison, and of one in another shape."""
        name = equation.primitive.name
        if name in _COMPARISONS and jnp.issubdtype(jnp.result_type(*operands), jnp.floating):
            h = _COMPARISONS[name] * jnp.subtract(*operands)
        elif name in _SHAPES and id(operands[0]) in self._comparisons:
            (h,) = _evaluate(equation, [self._comparisons[id(operands[0])][1]])
        else:
            return
        self._comparisons[id(outputs[0])] = outputs[0], h

    def _larger(self, a: Array, b: Array, kind: _Dependence, is_max: bool) -> Array:
        return self._mix(a - b, a, b, kind) if is_max else self._mix(b - a, a, b, kind)

    def _tournament(self, entries: Float[Array, "m ..."], kind: _Dependence, is_max: bool) -> Array:
        """The maximum or minimum along the first axis, by rounds of pairs."""
        while len(entries) > 1:
            half = len(entries) // 2
            winners = self._larger(entries[:half], entries[half : 2 * half], kind, is_max)
            entries = jnp.concatenate([winners, entries[2 * half :]])
        return entries[0]


def _used(jaxpr: Jaxpr, is_used: list[bool]) -> set[Any]:
    """The variables through which a gradient reaches the outputs that are used."""
    used = {v for v, each in zip(jaxpr.outvars, is_used, strict=True) if each and not isinstance(v, Literal)}
    for equation in reversed(jaxpr.eqns):
        if equation.primitive.name != "stop_gradient" and any(v in used for v in equation.outvars):
            used |= {v for v in equation.invars if not isinstance(v, Literal)}
    return used


def _is_doubtful(equation: Any) -> bool:
    """Whether an operation, or one inside it, may have a kink."""
    if equation.primitive.name in _KINKED:
        return True
    inner = [jaxpr for value in equation.params.values() for jaxpr in jaxprs_in(value)]
    return any(_is_doubtful(each) for jaxpr in inner for each in jaxpr.eqns)


def _is_smooth(program: ClosedJaxpr, operands: list[Any], moves: list[bool]) -> bool:
    """Whether a call as a whole is smooth, as softplus and the logarithm of softmax are, which begin with a maximum."""
    moving = [operand for operand, each in zip(operands, moves, strict=True) if each]
    if len(program.jaxpr.eqns) == 1 or not all(jnp.issubdtype(each.dtype, jnp.floating) for each in moving):
        return False

    def call(constants: list[Any], weights: list[Any], x: Array) -> list[Any]:
        known, moved = iter(constants), iter([*weights, x])
        fixed = lambda operand: next(known) if is_traced(operand) else operand
        every = [next(moved) if each else fixed(operand) for operand, each in zip(operands, moves, strict=True)]
        return jaxpr_as_fun(program)(*every)

    spec = lambda operand: jax.ShapeDtypeStruct(operand.shape, operand.dtype)
    constants = [spec(o) for o, each in zip(operands, moves, strict=True) if not each and is_traced(o)]
    *weights, x = map(spec, moving)
    return not program_has_kinks(trace(call, constants, weights, x))


def _evaluate(equation: Any, operands: list[Any]) -> list[Any]:
    outputs = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
    return list(outputs) if equation.primitive.multiple_results else [outputs]


def _along_axes(array: Array, axes: tuple[int, ...]) -> Array:
    """The array with the axes that are reduced as one, in front."""
    moved = jnp.moveaxis(array, axes, range(len(axes)))
    return moved.reshape(-1, *moved.shape[len(axes) :])


def _along_windows(array: Array, params: dict[str, Any], is_max: bool) -> Array:
    """The entries of all windows; the window is the first axis."""
    if any(d != 1 for d in (*params["base_dilation"], *params["window_dilation"])):
        raise CannotGate("pooling with dilation")
    beyond = -1e30 if is_max else 1e30  # never reached, and finite, so that a gate of 0 removes it
    padded = jnp.pad(array, params["padding"], constant_values=beyond)
    window, strides = params["window_dimensions"], params["window_strides"]
    counts = [(size - w) // step + 1 for size, w, step in zip(padded.shape, window, strides, strict=True)]
    entries = []
    for offset in np.ndindex(*window):
        ends = [o + (count - 1) * step + 1 for o, count, step in zip(offset, counts, strides, strict=True)]
        entries.append(jax.lax.slice(padded, offset, ends, strides))
    return jnp.stack(entries)


def _closed(program: Any) -> ClosedJaxpr:
    return program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, ())
