"""What happens where the flow touches kinks: it crosses them, slides along them, or leaves them.

All kinks that touch are resolved together. Those of one surface (of repeated or opposite samples) count as one, with
the sum of their jumps. Each is on one of its sides or slides, and the state is consistent if the velocity that belongs
to it points to no side that it is not on, and the share λ of the positive side is within [0, 1] on every slide. These
are the conditions of a linear complementarity problem; one kink at a time is changed until all hold.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .pieces import Contact, Piece, Pieces, in_blocks

_STILL = 1e4  # roundings of the speed: slower than this, a kink is not approached


class Counts(eqx.Module):
    """What has happened at kinks."""

    crossings: Int[Array, ""]
    slides: Int[Array, ""]
    releases: Int[Array, ""]
    most_slides: Int[Array, ""]  # at the same time
    pivots: Int[Array, ""]
    ambiguous: Int[Array, ""]  # kinks at the start from which the flow may leave to either side

    @staticmethod
    def zero() -> "Counts":
        return Counts(*[jnp.zeros((), jnp.int32)] * 6)


class Resolved(NamedTuple):
    """A piece with its velocity and shares, and whether they are consistent."""

    piece: Piece
    counts: Counts
    velocity: Float[Array, " p"]
    share: Float[Array, " c"]
    is_consistent: Bool[Array, ""]


class _Pivoting(NamedTuple):
    gates: Bool[Array, "n k"]
    slides: Bool[Array, " c"]
    counts: Counts
    held: Bool[Array, " c"]
    velocity: Float[Array, " p"]
    share: Float[Array, " c"]
    iteration: Int[Array, ""]
    is_consistent: Bool[Array, ""]


def resolve(
    pieces: Pieces, y: Float[Array, " p"], piece: Piece, forced: Int[Array, ""], touching: Int[Array, " c"], counts: Counts
) -> Resolved:
    """The piece on which the flow goes on from `y`.

    **Arguments:** `piece`: on which it came; `forced`: the flat position of a kink that it has just reached (or, if it
    slides, whose share has just left [0, 1]), n·k if there is none; `touching`: of all kinks that are touched.
    """
    width = len(touching)
    was_sliding = _slides_in(piece, touching)

    def one(p: _Pivoting) -> _Pivoting:
        contact = pieces.contact(y, p.gates.astype(y.dtype), touching)
        slides = contact.leads & jnp.any(contact.members() & p.slides, axis=1)
        gates = _aligned(p.gates, contact, touching, slides)
        plain = -pieces.gradient(y, gates.astype(y.dtype))
        velocity, pull = contact.tangential(slides, plain)
        toward = contact.normal @ velocity
        nothing = jnp.zeros(width, y.dtype)
        share = jax.lax.cond(
            jnp.any(slides), lambda: shares(pieces, y, gates, contact, touching, slides, pull), lambda: nothing
        )
        is_plus = gates.ravel()[jnp.minimum(touching, gates.size - 1)]
        speed = jnp.linalg.norm(plain) + jnp.finfo(y.dtype).tiny

        wrong = jnp.where(slides, jnp.maximum(-share, share - 1) - within(y.dtype), jnp.where(is_plus, -1, 1) * toward / speed - _STILL * jnp.finfo(y.dtype).eps)
        is_forced = (touching == forced) & (p.iteration == 0)
        is_forced = jnp.any(contact.members() & is_forced, axis=1)
        wrong = jnp.where(contact.leads, jnp.where(is_forced, jnp.inf, wrong), -jnp.inf)
        worst = jnp.argmax(wrong)
        is_done = ~(wrong[worst] > 0)

        # Beyond its surface, only the velocity along its own normal matters.
        jump = _jumps(pieces, y, gates.astype(y.dtype), contact)[worst]
        cosines = jnp.where(slides, contact.gram[worst], 0)
        own = 1 - cosines @ contact.solve(slides, cosines)
        to_plus = ~is_plus[worst]
        beyond = toward[worst] - jnp.where(to_plus, 1, -1) * jump * own
        crosses = jnp.where(to_plus, beyond >= 0, beyond <= 0)
        leaves = slides[worst]
        side = jnp.where(leaves, share[worst] > 0.5, jnp.where(crosses, to_plus, False))
        now_slides = ~leaves & ~crosses
        after = slides.at[worst].set(now_slides)
        flipped = _with_side(gates, contact, touching, worst, side)
        count = lambda old, condition: old + jnp.where(~is_done & condition, 1, 0)
        counts = eqx.tree_at(
            lambda c: (c.crossings, c.slides, c.releases, c.pivots),
            p.counts,
            (
                count(p.counts.crossings, ~leaves & crosses),
                count(p.counts.slides, now_slides),
                count(p.counts.releases, leaves),
                count(p.counts.pivots, True),
            ),
        )
        keep = lambda new, old: jnp.where(is_done, old, new)
        gates, slides = keep(flipped, gates), keep(after, slides)
        held = jnp.any(contact.members() & slides[:, None], axis=0)
        return _Pivoting(gates, slides, counts, held, velocity, share, p.iteration + 1, is_done)

    share, count = jnp.zeros(width, y.dtype), jnp.asarray(0, jnp.int32)
    first = _Pivoting(piece.gates, was_sliding, counts, was_sliding, jnp.zeros_like(y), share, count, jnp.asarray(False))
    last = jax.lax.while_loop(lambda p: ~p.is_consistent & (p.iteration < 4 * width), one, first)
    most = jnp.maximum(last.counts.most_slides, jnp.sum(last.slides, dtype=jnp.int32))
    counts = eqx.tree_at(lambda c: c.most_slides, last.counts, most)
    nothing = jnp.asarray(last.gates.size, touching.dtype)
    held = jnp.where(last.held, touching, nothing)
    order = jnp.argsort(held)
    piece = Piece(last.gates, held[order], last.slides[order])
    return Resolved(piece, counts, last.velocity, last.share[order], last.is_consistent)


def within(dtype: Any) -> float:
    """By how much a share may leave [0, 1]: what is missed then is of the order of its square."""
    return float(jnp.finfo(dtype).eps) ** 0.5


def shares(
    pieces: Pieces,
    y: Float[Array, " p"],
    gates: Bool[Array, "n k"],
    contact: Contact,
    touching: Int[Array, " c"],
    slides: Bool[Array, " c"],
    pull: Float[Array, " c"],
) -> Float[Array, " c"]:
    """The share λ of the positive side in the velocity of each slide, such that no normal component is left.

    The jump at a kink depends on the shares of later kinks of its sample, which are found first.
    """
    mixed, share = gates.astype(y.dtype), jnp.full(len(slides), 0.5, y.dtype)
    level = jnp.asarray(pieces.level)[contact.entry]
    for each in reversed(range(pieces.levels)):
        jump = _jumps(pieces, y, mixed, contact)
        here = slides & (level == each)
        share = jnp.where(here, pull / jnp.where(jump == 0, jnp.finfo(y.dtype).tiny, jump), share)
        own = share[contact.leader]
        of_member = jnp.where(contact.is_along, own, 1 - own)
        moved = here[contact.leader] & contact.is_used
        mixed = mixed.ravel().at[jnp.where(moved, touching, mixed.size)].set(of_member, mode="drop").reshape(gates.shape)
    return share


def _jumps(pieces: Pieces, y: Float[Array, " p"], gates: Float[Array, "n k"], contact: Contact) -> Float[Array, " c"]:
    """By how much the velocity along the unit normal falls from the negative to the positive side of each surface."""
    one = lambda i, e, at: pieces.fall(y, gates[i], i, e, contact.normal[contact.leader[at]])
    each = lambda at: jax.vmap(one)(contact.sample[at], contact.entry[at], at)
    falls = in_blocks(each, contact.sample, contact.is_used, (), y.dtype)
    return contact.members() @ jnp.where(contact.is_along, falls, -falls)


def _slides_in(piece: Piece, touching: Int[Array, " c"]) -> Bool[Array, " c"]:
    """Which kinks of a list slide on a piece."""
    held = jnp.zeros(piece.gates.size, bool).at[piece.touching].set(True, mode="drop")
    return held.at[touching].get(mode="fill", fill_value=False)


def _aligned(
    gates: Bool[Array, "n k"], contact: Contact, touching: Int[Array, " c"], slides: Bool[Array, " c"]
) -> Bool[Array, "n k"]:
    """The gates with all kinks of one surface on the side of its leader; on a slide, on the negative side."""
    own = gates.ravel().at[touching].get(mode="fill", fill_value=False) & ~slides
    return gates.ravel().at[touching].set(own[contact.leader] == contact.is_along, mode="drop").reshape(gates.shape)


def _with_side(
    gates: Bool[Array, "n k"], contact: Contact, touching: Int[Array, " c"], leader: Int[Array, ""], side: Bool[Array, ""]
) -> Bool[Array, "n k"]:
    places = jnp.where((contact.leader == leader) & contact.is_used, touching, gates.size)
    return gates.ravel().at[places].set(contact.is_along == side, mode="drop").reshape(gates.shape)
