"""A step of the flow on one piece, as if it had no end.

Where events are dense, legs are short, and an explicit pair makes them at five gradients and one look from the end. On
a piece that has lasted for many steps, stability limits the pair, and a solver for stiff flows goes on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..solvers.tsrkc3 import TSRKC3
from .pieces import Piece, Pieces
from .sight import Sight, look

ORDER = 5  # of the explicit pair, Tsitouras' 5(4)
LATE = TSRKC3()  # for stiff pieces: it begins anew at little cost, and its cost grows as the root of their length

_PAIR = diffrax.Tsit5.tableau
_STAGES = np.zeros((ORDER + 2, ORDER + 2))
for _stage, _weights in enumerate(_PAIR.a_lower, start=1):
    _STAGES[_stage, : len(_weights)] = _weights
_WORK = ("gradient_evaluations", "hessian_vector_products")


class Leg(NamedTuple):
    """The end of a step, its error, what is seen from there, and what interpolates it."""

    end: Float[Array, " p"]
    error: Float[Array, " p"]
    sight: Sight
    increments: Float[Array, "7 p"]  # of the stages of the explicit pair
    dense: dict[str, Any]  # of the late solver
    late: PyTree  # the state of the late solver
    is_late: Bool[Array, ""]
    gradients: Int[Array, ""]
    products: Int[Array, ""]


def on_piece(pieces: Pieces, piece: Piece) -> diffrax.ODETerm:
    """The flow on a piece, as solvers take it."""
    return diffrax.ODETerm(lambda t, y, args: pieces.velocity(y, piece))


def early_leg(
    pieces: Pieces,
    y: Float[Array, " p"],
    h: Float[Array, ""],
    piece: Piece,
    start: Sight,
    late: PyTree,
) -> Leg:
    """A step of the explicit pair, whose last stage is the look from its end."""
    stages, errors = jnp.asarray(_STAGES, y.dtype), jnp.asarray(_PAIR.b_error, y.dtype)
    stage = lambda j, k: k.at[j].set(pieces.velocity(y + h * (stages[j] @ k), piece))
    k = jnp.zeros((len(_STAGES), y.size), y.dtype).at[0].set(start.velocity)
    k = jax.lax.fori_loop(1, len(_STAGES) - 1, stage, k)
    end = pieces.on_surfaces(y + h * (stages[-1] @ k), piece)
    sight = look(pieces, end, piece)
    increments = h * k.at[-1].set(sight.velocity)
    like_late = jax.eval_shape(lambda: late_leg(pieces, y, h, piece, late, jnp.asarray(False)))
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like_late.dense)
    work = jnp.asarray(len(_STAGES) - 1, jnp.int32), jnp.asarray(1, jnp.int32)
    return Leg(end, errors @ increments, sight, increments, nothing, late, jnp.asarray(False), *work)


def late_leg(
    pieces: Pieces,
    y: Float[Array, " p"],
    h: Float[Array, ""],
    piece: Piece,
    late: PyTree,
    begins: Bool[Array, ""],
) -> Leg:
    """A step of the solver for stiff flows, which `begins` on this piece or goes on."""
    taken: Any = LATE.step(on_piece(pieces, piece), jnp.zeros_like(h), h, y, None, late, begins)
    end, error, dense, after, _ = taken
    end = pieces.on_surfaces(end, piece)
    before, work = LATE.work(late), LATE.work(after)
    gradients, products = ((work[name] - before[name] + 1).astype(jnp.int32) for name in _WORK)
    nothing = jnp.zeros((len(_STAGES), y.size), y.dtype)
    return Leg(end, error, look(pieces, end, piece), nothing, dense, after, jnp.asarray(True), gradients, products)


def along(leg: Leg, y: Float[Array, " p"], h: Any, x: Any) -> Float[Array, " p"]:
    """The point at a fraction `x` of a leg from `y`."""
    zero, one = jnp.zeros_like(h), jnp.ones_like(h)
    early = diffrax.Tsit5.interpolation_cls(t0=zero, t1=one, y0=y, y1=leg.end, k=leg.increments).evaluate(x)
    late = LATE.interpolation_cls(t0=zero, t1=h, **leg.dense).evaluate(x * h)
    return jnp.where(leg.is_late, late, early)


class LegInterpolation(diffrax.AbstractLocalInterpolation):
    """A leg between its ends, as diffrax interpolates steps."""

    t0: Any
    t1: Any
    leg: Leg
    y: Float[Array, " p"]
    unravel: Callable

    def evaluate(self, t0: Any, t1: Any | None = None, left: bool = True) -> PyTree:
        """The solution at `t0`, or its increment from `t0` to `t1`."""
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1), self.evaluate(t0))
        h = self.t1 - self.t0
        return self.unravel(along(self.leg, self.y, h, (t0 - self.t0) / h))
