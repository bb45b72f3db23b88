"""Whether a network or its loss has kinks, so that its gradient flow has a discontinuous right-hand side.

The verdict is about the program, not about the numbers in it: it is the same for all parameters and data, and inside
`jax.jit`, `jax.vmap` and sweeps, where the numbers are not known. The program is traced. If all its operations are
smooth, so is the program. If one may not be (a maximum can be that of relu, or a part of a smooth softplus), then it
is differentiated along lines, with other numbers of the same shapes in place of its arrays.
"""

import functools
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ...data import Dataset
from ...nets import MLP
from ...nets.activations import name_of
from ...numerics.precision import is_floating
from ...numerics.switches import usual_promotion
from ...problem.losses import Loss, TotalLoss, resolve
from ...problem.trained import one_of, without
from .program import WEIGHT, Program, trace

Kinks = Literal["network", "loss", "total loss"] | None  # where they are

# Longer lines for kinks far from zero, such as those of clipping at ±10; one through the origin for the cusp of a norm.
_LINES = ((1.0, False), (1.0, True), (30.0, False))  # length, and whether the input passes zero
_LARGEST_CELLS = 16  # of a grid along a line are divided,
_PARTS = 64  # twice, in so many parts
_CELLS = _LARGEST_CELLS * (_PARTS + 1) - 1  # so many in the grid that all stages evaluate as many places
_AT_ONCE = 130  # of these, so that memory stays small
# Among 64 parts of a cell, the largest change of a continuous derivative is about a 64th of that over the cell, and a
# jump is all of it, or its largest share where several are in the cell.
_JUMP = 0.1
_FEW = 8  # samples of a total loss


def find_kinks(net: Any, data: Dataset, loss: Loss = "mse", parameters: PyTree | None = None) -> Kinks:
    """Where there are kinks, in the network or in the loss; known without a trace if activations and loss are named.

    **Arguments:** `parameters`: the arrays of the network that are trained, by default all floating-point arrays. Kinks
    that do not depend on them do not count.
    """
    weights = eqx.filter(net, eqx.is_inexact_array) if parameters is None else parameters
    constants, static = eqx.partition(without(net, weights), eqx.is_array)
    is_whole = not jax.tree.leaves(eqx.filter(constants, eqx.is_inexact_array))
    if is_whole and getattr(net, "has_kinks", False):
        return "network"
    is_known = type(net) is MLP and not net.has_kinks and all(name_of(each) for each in net.activations)
    dtype = jnp.result_type(*jax.tree.leaves(weights))
    data = jax.eval_shape(lambda data: data.astype(dtype), data)
    if isinstance(loss, TotalLoss):
        total = lambda constants, weights, data: loss(eqx.combine(weights, constants, static), data)
        with _usual_switches():
            few = _few_samples(loss, net, data)
            return "total loss" if program_has_kinks(_of_weights(total, constants, weights, few)) else None
    x, y = one_of((data.x, data.y))
    prediction = eqx.filter_eval_shape(net, x)
    with _usual_switches():
        forward = lambda constants, weights, x: eqx.combine(weights, constants, static)(x)
        program = trace if is_whole and is_floating(x) else _of_weights
        if not is_known and program_has_kinks(program(forward, constants, weights, x)):
            return "network"
        return "loss" if not isinstance(loss, str) and loss_has_kinks(resolve(loss), prediction, y) else None


def loss_has_kinks(loss: Callable, prediction: jax.ShapeDtypeStruct, target: jax.ShapeDtypeStruct) -> bool:
    """Whether a loss has kinks, at a residual of zero most of all."""
    is_residual = prediction.shape == target.shape
    of_residual = lambda target, _, r: loss(target + r if is_residual else r, target)
    return program_has_kinks(trace(of_residual, target, (), prediction))


def _few_samples(loss: TotalLoss, net: Any, data: PyTree) -> PyTree:
    """Of the shapes of all samples those of a few, which have the same kinks; all if the loss needs all samples."""
    cut = lambda a: jax.ShapeDtypeStruct((min(_FEW, a.shape[0]), *a.shape[1:]), a.dtype)
    few = eqx.tree_at(lambda data: jax.tree.leaves((data.x, data.y, data.weight)), data, replace_fn=cut)
    try:
        eqx.filter_eval_shape(loss, net, few)
    except Exception:
        return data
    return few


def _of_weights(function: Callable, constants: PyTree, weights: PyTree, x: PyTree) -> Program:
    """The program as a function of the weights, so that frozen arrays and the input alone make no kinks."""
    (*first, last), structure = jax.tree.flatten(weights)

    def of_last(known: tuple[PyTree, PyTree], first: list[Array], last: Array) -> Any:
        constants, x = known
        return function(constants, jax.tree.unflatten(structure, [*first, last]), x)

    return trace(of_last, (constants, x), first, jax.ShapeDtypeStruct(last.shape, last.dtype))


@contextmanager
def _usual_switches():
    """A context without the user's debugging switches, which would raise errors here or make the search slow."""
    with ExitStack() as stack:
        for switch in (usual_promotion(), jax.debug_nans(False), jax.debug_infs(False), jax.disable_jit(False)):
            stack.enter_context(switch)
        yield


@functools.lru_cache(maxsize=256)
@jax.ensure_compile_time_eval()
def program_has_kinks(program: Program) -> bool:
    """Whether the derivative of a program jumps along lines through its inputs, or through its weights too."""
    if not program.doubts:
        return False
    # In operations on weights alone, such as |W| x, nothing happens while only the input moves.
    slopes, rng = _slopes(program, moves_weights=WEIGHT in program.doubts), np.random.default_rng(0)
    is_defined = False
    for line in _LINES:
        jumps = _jumps(program, slopes, rng, *line)
        if jumps:
            return True
        is_defined |= jumps is not None
    return not is_defined  # what is undefined wherever it was tried is taken for the worse


def _slopes(program: Program, *, moves_weights: bool) -> Callable:
    """The derivative of a random projection of the outputs, at many places of a line, as training would compute it."""
    moving = slice(program.weights if moves_weights else -1, None)

    @jax.jit
    def slopes(start: list[Any], end: list[Any], weights: Array, places: Float[Array, " s"]) -> Float[Array, " s"]:
        def projected(s: Array) -> Array:
            on_line = [a + s.astype(a.dtype) * (b - a) for a, b in zip(start[moving], end[moving], strict=True)]
            return weights @ program([*start[: len(start) - len(on_line)], *on_line])

        # The weights of a large network would fill the memory if they were many at once.
        return jax.lax.map(jax.grad(projected), places, batch_size=None if moves_weights else _AT_ONCE)

    return slopes


def _jumps(
    program: Program, slopes: Callable, rng: np.random.Generator, length: float, passes_zero: bool
) -> bool | None:
    """Whether the derivative along a line jumps: zooms into the cells of a grid over which it changes most.

    None if the derivative is undefined on the whole line.
    """
    start, end = program.stand_ins(rng), program.stand_ins(rng)
    start[-1] = np.zeros_like(start[-1]) if passes_zero else start[-1]
    weights, sizes = rng.normal(size=program.outputs), [0.0]

    def zoom(low: np.ndarray, high: np.ndarray, parts: int, count: int) -> tuple[Any, Any, Any]:
        """(low, high, change of the derivative) of the `count` steepest parts of every cell."""
        ends = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, parts + 1)
        values = np.asarray(slopes(start, end, weights, jnp.asarray(ends.ravel())), float).reshape(ends.shape)
        sizes.extend(np.abs(values[np.isfinite(values)]))
        changes = np.nan_to_num(np.abs(np.diff(values, axis=1)), nan=-1, posinf=-1)
        steepest = np.argsort(changes, axis=1)[:, -count:]
        pick = lambda values: np.take_along_axis(values, steepest, axis=1).ravel()
        return pick(ends[:, :-1]), pick(ends[:, 1:]), pick(changes)

    # Not from 0 to 1, where a kink may sit.
    low, high, _ = zoom(-length * np.ones(1), 2.03 * length * np.ones(1), _CELLS, _LARGEST_CELLS)
    if len(sizes) == 1:
        return None
    low, high, before = zoom(low, high, _PARTS, 1)
    _, _, change = zoom(low, high, _PARTS, 1)
    rounding = 100 * program.resolution * max(sizes)
    return bool(np.any((change > rounding) & (change > _JUMP * before)))
