"""The exact flow across kinks: smooth pieces, joined where the trajectory crosses a kink, or slides along it."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from ...checks import require_integer
from ...problem.objective import SampleObjective
from ...run.status import FULL, RUNNING, STEP_UNDERFLOW, UNRESOLVED
from ..kinks.contact import resolve
from ..kinks.events import Event, first_event
from ..kinks.leg import LATE, ORDER, Leg, LegInterpolation, Turn, along, late_state, leg_from
from ..kinks.pieces import Piece, Pieces, groups
from ..kinks.sight import Sight, see, sides, zero_of
from ..kinks.slide_end import first_slide_end
from ..kinks.tally import Tally
from .chebyshev import ChebyshevState
from .flow_solver import AbstractFlowSolver, objective_of
from .ndf import NDF

_FURTHER = 1.5  # times the distance of the next kink, by linear extrapolation, that a step goes
_PATIENCE = 15  # steps on one piece, one after another, that stability limited, after which it counts as stiff
_LENGTHENING = 1.1  # at most, from step to step, of the longest one: what is damped does not show how stiff it is
_STALLS = 1000  # events at one time, after which there is no hope of another one


class PiecewiseState(eqx.Module):
    """Where the flow is: on which piece, what is seen from there, and what has happened so far."""

    piece: Piece
    sight: Sight
    late: ChebyshevState  # of the solver for stiff flows
    stiff: Int[Array, ""]  # last steps on this piece as long as the pair allows, or longer; −1 before the first step
    longest: Float[Array, ""]  # step with which the pair damps stiff directions
    elapsed: Float[Array, ""]  # of the last step, until the event that ended it
    stalls: Int[Array, ""]  # events one after another at the same time
    trouble: Int[Array, ""]
    tally: Tally
    gradients: Int[Array, ""]
    products: Int[Array, ""]


class Piecewise(AbstractFlowSolver[PiecewiseState]):
    """The exact flow of networks and losses with kinks: relu, leaky relu, |z|, max-pooling, hinge loss and the like.

    Between kinks the flow is smooth. Every crossing is located, and all kinks that are touched are resolved together:
    the flow crosses them or slides along them, with the velocity of least norm in Clarke's subdifferential. Short
    pieces are integrated with the explicit pair of Tsitouras, long ones with `TSRKC3`. While events are dense, the
    number of gradients is that of the events times a few, almost whatever the tolerance.

    It needs the objective, so it solves flows in `gradient_flow` only. Kinks may depend on each other (layers), but
    must depend on the samples, and must not be in a loop (`jax.lax.scan`).

    **Arguments:** `capacity`: how many kinks may be touched at the same time, most of all by slides. A run that needs
    more ends with the status "full". It costs memory for as many vectors of parameters.

    **Statistics:** `crossings`, `slides` and `releases` (the ends of slides), `most_slides` at the same time, `pivots`
    (changes of one kink while all that are touched were resolved), `repelling` (kinks at the start that the flow may
    leave in more than one way, so that it is not unique), and how well the laws of sliding hold: `largest_h`, |h| on
    slides, which is 0 in exact arithmetic, and `lowest_share`, `highest_share` of the positive side, within [0, 1].

    In float32 kinks are located, and told apart, to three digits of the size of their switching functions.

    **Source:** Davis, Drusvyatskiy, Kakade & Lee 2020 (subgradient flow); Bolte & Pauwels 2021 (conservative fields).
    """

    capacity: int = eqx.field(static=True, default=128)

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar[Callable[..., LegInterpolation]] = LegInterpolation

    def __check_init__(self):
        require_integer("capacity", self.capacity, at_least=1)

    def order(self, terms):
        return ORDER

    def error_order(self, terms):
        return ORDER

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def init(self, terms, t0, t1, y0, args) -> PiecewiseState:
        """Before the first step, which finds what the flow touches at the start, as at an event."""
        pieces, y = Pieces(objective_of(terms), y0), ravel_pytree(y0)[0]
        switched = lambda _, gates: pieces.switches(y, gates.astype(y.dtype)) > 0
        # Those of later layers depend on those of earlier ones.
        gates = jax.lax.fori_loop(0, pieces.levels, switched, jnp.zeros(pieces.shape, bool))
        length = pieces.padded(self.capacity)
        one, nowhere = jnp.eye(length, dtype=y.dtype), jnp.full(length, gates.size, jnp.int32)
        piece = Piece(gates, nowhere, jnp.zeros(length, bool), *groups(one), one)
        velocity, share = -pieces.gradient(y, gates.astype(y.dtype)), jnp.zeros(length, y.dtype)
        count = lambda n: jnp.asarray(n, jnp.int32)
        return PiecewiseState(
            piece=piece,
            sight=see(pieces, y, piece, velocity, share),
            late=late_state(y, jnp.zeros((), y.dtype)),
            stiff=count(-1),
            longest=jnp.asarray(jnp.inf, y.dtype),
            elapsed=jnp.zeros((), y.dtype),
            stalls=count(0),
            trouble=count(RUNNING),
            tally=Tally.empty(y.dtype),
            gradients=count(1),
            products=count(1),
        )

    def reach(self, state: PiecewiseState, dt: Float[Array, ""]) -> Float[Array, ""]:
        """The step, but not much further than to the next kink: what lies behind it belongs to another piece.

        With the explicit pair no longer than stiff directions allow: errors there that are small in the parameters are
        not in the velocity, on which it depends whether a slide ends.
        """
        side, is_held = sides(state.piece, dt.dtype)
        approach, distance = (-side * state.sight.rate).ravel(), (side * state.sight.h).ravel()
        is_near = (approach > 0) & (distance > 0) & ~is_held
        when = jnp.where(is_near, distance / jnp.where(is_near, approach, 1), jnp.inf)
        dt = jnp.where(state.stiff < _PATIENCE, jnp.minimum(dt, state.longest), dt)
        return jnp.minimum(dt, _FURTHER * jnp.min(when, initial=jnp.inf).astype(dt.dtype))

    def elapsed(self, state: PiecewiseState, dt: Float[Array, ""]) -> Float[Array, ""]:
        return state.elapsed

    def step(self, terms, t0, t1, y0, args, solver_state: PiecewiseState, made_jump):
        pieces, (y, unravel) = Pieces(objective_of(terms), y0), ravel_pytree(y0)
        state, h = solver_state, jnp.asarray(t1 - t0)
        piece = state.piece
        is_late = state.stiff >= _PATIENCE
        leg = leg_from(pieces, y, h, piece, state.sight, state.late, is_late)
        longest = jnp.where(is_late, state.longest, jnp.minimum(leg.longest, _LENGTHENING * state.longest))
        path = lambda x: along(leg, y, h, x)
        event, tries = _first_event(pieces, state, leg, h, path)
        begins = state.stiff < 0
        event = Event(jnp.where(begins, piece.gates.size, event.at), jnp.where(begins, 0, event.when))
        happens = begins | (event.at < piece.gates.size)
        elapsed = jnp.where(happens, event.when * h, h)
        stalls = jnp.where(elapsed > 0, 0, state.stalls + 1)

        def another_piece() -> tuple[Array, Piece, Sight, Tally, Array, Array]:
            reached = pieces.on_surfaces(path(event.when), piece)
            touching, is_full = _touching(pieces, reached, piece, event.at)
            found = resolve(pieces, reached, piece, event.at, touching, state.tally)
            new = pieces.on_surfaces(reached, found.piece)
            sight = see(pieces, new, found.piece, found.velocity, found.share)
            tally = dataclasses.replace(
                found.tally, repelling=jnp.where(begins, found.repelling, state.tally.repelling)
            )
            # A small change of a start on kinks puts it on this or that side of them.
            changes = jnp.where(begins, jnp.any(touching < piece.gates.size), tally.pivots > state.tally.pivots)
            return new, found.piece, sight, tally, changes, _trouble(is_full, found.is_consistent, stalls)

        nothing = jnp.asarray(False), jnp.asarray(RUNNING, jnp.int32)
        same_piece = lambda: (leg.end, piece, leg.sight, state.tally, *nothing)
        new, after, sight, tally, changes, trouble = jax.lax.cond(happens, another_piece, same_piece)
        on_slides = sight.h.ravel().at[after.touching].get(mode="fill", fill_value=0)
        resolving = jnp.where(happens, tally.pivots - state.tally.pivots + 1, 0)
        new_state = PiecewiseState(
            piece=after,
            sight=sight,
            late=jax.tree.map(partial(jnp.where, happens), LATE.begun_anew(leg.late), leg.late),
            stiff=jnp.where(happens | (h < state.longest), 0, state.stiff + 1),
            longest=longest,
            elapsed=elapsed,
            stalls=stalls,
            trouble=jnp.where(state.trouble == RUNNING, trouble, state.trouble),
            tally=tally.on_slides(after.slides, on_slides, sight.share),
            gradients=state.gradients + leg.gradients + tries + resolving,
            products=state.products + leg.products + jnp.where(happens, 1, 0),
        )
        error = jnp.where(jnp.all(jnp.isfinite(new)), leg.error, jnp.inf)
        # Only derivatives use this, and without them XLA does not compute it.
        turn = Turn(happens, changes, event.at, pieces.velocity(path(event.when), piece), sight.velocity)
        dense = dict(leg=leg, y=y, unravel=unravel, piece=piece, turn=turn)
        return unravel(new), unravel(error), dense, new_state, diffrax.RESULTS.successful

    def loss_and_gradient(
        self, objective: SampleObjective, state: PiecewiseState | None, parameters: PyTree
    ) -> tuple[Float[Array, ""], PyTree]:
        """The loss, and the gradient on the piece, projected on its slides; without a state on no slide."""
        if state is None:
            return objective.loss_and_gradient(parameters)
        pieces, (y, unravel) = Pieces(objective, parameters), ravel_pytree(parameters)
        return objective.loss(parameters), unravel(-pieces.velocity(y, state.piece))

    def for_derivatives(self) -> NDF:
        return NDF().for_derivatives()

    def trouble(self, state: PiecewiseState) -> Int[Array, ""]:
        return state.trouble

    def after_rejection(self, before: PiecewiseState, attempted: PiecewiseState) -> PiecewiseState:
        is_late = before.stiff >= _PATIENCE
        late = jax.tree.map(partial(jnp.where, is_late), LATE.after_rejection(before.late, attempted.late), before.late)
        return dataclasses.replace(before, late=late, gradients=attempted.gradients, products=attempted.products)

    def work(self, state: PiecewiseState) -> dict[str, Float[Array, ""] | Int[Array, ""]]:
        met = {field.name: getattr(state.tally, field.name) for field in dataclasses.fields(state.tally)}
        return {"gradient_evaluations": state.gradients, "hessian_vector_products": state.products} | met


def _first_event(
    pieces: Pieces, state: PiecewiseState, leg: Leg, h: Float[Array, ""], path: Callable
) -> tuple[Event, Int[Array, ""]]:
    """The first event on a leg, and the gradients that the search for it took."""
    piece, start, end = state.piece, state.sight, leg.sight
    gates, (side, is_held) = piece.gates.astype(h.dtype), sides(piece, h.dtype)
    free = lambda values, if_held: jnp.where(is_held, if_held, (side * values).ravel())
    event = first_event(
        free(start.h, 1.0),
        h * free(start.rate, 0.0),
        free(end.h, 1.0),
        h * free(end.rate, 0.0),
        zero_of(start.h).ravel(),
        lambda at, x: side.ravel()[at] * pieces.switch(path(x), gates, at),
        lambda x: free(pieces.switches(path(x), gates), 1.0),
    )
    ends = lambda: first_slide_end(pieces, piece, start.share, path, event)
    return jax.lax.cond(jnp.any(piece.slides), ends, lambda: (event, jnp.zeros((), jnp.int32)))


def _touching(
    pieces: Pieces, y: Float[Array, " p"], piece: Piece, reached: Int[Array, ""]
) -> tuple[Int[Array, " c"], Any]:
    """All kinks whose surfaces the flow touches, those on which it slides among them; and whether there are more.

    Kinks that nothing moves, as those behind a layer that is dead on their sample, are left out: they have no surface.
    """
    direction = jax.random.normal(jax.random.key(0), y.shape, y.dtype)
    h, motion = jax.jvp(lambda y: pieces.switches(y, piece.gates.astype(y.dtype)), (y,), (direction,))
    _, is_held = sides(piece, y.dtype)
    touches = ((jnp.abs(h) <= zero_of(h)) & (motion != 0)).ravel().at[reached].set(True, mode="drop") & ~is_held

    def add(found: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        touching, count, touches = found
        at = jnp.argmax(touches).astype(touching.dtype)
        return touching.at[count].set(at), count + 1, touches.at[at].set(False)

    count = jnp.sum(piece.touching < touches.size, dtype=jnp.int32)  # they come first
    has_more = lambda found: jnp.any(found[2]) & (found[1] < len(piece.touching))
    touching, _, left = jax.lax.while_loop(has_more, add, (piece.touching, count, touches))
    return touching, jnp.any(left)


def _trouble(is_full: Any, is_consistent: Any, stalls: Any) -> Int[Array, ""]:
    cases = [is_full, ~is_consistent, stalls >= _STALLS]
    return jnp.select(cases, [FULL, UNRESOLVED, STEP_UNDERFLOW], RUNNING).astype(jnp.int32)
