"""A function as a traced program, which can be evaluated with other numbers in its arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from jaxtyping import PyTree

from ...checks import is_traced
from ...numerics.precision import is_half

CONSTANT, WEIGHT, INPUT = range(3)  # what a number depends on; an input is stronger than a weight

# Where these are finite, they have continuous derivatives.
_SMOOTH = frozenset(
    "add add_any asinh atan broadcast_in_dim concatenate conv_general_dilated copy cos cosh cumsum digamma div "
    "dot_general erf erfc exp exp2 expand_dims expm1 integer_pow lgamma log log1p logistic mul neg pad reduce_sum "
    "reshape rev sin sinh slice split square squeeze stop_gradient sub tan tanh transpose".split()
)
_CALLS = frozenset("jit pjit closed_call core_call checkpoint remat".split())


class Program:
    """A traced function of constants, weights and one input. Programs with the same operations are equal.

    **Attributes:** `doubts`: what its possibly non-smooth operations depend on (WEIGHT, INPUT); `resolution`: the
    rounding error of its least precise numbers; `outputs`: their number; `weights`: the position of the first weight
    among its arguments, the last of which is the input.
    """

    def __init__(self, program: ClosedJaxpr, arguments: list[Any], weights: int):
        self._jaxpr = program.jaxpr
        # Numbers that no trace hides but that are no floats, such as indices and masks, are part of the program.
        arguments = [*program.consts, *arguments]
        self._known = {i: np.asarray(a) for i, a in enumerate(arguments) if _is_part(a)}
        self._specs = [jax.typeof(a) if not isinstance(a, jax.ShapeDtypeStruct) else a for a in arguments]
        self.weights = len(program.consts) + weights
        self._text = str((self._jaxpr, self.weights, {i: (a.dtype, a.tobytes()) for i, a in self._known.items()}))
        self.doubts, self.resolution = set(), 0.0
        self._inspect(self._jaxpr, [*[CONSTANT] * weights, *[WEIGHT] * (len(self._jaxpr.invars) - weights - 1), INPUT])
        self.outputs = sum(v.aval.size for v in self._jaxpr.outvars)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __call__(self, arguments: list[Any]) -> jax.Array:
        """Its outputs in one vector."""
        consts = len(self._jaxpr.constvars)
        outputs = jaxpr_as_fun(ClosedJaxpr(self._jaxpr, arguments[:consts]))(*arguments[consts:])
        return jnp.concatenate([jnp.ravel(output) for output in outputs])

    def stand_ins(self, rng: np.random.Generator) -> list[Any]:
        """Arguments like those of a new network and standardized data; positive unless they are matrices."""
        return [
            self._known[i] if i in self._known else _stand_in(rng, spec, is_input=i == len(self._specs) - 1)
            for i, spec in enumerate(self._specs)
        ]

    def _inspect(self, jaxpr: Jaxpr, kinds: list[int]) -> list[int]:
        """Note the doubts about operations on arguments of these kinds; return the kinds of the outputs."""
        known = dict(zip(jaxpr.invars, kinds, strict=True))
        kind_of = lambda v: CONSTANT if isinstance(v, Literal) else known.get(v, CONSTANT)
        for equation in jaxpr.eqns:
            operands, name = [kind_of(v) for v in equation.invars], equation.primitive.name
            strongest = max(operands, default=CONSTANT)
            outputs = [strongest] * len(equation.outvars)
            inner = [jaxpr for value in equation.params.values() for jaxpr in jaxprs_in(value)]
            for each in inner:
                is_call = name in _CALLS and len(each.invars) == len(operands)
                found = self._inspect(each, operands if is_call else [strongest] * len(each.invars))
                outputs = found if is_call else outputs
            for v, kind in zip(equation.outvars, outputs, strict=True):
                known[v] = kind
            is_smooth = name in _SMOOTH or name in _CALLS or name == "scan" or not _floats(equation.outvars)
            if name == "convert_element_type":
                is_smooth = bool(_floats(equation.invars))
            if not is_smooth and strongest != CONSTANT:
                self.doubts.add(strongest)
            for v in _floats(equation.outvars) if strongest != CONSTANT else []:
                self.resolution = max(self.resolution, float(jnp.finfo(v.aval.dtype).eps))
        return [kind_of(v) for v in jaxpr.outvars]


def trace(function: Callable, constants: PyTree, weights: PyTree, x: jax.ShapeDtypeStruct) -> Program:
    """The program of `function(constants, weights, x)`; half precision is traced in single precision."""
    arguments = jax.tree.map(_wider, (constants, weights, x))
    program = jax.make_jaxpr(function)(*jax.tree.map(_spec, arguments))
    return Program(program, jax.tree.leaves(arguments), len(jax.tree.leaves(constants)))


def _spec(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _wider(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, jnp.float32) if is_half(leaf.dtype) else leaf


def _is_part(argument: Any) -> bool:
    is_array = isinstance(argument, jax.Array | np.ndarray) and not is_traced(argument)
    return is_array and (argument.dtype == bool or jnp.issubdtype(argument.dtype, jnp.integer))


def _stand_in(rng: np.random.Generator, spec: Any, *, is_input: bool) -> Any:
    if jnp.issubdtype(spec.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0, impl=str(jax.random.key_impl(spec.dtype))), spec.shape)
    if not jnp.issubdtype(spec.dtype, jnp.inexact):
        return np.zeros(spec.shape, spec.dtype)
    if is_input:
        return rng.normal(size=spec.shape).astype(spec.dtype)
    if len(spec.shape) < 2:
        return rng.uniform(0.5, 1.5, size=spec.shape).astype(spec.dtype)
    return (rng.normal(size=spec.shape) / np.sqrt(np.prod(spec.shape[1:]))).astype(spec.dtype)


def _floats(variables: list[Any]) -> list[Any]:
    return [v for v in variables if jnp.issubdtype(v.aval.dtype, jnp.inexact)]


def jaxprs_in(value: Any) -> list[Jaxpr]:
    """The programs in a parameter of an operation; there may be several (the branches of a condition)."""
    values = value if isinstance(value, tuple | list) else [value]
    values = [each.jaxpr if isinstance(each, ClosedJaxpr) else each for each in values]
    return [each for each in values if isinstance(each, Jaxpr)]
