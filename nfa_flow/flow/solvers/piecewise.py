"""The exact flow across kinks: smooth pieces, joined where the trajectory crosses a kink, or slides along it."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from ...problem.objective import SampleObjective
from ...run.status import FULL, RUNNING, STEP_UNDERFLOW, UNRESOLVED
from ..kinks.contact import count_repelling, resolve, velocity_and_share, within
from ..kinks.events import Event, first_event
from ..kinks.pieces import Piece, Pieces, by_length, groups
from ..kinks.tally import Tally
from .flow_solver import AbstractFlowSolver
from .tsrkc3 import TSRKC3

_TOUCHES = 1e4  # roundings of the size of a switching function
_FURTHER = 1.5  # times the distance of the next kink, by linear extrapolation, that a step goes
_SHARE_TRIES = 8
_STALLS = 1000

_PAIR = diffrax.Tsit5.tableau
_STAGES = np.zeros((7, 7))
for _j, _row in enumerate(_PAIR.a_lower):
    _STAGES[_j + 1, : len(_row)] = _row


class Sight(eqx.Module):
    """What is known at one point of a piece."""

    velocity: Float[Array, " p"]
    h: Float[Array, "n k"]
    rate: Float[Array, "n k"]
    share: Float[Array, " c"]


class PiecewiseState(eqx.Module):
    """The piece, and what is known at its present point."""

    piece: Piece
    sight: Sight
    late: Any
    quiet: Int[Array, ""]  # accepted steps since the last event
    elapsed: Float[Array, ""]  # of the last step: until its event
    gradients: Int[Array, ""]
    products: Int[Array, ""]
    tally: Tally
    stalls: Int[Array, ""]  # events one after another at the same time
    trouble: Int[Array, ""]  # with which the run must end


class _Leg(NamedTuple):
    """A step on one piece, as if it had no end."""

    y1: Float[Array, " p"]
    error: Float[Array, " p"]
    sight: Sight  # at its end
    increments: Float[Array, "7 p"]  # of the stages of the explicit pair
    dense: Any  # of the late solver
    late: Any
    is_late: Bool[Array, ""]
    gradients: Int[Array, ""]
    products: Int[Array, ""]


class Piecewise(AbstractFlowSolver[PiecewiseState]):
    """The exact gradient flow of networks with kinks."""

    late: AbstractFlowSolver = TSRKC3()
    capacity: int = eqx.field(static=True, default=128)
    patience: int = 20

    term_structure: ClassVar = diffrax.ODETerm

    @property
    def interpolation_cls(self) -> Callable:
        return PiecewiseInterpolation

    def order(self, terms):
        return 5

    def error_order(self, terms):
        return 5

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def init(self, terms, t0, t1, y0, args) -> PiecewiseState:
        pieces, y = Pieces(terms.vector_field.objective, y0), ravel_pytree(y0)[0]
        size = pieces.shape[0] * pieces.shape[1]
        gates = jnp.zeros(pieces.shape, bool)
        for _ in range(pieces.levels):  # those of later layers depend on earlier ones
            gates = pieces.switches(y, gates.astype(y.dtype)) > 0
        one = jnp.eye(self.capacity, dtype=y.dtype)
        nowhere = jnp.full(self.capacity, size, jnp.int32)
        piece = Piece(gates, nowhere, jnp.zeros(self.capacity, bool), *groups(one), one)
        nothing = jnp.asarray(size, jnp.int32)
        touching, is_full = self._touching(pieces, y, piece, nothing)
        found = resolve(pieces, y, piece, nothing, touching, Tally.empty(y.dtype))
        repelling = count_repelling(pieces, y, found.piece, touching)
        count = lambda n: jnp.asarray(n, jnp.int32)
        return PiecewiseState(
            piece=found.piece,
            sight=_see(pieces, y, found.piece, found.velocity, found.share),
            late=jax.tree.map(jnp.asarray, self.late.init(_on(pieces, found.piece), t0, t1, y, None)),
            quiet=count(0),
            elapsed=jnp.zeros((), y.dtype),
            gradients=3 + found.tally.pivots,
            products=count(1),
            tally=dataclasses.replace(found.tally, repelling=repelling),
            stalls=count(0),
            trouble=_trouble(is_full, found.is_consistent, count(0)),
        )

    def reach(self, state: PiecewiseState, dt: Float[Array, ""]) -> Float[Array, ""]:
        side, is_held = _sides(state.piece, dt.dtype)
        approach, distance = (-side * state.sight.rate).ravel(), (side * state.sight.h).ravel()
        is_near = (approach > 0) & (distance > 0) & ~is_held
        when = jnp.where(is_near, distance / jnp.where(is_near, approach, 1), jnp.inf)
        return jnp.minimum(dt, _FURTHER * jnp.min(when, initial=jnp.inf).astype(dt.dtype))

    def elapsed(self, state: PiecewiseState, dt: Float[Array, ""]) -> Float[Array, ""]:
        return state.elapsed

    def step(self, terms, t0, t1, y0, args, solver_state: PiecewiseState, made_jump):
        pieces, (y, unravel) = Pieces(terms.vector_field.objective, y0), ravel_pytree(y0)
        state, h = solver_state, t1 - t0
        piece, size = state.piece, state.piece.gates.size
        is_late = state.quiet >= self.patience
        leg = jax.lax.cond(is_late, lambda: self._late(pieces, y, h, state), lambda: self._early(pieces, y, h, state))
        path = lambda x: _along(self.late, leg, y, h, x)
        event = _first_kink(pieces, state, leg, h, path)
        event, tries = jax.lax.cond(
            jnp.any(piece.slides),
            lambda: _first_share(pieces, state, leg, path, event),
            lambda: (event, jnp.zeros((), jnp.int32)),
        )
        happens = event.at < size
        new = pieces.on_surfaces(jnp.where(happens, path(event.when), leg.y1), piece)

        def resolved() -> tuple[Piece, Sight, Tally, Array]:
            touching, is_full = self._touching(pieces, new, piece, event.at)
            found = resolve(pieces, new, piece, event.at, touching, state.tally)
            sight = _see(pieces, new, found.piece, found.velocity, found.share)
            stalls = jnp.where(event.when * h > 0, 0, state.stalls + 1)
            return found.piece, sight, found.tally, _trouble(is_full, found.is_consistent, stalls)

        passed = lambda: (piece, leg.sight, state.tally, jnp.asarray(RUNNING, jnp.int32))
        after, sight, tally, trouble = jax.lax.cond(happens, resolved, passed)
        elapsed = jnp.where(happens, event.when * h, h)
        on_slides = sight.h.ravel().at[after.touching].get(mode="fill", fill_value=0)
        new_state = PiecewiseState(
            piece=after,
            sight=sight,
            late=leg.late,
            quiet=jnp.where(happens, 0, state.quiet + 1),
            elapsed=elapsed,
            gradients=state.gradients + leg.gradients + tries + jnp.where(happens, tally.pivots - state.tally.pivots + 1, 0),
            products=state.products + leg.products + jnp.where(happens, 1, 0),
            tally=tally.on_slides(after.slides, on_slides, sight.share),
            stalls=jnp.where(elapsed > 0, 0, state.stalls + 1),
            trouble=jnp.where(state.trouble == RUNNING, trouble, state.trouble),
        )
        error = jnp.where(jnp.all(jnp.isfinite(new)), leg.error, jnp.inf)
        dense = dict(late=self.late, leg=leg, y=y, unravel=unravel)
        return unravel(new), unravel(error), dense, new_state, diffrax.RESULTS.successful

    def _early(self, pieces: Pieces, y: Float[Array, " p"], h: Float[Array, ""], state: PiecewiseState) -> _Leg:
        """A step of the explicit pair, whose last stage is the sight of its end."""
        stages, errors = jnp.asarray(_STAGES, y.dtype), jnp.asarray(_PAIR.b_error, y.dtype)
        stage = lambda j, k: k.at[j].set(pieces.velocity(y + h * (stages[j] @ k), state.piece))
        first = jnp.zeros((7, y.size), y.dtype).at[0].set(state.sight.velocity)
        k = jax.lax.fori_loop(1, 6, stage, first)
        y1 = y + h * (stages[6] @ k)
        sight = _look(pieces, y1, state.piece)
        k = h * k.at[6].set(sight.velocity)
        nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), self._shape_of_late(pieces, y, h, state).dense)
        count = lambda n: jnp.asarray(n, jnp.int32)
        return _Leg(y1, errors @ k, sight, k, nothing, state.late, jnp.asarray(False), count(6), count(1))

    def _shape_of_late(self, pieces: Pieces, y: Float[Array, " p"], h: Float[Array, ""], state: PiecewiseState) -> _Leg:
        return jax.eval_shape(lambda: self._late(pieces, y, h, state))

    def _late(self, pieces: Pieces, y: Float[Array, " p"], h: Float[Array, ""], state: PiecewiseState) -> _Leg:
        """A step of the solver for stiff pieces, which begins anew on each of them."""
        begins, zero = state.quiet == self.patience, jnp.zeros_like(h)
        y1, error, dense, late, _ = self.late.step(_on(pieces, state.piece), zero, h, y, None, state.late, begins)
        spent = [self.late.work(late)[name] - self.late.work(state.late)[name] for name in _WORK]
        sight, nothing = _look(pieces, y1, state.piece), jnp.zeros((7, y.size), y.dtype)
        gradients, products = ((1 + each).astype(jnp.int32) for each in spent)
        return _Leg(y1, error, sight, nothing, dense, late, jnp.asarray(True), gradients, products)

    def _touching(self, pieces: Pieces, y: Float[Array, " p"], piece: Piece, reached: Int[Array, ""]) -> tuple[Array, Array]:
        """All kinks whose surfaces the flow touches, those on which it slides among them; whether there are more."""
        h = pieces.switches(y, piece.gates.astype(y.dtype))
        _, is_held = _sides(piece, y.dtype)
        touches = (jnp.abs(h) <= _TOUCHES * jnp.finfo(h.dtype).eps * _size(h)).ravel().at[reached].set(True, mode="drop") & ~is_held

        def add(found: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            touching, count, touches = found
            at = jnp.argmax(touches).astype(touching.dtype)
            return touching.at[count].set(at), count + 1, touches.at[at].set(False)

        held = jnp.sort(piece.touching)  # those that are nothing last
        first = held, jnp.sum(held < touches.size, dtype=jnp.int32), touches
        touching, _, left = jax.lax.while_loop(lambda f: jnp.any(f[2]) & (f[1] < self.capacity), add, first)
        return touching, jnp.any(left)

    def loss_and_gradient(
        self, objective: SampleObjective, state: PiecewiseState, parameters: PyTree
    ) -> tuple[Float[Array, ""], PyTree]:
        pieces, (y, unravel) = Pieces(objective, parameters), ravel_pytree(parameters)
        return objective.loss(parameters), unravel(-pieces.velocity(y, state.piece))

    def trouble(self, state: PiecewiseState) -> Int[Array, ""]:
        return state.trouble

    def after_rejection(self, before: PiecewiseState, attempted: PiecewiseState) -> PiecewiseState:
        spent = lambda s: (s.gradients, s.products)
        kept = eqx.tree_at(spent, before, spent(attempted))
        is_late = before.quiet >= self.patience
        late = self.late.after_rejection(before.late, attempted.late)
        keep = lambda new, old: jnp.where(is_late, new, old)
        return eqx.tree_at(lambda s: s.late, kept, jax.tree.map(keep, late, before.late))

    def work(self, state: PiecewiseState) -> dict[str, Float[Array, ""] | Int[Array, ""]]:
        return {"gradient_evaluations": state.gradients, "hessian_vector_products": state.products} | {
            field.name: getattr(state.tally, field.name) for field in dataclasses.fields(state.tally)
        }


class _ShareSearch(NamedTuple):
    low: Array
    high: Array
    low_value: Array
    high_value: Array
    first: Array  # the slide that ends first
    tries: Array


_WORK = ("gradient_evaluations", "hessian_vector_products")


class PiecewiseInterpolation(diffrax.AbstractLocalInterpolation):
    """A leg between its ends."""

    t0: Any
    t1: Any
    late: AbstractFlowSolver
    leg: _Leg
    y: Float[Array, " p"]
    unravel: Callable = eqx.field(static=True)

    def evaluate(self, t0: Any, t1: Any | None = None, left: bool = True) -> PyTree:
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1), self.evaluate(t0))
        h = self.t1 - self.t0
        return self.unravel(_along(self.late, self.leg, self.y, h, (t0 - self.t0) / h))


def _along(late: AbstractFlowSolver, leg: _Leg, y: Float[Array, " p"], h: Any, x: Any) -> Float[Array, " p"]:
    """The parameters at a share `x` of a leg."""
    zero, one = jnp.zeros_like(h), jnp.ones_like(h)
    early = diffrax.Tsit5.interpolation_cls(t0=zero, t1=one, y0=y, y1=leg.y1, k=leg.increments).evaluate(x)
    after = late.interpolation_cls(t0=zero, t1=h, **leg.dense).evaluate(x * h)
    return jnp.where(leg.is_late, after, early)


def _trouble(is_full: Any, is_consistent: Any, stalls: Any) -> Int[Array, ""]:
    cases = [is_full, ~is_consistent, stalls >= _STALLS]
    return jnp.select(cases, [FULL, UNRESOLVED, STEP_UNDERFLOW], RUNNING).astype(jnp.int32)


def _on(pieces: Pieces, piece: Piece) -> diffrax.ODETerm:
    return diffrax.ODETerm(lambda t, y, args: pieces.velocity(y, piece))


def _look(pieces: Pieces, y: Float[Array, " p"], piece: Piece) -> Sight:
    """The sight of a point on a piece."""
    return _see(pieces, y, piece, *_slide(pieces, y, piece))


def _see(pieces: Pieces, y: Float[Array, " p"], piece: Piece, velocity: Array, share: Array) -> Sight:
    h, rate = jax.jvp(lambda y: pieces.switches(y, piece.gates.astype(y.dtype)), (y,), (velocity,))
    return Sight(velocity, h, rate, share)


def _slide(pieces: Pieces, y: Float[Array, " p"], piece: Piece) -> tuple[Array, Float[Array, " c"]]:
    """Velocity and shares at a point of a piece."""
    plain = -pieces.gradient(y, piece.gates.astype(y.dtype))

    def sliding(p: Piece) -> tuple[Array, Array]:
        velocity, share = velocity_and_share(pieces, y, p.gates, pieces.contact(y, p), p.slides, p.factor, plain)
        return velocity, jnp.concatenate([share, jnp.zeros(len(piece.slides) - len(share), y.dtype)])

    return by_length(piece, sliding, (plain, jnp.zeros(piece.slides.shape, y.dtype)))


def _first_kink(pieces: Pieces, state: PiecewiseState, leg: _Leg, h: Float[Array, ""], path: Callable) -> Event:
    """The first kink that a leg crosses."""
    gates = state.piece.gates.astype(leg.y1.dtype)
    side, is_held = _sides(state.piece, leg.y1.dtype)
    free = lambda values, held=1.0: jnp.where(is_held, held, (side * values).ravel())
    start, end = state.sight, leg.sight
    return first_event(
        free(start.h),
        h * free(start.rate, 0.0),
        free(end.h),
        h * free(end.rate, 0.0),
        jnp.broadcast_to(_TOUCHES * jnp.finfo(side.dtype).eps * _size(start.h), side.shape).ravel(),
        lambda at, x: side.ravel()[at] * pieces.switch(path(x), gates, at),
        lambda x: free(pieces.switches(path(x), gates)),
    )


def _first_share(
    pieces: Pieces, state: PiecewiseState, leg: _Leg, path: Callable, event: Event
) -> tuple[Event, Int[Array, ""]]:
    """The event, or an earlier one at which the share of a slide leaves [0, 1]; and the gradients that this took."""
    slides = state.piece.slides
    inside = lambda share: jnp.where(slides, 0.5 - jnp.abs(share - 0.5), 0.5)
    start = jnp.maximum(inside(state.sight.share), 0)

    def closer(search: _ShareSearch) -> _ShareSearch:
        low, high, low_value, high_value, first, tries = search
        is_first = tries == 0
        x = jnp.where(is_first, high, (low * high_value - high * low_value) / (high_value - low_value))
        values = inside(_slide(pieces, path(x), state.piece)[1])
        leaves = values < -within(start.dtype)
        when = jnp.where(leaves, start / jnp.where(leaves, start - values, 1), jnp.inf)
        first = jnp.where(is_first, jnp.argmin(when), first)
        value = jnp.where(is_first & ~jnp.any(leaves), 0, values[first])
        is_low = value > 0
        pick = lambda a, b: jnp.where(is_low, a, b)
        halved = (jnp.where(is_first, start[first], low_value / 2), high_value / 2)
        return _ShareSearch(pick(x, low), pick(high, x), pick(value, halved[0]), pick(halved[1], value), first, tries + 1)

    zero = jnp.zeros_like(event.when)
    nothing = _ShareSearch(zero, event.when, zero, -jnp.ones_like(zero), jnp.zeros((), int), jnp.zeros((), jnp.int32))
    goes_on = lambda s: (s.tries <= _SHARE_TRIES) & (s.high_value < -within(start.dtype))
    found = jax.lax.while_loop(goes_on, closer, nothing)
    is_earlier = found.high_value < 0
    at = jnp.where(is_earlier, state.piece.touching[found.first].astype(event.at.dtype), event.at)
    return Event(at, jnp.where(is_earlier, found.high, event.when)), found.tries


def _sides(piece: Piece, dtype: Any) -> tuple[Float[Array, "n k"], Bool[Array, " nk"]]:
    """The side of every kink, ±1, and whether the flow is held on its surface."""
    is_held = jnp.zeros(piece.gates.size, bool).at[piece.touching].set(True, mode="drop")
    return jnp.where(piece.gates, 1.0, -1.0).astype(dtype), is_held


def _size(h: Float[Array, "n k"]) -> Float[Array, " k"]:
    """The size of the switching functions of an entry, over all samples."""
    return jnp.sqrt(jnp.mean(h**2, axis=0))
