"""When a kink is first on the wrong side within a step, found from the values and rates at its two ends.

Between the ends, each switching function is taken for the cubic polynomial with these values and rates, which shows
which kink may be first. Where that is, is found on the solution itself: the step is an interpolant, and the program
with frozen gates is smooth on both sides of every surface.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_TRIES = 30  # of the kink that is first; each one is earlier than the one before
_HALVINGS = 4  # of the interval in which the cubic of a kink leaves the right side
_ITERATIONS = 60  # of the search for one root, which needs about five


class Event(NamedTuple):
    """The first kink that is on the wrong side (the number of kinks if there is none), and when, in [0, 1]."""

    at: Int[Array, ""]
    when: Float[Array, ""]


class _Bracket(NamedTuple):
    """Two times between which a function falls below zero, its values there, and the last one that was tried."""

    low: Float[Array, ""]
    high: Float[Array, ""]
    low_value: Float[Array, ""]
    high_value: Float[Array, ""]
    value: Float[Array, ""]
    tries: Int[Array, ""]


class _Search(NamedTuple):
    suspected: Float[Array, " k"]  # when each kink may be on the wrong side first; infinite if it is not
    until: Float[Array, " k"]  # by when it is, if it is at all
    found: Event
    tries: Int[Array, ""]


def first_event(
    start: Float[Array, " k"],
    slope: Float[Array, " k"],
    end: Float[Array, " k"],
    end_slope: Float[Array, " k"],
    allowed: Float[Array, " k"],
    one: Callable[[Array, Array], Float[Array, ""]],
    every: Callable[[Array], Float[Array, " k"]],
) -> Event:
    """The first kink that gets below zero between 0 and 1.

    **Arguments:** values and slopes at 0 and 1, positive on the right side; `allowed`: what counts as zero; `one`: from
    a kink and a time to its value; `every`: from a time to all values.
    """
    allowed = jnp.maximum(allowed, -start)  # a kink on the wrong side, after a dip that was not seen, may return
    begin, suspected, until = _suspects(start, slope, end, end_slope, allowed)

    def try_first(search: _Search) -> _Search:
        at = jnp.argmin(search.suspected)
        high = jnp.minimum(search.until[at], search.found.when)
        is_below = one(at, high) < -allowed[at]

        def earlier() -> _Search:
            when = _root(lambda x: one(at, x), jnp.minimum(begin[at], high / 2), high, allowed[at])
            values = every(when)
            others = (values < -allowed).at[at].set(False)
            dips = (search.until < when) & jnp.isfinite(search.suspected)
            crossing = when * start / jnp.where(others, start - values, 1)
            suspected = jnp.where(others, crossing, jnp.where(dips, search.suspected, jnp.inf)).at[at].set(jnp.inf)
            until = jnp.where(others, when, search.until)
            return _Search(suspected, until, Event(at, when), search.tries + 1)

        def innocent() -> _Search:
            return search._replace(suspected=search.suspected.at[at].set(jnp.inf), tries=search.tries + 1)

        return jax.lax.cond(is_below, earlier, innocent)

    nothing = Event(jnp.asarray(len(start)), jnp.ones((), start.dtype))
    search = _Search(suspected, until, nothing, jnp.asarray(0, jnp.int32))
    continues = lambda search: jnp.any(jnp.isfinite(search.suspected)) & (search.tries < _TRIES)
    return jax.lax.while_loop(continues, try_first, search).found


def _suspects(start, slope, end, end_slope, allowed) -> tuple[Float[Array, " k"], ...]:
    """When to begin the search for an event of each kink, when its cubic gets below zero, and by when it is there.

    A kink that has just been crossed starts at zero, on either side of it by rounding, and leaves to the positive side:
    half the time until its cubic is at zero again is a time at which it is positive.
    """
    is_zero = start <= allowed
    start = jnp.where(is_zero, 0, start)
    rise = end - start
    second, third = 3 * rise - 2 * slope - end_slope, slope + end_slope - 2 * rise
    cubic = lambda x: start + x * (slope + x * (second + x * third))
    lowest = _within_step(_root_where(3 * third, 2 * second, slope, rising=True))
    until = jnp.where(cubic(lowest) < -allowed, lowest, 1.0)
    is_suspect = (cubic(lowest) < -allowed) | (end < -allowed)
    back = _within_step(_root_where(third, second, slope, rising=False))
    begin = jnp.where(is_zero & (slope > 0), back / 2, 0)
    low, high = jnp.zeros_like(until), until
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_below = cubic(middle) < 0
        low, high = jnp.where(is_below, low, middle), jnp.where(is_below, middle, high)
    return begin, jnp.where(is_suspect, (low + high) / 2, jnp.inf), until


def _root_where(a: Array, b: Array, c: Array, *, rising: bool) -> Array:
    """The root of a x² + b x + c where that rises or falls; 2, which is no time of a step, if there is none."""
    square = b**2 - 4 * a * c
    root = jnp.sqrt(jnp.maximum(square, 0))
    denominator = b + root if rising else b - root
    exists = (square >= 0) & (denominator != 0)
    return jnp.where(exists, -2 * c / jnp.where(exists, denominator, 1), 2.0)


def _within_step(x: Array) -> Array:
    return jnp.where((x > 0) & (x < 1), x, 1.0)


def _root(function: Callable[[Array], Array], low: Array, end: Array, allowed: Array) -> Array:
    """Where a function falls below zero that is positive at `low` and negative at `end`, by the method of Illinois.

    If rounding hides that it was positive, then about twice as late.
    """
    low_value, high_value, precise = function(low), function(end), 1e-3 * allowed

    def better(search: _Bracket) -> _Bracket:
        """The end that stays has its value halved, so that it moves next time."""
        low, high, low_value, high_value, _, tries = search
        x = (low * high_value - high * low_value) / (high_value - low_value)
        value = function(x)
        pick = lambda if_low, otherwise: jnp.where(value > 0, if_low, otherwise)
        ends = pick(x, low), pick(high, x), pick(value, low_value / 2), pick(high_value / 2, value)
        return _Bracket(*ends, value, tries + 1)

    def goes_on(search: _Bracket) -> Array:
        is_wide = search.high - search.low > 4 * jnp.finfo(end.dtype).eps * search.high
        return (jnp.abs(search.value) > precise) & is_wide & (search.tries < _ITERATIONS)

    first = _Bracket(low, end, low_value, high_value, high_value, jnp.zeros((), jnp.int32))
    found = jax.lax.while_loop(lambda search: (low_value > 0) & goes_on(search), better, first)
    root = jnp.where((jnp.abs(found.value) <= precise) & (found.value > 0), found.low, found.high)
    return jnp.where(low_value > 0, root, jnp.minimum(2 * low, end))
