"""What happens where the flow touches kinks: it crosses them, slides along them, or leaves them.

All kinks that touch are resolved together. Those of one surface (of repeated or opposite samples) count as one, with
the sum of their jumps. Each is on one of its sides or slides, and the state is consistent if the velocity that belongs
to it points to no side that it is not on, and the share λ of the positive side is within [0, 1] on every slide. These
are the conditions of a linear complementarity problem; one kink at a time is changed until all hold.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .pieces import Contact, Piece, Pieces, block_of, factor_of, groups, in_blocks
from .tally import Tally

_STILL = 1e4  # roundings of the speed: slower than this, a kink is not approached


class Resolved(NamedTuple):
    """A piece with its velocity and shares, and whether they are consistent."""

    piece: Piece
    velocity: Float[Array, " p"]
    share: Float[Array, " c"]
    tally: Tally
    repelling: Int[Array, ""]  # kinks that the flow may leave to either side, or to one side and not at all
    is_consistent: Bool[Array, ""]


class _Pivoting(NamedTuple):
    gates: Bool[Array, "n k"]
    slides: Bool[Array, " c"]
    crossed: Bool[Array, " c"]  # since this contact began
    released: Bool[Array, " c"]
    held: Bool[Array, " c"]
    velocity: Float[Array, " p"]
    share: Float[Array, " c"]
    gram: Float[Array, "c c"]
    tally: Tally
    repelling: Int[Array, ""]
    iteration: Int[Array, ""]
    is_consistent: Bool[Array, ""]


class _State(NamedTuple):
    """The velocity that belongs to sides and slides, and how it moves the kinks."""

    contact: Contact
    gram: Float[Array, "c c"]
    factor: Float[Array, "c c"]
    gates: Bool[Array, "n k"]
    slides: Bool[Array, " c"]
    is_plus: Bool[Array, " c"]
    velocity: Float[Array, " p"]
    speed: Float[Array, ""]  # before the projection
    toward: Float[Array, " c"]  # the positive side, along the unit normal
    share: Float[Array, " c"]


def resolve(
    pieces: Pieces,
    y: Float[Array, " p"],
    piece: Piece,
    reached: Int[Array, ""],
    touching: Int[Array, " c"],
    tally: Tally,
) -> Resolved:
    """The piece on which the flow goes on from `y`.

    **Arguments:** `piece`: on which it came; `reached`: the flat position of a kink that it has just reached (or, if it
    slides, whose share has just left [0, 1]), n·k if there is none; `touching`: of all kinks that are touched.
    """
    held = jnp.zeros(piece.gates.size, bool).at[piece.touching].set(True, mode="drop")
    slid = held.at[touching].get(mode="fill", fill_value=False)

    def pivot(p: _Pivoting) -> _Pivoting:
        state = _state(pieces, y, p.gates, p.slides, touching)
        contact, slides, is_plus = state.contact, state.slides, state.is_plus
        outside = jnp.maximum(-state.share, state.share - 1) - within(y.dtype)
        against = jnp.where(is_plus, -1, 1) * state.toward / state.speed - _STILL * jnp.finfo(y.dtype).eps
        must_change = jnp.any(contact.members() & (touching == reached), axis=1) & (p.iteration == 0)
        wrong = jnp.where(must_change, jnp.inf, jnp.where(slides, outside, against))
        wrong = jnp.where(contact.leads, wrong, -jnp.inf)
        worst = jnp.argmax(wrong)
        is_done = ~(wrong[worst] > 0)

        to_plus, leaves = ~is_plus[worst], slides[worst]
        falls = falls_of(pieces, y, state.gates.astype(y.dtype), contact)
        beyond = _beyond(state, falls, worst)
        # What lies beyond is known exactly if no other slide depends on this kink. It was wrong if the flow comes back
        # from beyond, and then it slides; or if the slide just ended, and then it crosses.
        goes_on = p.released[worst] | jnp.where(to_plus, beyond >= 0, beyond <= 0)
        crosses = ~leaves & goes_on & ~p.crossed[worst]
        side = jnp.where(leaves, state.share[worst] > 0.5, crosses & to_plus)
        changed = jnp.where((contact.leader == worst) & contact.is_used, touching, p.gates.size)
        gates = state.gates.ravel().at[changed].set(contact.is_along == side, mode="drop").reshape(p.gates.shape)
        keep = lambda new, old: jnp.where(is_done, old, new)
        gates, slides = keep(gates, state.gates), keep(slides.at[worst].set(~leaves & ~crosses), slides)
        events = dict(crossings=crosses, slides=~leaves & ~crosses, releases=leaves, pivots=True)
        tally = p.tally.add(**{name: ~is_done & event for name, event in events.items()})
        held = jnp.any(contact.members() & slides[:, None], axis=0)
        found = state.velocity, state.share, state.gram, tally
        crossed = p.crossed.at[worst].set(p.crossed[worst] | crosses)
        released = p.released.at[worst].set(p.released[worst] | leaves)
        repelling = jnp.where(p.iteration == 0, _count_repelling(state, falls), p.repelling)
        return _Pivoting(gates, slides, crossed, released, held, *found, repelling, p.iteration + 1, is_done)

    width = len(touching)
    nothing = jnp.zeros_like(y), jnp.zeros(width, y.dtype), jnp.eye(width, dtype=y.dtype)
    zero = jnp.zeros((), jnp.int32)
    none = jnp.zeros_like(slid)
    first = _Pivoting(piece.gates, slid, none, none, slid, *nothing, tally, zero, zero, jnp.asarray(False))
    last = jax.lax.while_loop(lambda p: ~p.is_consistent & (p.iteration < 4 * width), pivot, first)
    kept = jnp.where(last.held, touching, piece.gates.size)
    order = jnp.argsort(kept)
    slides, gram = last.slides[order], last.gram[order][:, order]
    piece = Piece(last.gates, kept[order], slides, *groups(gram), factor_of(gram, slides))
    return Resolved(piece, last.velocity, last.share[order], last.tally, last.repelling, last.is_consistent)


def _state(
    pieces: Pieces,
    y: Float[Array, " p"],
    gates: Bool[Array, "n k"],
    slid: Bool[Array, " c"],
    touching: Int[Array, " c"],
) -> _State:
    """The state with all kinks of one surface on the side of its leader; on a slide, on the negative side."""
    contact, gram = pieces.grouped_contact(y, gates, touching)
    slides = contact.leads & jnp.any(contact.members() & slid, axis=1)
    own = gates.ravel().at[touching].get(mode="fill", fill_value=False) & ~slides
    aligned = own[contact.leader] == contact.is_along
    gates = gates.ravel().at[touching].set(aligned, mode="drop").reshape(gates.shape)
    plain = -pieces.gradient(y, gates.astype(y.dtype))

    def sliding() -> tuple[Array, Array, Array]:
        factor = factor_of(gram, slides)
        return *velocity_and_share(pieces, y, gates, contact, slides, factor, plain), factor

    nothing = plain, jnp.zeros(slides.shape, y.dtype), jnp.eye(len(slides), dtype=y.dtype)
    velocity, share, factor = jax.lax.cond(jnp.any(slides), sliding, lambda: nothing)
    speed = jnp.linalg.norm(plain) + jnp.finfo(y.dtype).tiny
    return _State(contact, gram, factor, gates, slides, own, velocity, speed, contact.along_normals(velocity), share)


def _beyond(state: _State, falls: Float[Array, " c"], leader: Int[Array, ""]) -> Float[Array, ""]:
    """`toward` on the other side of a surface that does not slide."""
    cosines = jnp.where(state.slides, state.gram[leader], 0)
    own = 1 - cosines @ jax.scipy.linalg.cho_solve((state.factor, True), cosines)
    return state.toward[leader] + jnp.where(state.is_plus[leader], 1, -1) * falls[leader] * own


def _count_repelling(state: _State, falls: Float[Array, " c"]) -> Int[Array, ""]:
    """The number of kinks from which the flow leads away on both sides, or on one if it rests on the other one."""
    still = _STILL * jnp.finfo(falls.dtype).eps * state.speed
    beyond = state.toward + jnp.where(state.is_plus, 1, -1) * falls
    plus, minus = jnp.where(state.is_plus, state.toward, beyond), jnp.where(state.is_plus, beyond, state.toward)
    leaves_or_rests = ((plus > still) & (minus <= still)) | ((minus < -still) & (plus >= -still))
    return jnp.sum(state.contact.leads & leaves_or_rests, dtype=jnp.int32)


def velocity_and_share(
    pieces: Pieces,
    y: Float[Array, " p"],
    gates: Bool[Array, "n k"],
    contact: Contact,
    slides: Bool[Array, " c"],
    factor: Float[Array, "c c"],
    plain: Float[Array, " p"],
) -> tuple[Float[Array, " p"], Float[Array, " c"]]:
    """The projection of a velocity on all slides, and the share λ of the positive side in it on each of them.

    The fall at a kink depends on the shares of later kinks of its sample, which are found first.
    """
    velocity, pull = contact.tangential(slides, factor, plain)
    level = jnp.asarray(pieces.level)

    def add_level(each: Int[Array, ""], carry: tuple[Array, Array]) -> tuple[Array, Array]:
        mixed, share = carry
        falls = falls_of(pieces, y, mixed, contact)
        here = slides & (level[contact.entry] == pieces.levels - 1 - each)
        share = jnp.where(here, pull / jnp.where(falls == 0, jnp.finfo(y.dtype).tiny, falls), share)
        of_member = jnp.where(contact.is_along, share[contact.leader], 1 - share[contact.leader])
        moved = jnp.where(here[contact.leader] & contact.is_used, contact.touching, gates.size)
        return mixed.ravel().at[moved].set(of_member, mode="drop").reshape(gates.shape), share

    first = gates.astype(y.dtype), jnp.full(len(slides), 0.5, y.dtype)
    return velocity, jax.lax.fori_loop(0, pieces.levels, add_level, first)[1]


def falls_of(pieces: Pieces, y: Float[Array, " p"], gates: Float[Array, "n k"], contact: Contact) -> Float[Array, " c"]:
    """By how much the velocity along the unit normal falls from the negative to the positive side of each surface."""
    one = lambda i, e, leader: pieces.fall(y, gates[i], i, e, contact.normal[leader])
    lists = contact.sample, contact.entry, contact.leader
    each = lambda first: [jax.vmap(one)(*(block_of(each, first) for each in lists))]
    (falls,) = in_blocks(each, contact.is_used, y.dtype, ())
    return contact.members() @ jnp.where(contact.is_along, falls, -falls)


def within(dtype: Any) -> float:
    """By how much a share may leave [0, 1]: what is missed then is of the order of its square."""
    return float(jnp.finfo(dtype).eps) ** 0.5
