"""A step of the flow on one piece, as if it had no end.

Where events are dense, legs are short, and an explicit pair makes them at five gradients and one look from the end. On
a piece that has lasted for many steps, stability limits the pair, and a solver for stiff flows goes on.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..solvers.chebyshev import ChebyshevState
from ..solvers.tsrkc3 import TSRKC3
from .pieces import Piece, Pieces
from .sight import Sight, look

ORDER = 5  # of the explicit pair, Tsitouras' 5(4)
LATE = TSRKC3()  # for stiff pieces: it begins anew at little cost, and its cost grows as the root of their length

_DAMPED = 2.5  # of the step times the largest eigenvalue, up to which the pair damps fivefold; stable is 3.5

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
    late: ChebyshevState
    is_late: Bool[Array, ""]
    longest: Float[Array, ""]  # step with which the explicit pair damps the stiff directions that this leg shows
    gradients: Int[Array, ""]
    products: Int[Array, ""]


class Turn(NamedTuple):
    """The event that ended a leg."""

    happens: Bool[Array, ""]
    changes: Bool[Array, ""]  # whether the flow goes on on another piece; of a start, whether it is on kinks
    at: Int[Array, ""]  # the flat position of the kink that was reached; n·k if there is none
    before: Float[Array, " p"]  # velocities
    after: Float[Array, " p"]


class _Proposal(NamedTuple):
    """A step before its end is put on the surfaces; its error lacks the last stage, which is the look from there."""

    end: Float[Array, " p"]
    error: Float[Array, " p"]
    increments: Float[Array, "7 p"]
    dense: dict[str, Any]
    late: ChebyshevState


def late_state(y: Float[Array, " p"], dt: Float[Array, ""]) -> ChebyshevState:
    """The state of the solver for stiff flows before its first step."""
    still = diffrax.ODETerm(lambda t, y, args: jnp.zeros_like(y))
    return jax.tree.map(jnp.asarray, LATE.init(still, jnp.zeros_like(dt), dt, y, None))


def leg_from(
    pieces: Pieces,
    y: Float[Array, " p"],
    h: Float[Array, ""],
    piece: Piece,
    start: Sight,
    late: ChebyshevState,
    is_late: Bool[Array, ""],
) -> Leg:
    """A step `h` from `y`, with the explicit pair or, if it `is_late`, with the solver for stiff flows."""
    at = pieces, y, h, piece, start, late
    proposed = jax.lax.cond(is_late, lambda: _late(*at), lambda: _early(*at))
    end = pieces.on_surfaces(proposed.end, piece)
    sight = look(pieces, end, piece)
    last = jnp.where(is_late, 0, h) * sight.velocity
    error = proposed.error + jnp.asarray(_PAIR.b_error[-1], y.dtype) * last
    increments = proposed.increments.at[-1].set(last)
    # Hairer & Wanner 1996, IV.2: the last two stages are at the same time.
    change, distance = increments[-1] - increments[-2], end - (y + jnp.asarray(_STAGES[-2], y.dtype) @ increments)
    change, distance = jnp.linalg.norm(change), jnp.linalg.norm(distance)
    longest = jnp.where(change > 0, _DAMPED * h * distance / jnp.where(change > 0, change, 1), jnp.inf)
    before, after = LATE.work(late), LATE.work(proposed.late)
    gradients, products = ((after[name] - before[name] + 1).astype(jnp.int32) for name in _WORK)
    gradients = jnp.where(is_late, gradients, len(_STAGES) - 1)
    return Leg(end, error, sight, increments, proposed.dense, proposed.late, is_late, longest, gradients, products)


def _early(pieces: Pieces, y: Array, h: Array, piece: Piece, start: Sight, late: ChebyshevState) -> _Proposal:
    stages, errors = jnp.asarray(_STAGES, y.dtype), jnp.asarray(_PAIR.b_error, y.dtype)
    stage = lambda j, k: k.at[j].set(pieces.velocity(y + h * (stages[j] @ k), piece))
    k = jnp.zeros((len(_STAGES), y.size), y.dtype).at[0].set(start.velocity)
    k = jax.lax.fori_loop(1, len(_STAGES) - 1, stage, k)
    like_late = jax.eval_shape(lambda: _late(pieces, y, h, piece, start, late))
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like_late.dense)
    return _Proposal(y + h * (stages[-1] @ k), h * (errors @ k), h * k, nothing, late)


def _late(pieces: Pieces, y: Array, h: Array, piece: Piece, start: Sight, late: ChebyshevState) -> _Proposal:
    @jax.custom_jvp
    def velocity(y: Array) -> Array:
        return pieces.velocity(y, piece)

    @velocity.defjvp
    def difference(at: tuple[Array], direction: tuple[Array]) -> tuple[Array, Array]:
        """At `y`, where the largest eigenvalue is estimated. A derivative of projections takes long to compile."""
        small = jnp.finfo(y.dtype).eps ** 0.5 * (1 + jnp.linalg.norm(y))
        return start.velocity, (velocity(y + small * direction[0]) - start.velocity) / small

    flow = diffrax.ODETerm(lambda t, y, args: velocity(y))
    late = dataclasses.replace(late, slope=start.velocity)
    taken: Any = LATE.step(flow, jnp.zeros_like(h), h, y, None, late, False)
    end, error, dense, after, _ = taken
    return _Proposal(end, error, jnp.zeros((len(_STAGES), y.size), y.dtype), dense, after)


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
    piece: Piece
    turn: Turn

    def evaluate(self, t0: Any, t1: Any | None = None, left: bool = True) -> PyTree:
        """The solution at `t0`, or its increment from `t0` to `t1`."""
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1), self.evaluate(t0))
        h = self.t1 - self.t0
        return self.unravel(along(self.leg, self.y, h, (t0 - self.t0) / h))
