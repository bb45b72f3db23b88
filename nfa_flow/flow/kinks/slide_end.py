"""When a slide ends within a step: where the share of one of its sides leaves [0, 1]."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .contact import within
from .events import Event
from .pieces import Piece, Pieces
from .sight import slide

_TRIES = 8  # of the search for the end of a slide, each of which costs a gradient


class _Search(NamedTuple):
    low: Float[Array, ""]
    high: Float[Array, ""]
    low_value: Float[Array, ""]  # how far the share is within [0, 1]
    high_value: Float[Array, ""]
    slide: Int[Array, ""]
    tries: Int[Array, ""]


def first_slide_end(
    pieces: Pieces, piece: Piece, share: Float[Array, " c"], path: Callable, event: Event
) -> tuple[Event, Int[Array, ""]]:
    """The event, or an earlier one at which a slide ends; and the gradients that this took.

    **Arguments:** `share`: at the start of the step; `path`: from a fraction of the step to the parameters; `event`:
    the first kink that the step crosses.
    """
    inside = lambda share: jnp.where(piece.slides, 0.5 - jnp.abs(share - 0.5), 0.5)
    start, allowed = jnp.maximum(inside(share), 0), within(share.dtype)

    def closer(search: _Search) -> _Search:
        """First a look from the end, which shows the slide that ends first; then the method of Illinois."""
        low, high, low_value, high_value, which, tries = search
        is_first = tries == 0
        x = jnp.where(is_first, high, (low * high_value - high * low_value) / (high_value - low_value))
        values = inside(slide(pieces, path(x), piece)[1])
        ends = values < -allowed
        when = jnp.where(ends, start / jnp.where(ends, start - values, 1), jnp.inf)
        which = jnp.where(is_first, jnp.argmin(when), which)
        value = jnp.where(is_first & ~jnp.any(ends), 0, values[which])
        pick = lambda if_inside, otherwise: jnp.where(value > 0, if_inside, otherwise)
        halved = jnp.where(is_first, start[which], low_value / 2)
        low_value, high_value = pick(value, halved), pick(high_value / 2, value)
        return _Search(pick(x, low), pick(high, x), low_value, high_value, which, tries + 1)

    zero, count = jnp.zeros_like(event.when), jnp.zeros((), jnp.int32)
    first = _Search(zero, event.when, zero, -jnp.ones_like(zero), jnp.zeros((), int), count)
    goes_on = lambda search: (search.tries <= _TRIES) & (search.high_value < -allowed)
    found = jax.lax.while_loop(goes_on, closer, first)
    is_earlier = found.high_value < 0
    at = jnp.where(is_earlier, piece.touching[found.slide].astype(event.at.dtype), event.at)
    return Event(at, jnp.where(is_earlier, found.high, event.when)), found.tries
