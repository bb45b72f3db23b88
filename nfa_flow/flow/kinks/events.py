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
    start = jnp.maximum(start, 0)
    suspected, until = _suspects(start, slope, end, end_slope, allowed)

    def try_first(search: _Search) -> _Search:
        at = jnp.argmin(search.suspected)
        high = jnp.minimum(search.until[at], search.found.when)
        is_below = one(at, high) < -allowed[at]

        def earlier() -> _Search:
            when = _root(lambda x: one(at, x), start[at], high, allowed[at])
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


def _suspects(start, slope, end, end_slope, allowed) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """When the cubic of each kink gets below zero, and when it is lowest there; infinite if it does not."""
    rise = end - start
    second, third = 3 * rise - 2 * slope - end_slope, slope + end_slope - 2 * rise
    cubic = lambda x: start + x * (slope + x * (second + x * third))
    denominator = second + jnp.sqrt(jnp.maximum(second**2 - 3 * third * slope, 0))
    lowest = -slope / jnp.where(denominator == 0, 1, denominator)
    lowest = jnp.where((denominator != 0) & (lowest > 0) & (lowest < 1), lowest, 1.0)
    until = jnp.where(cubic(lowest) < -allowed, lowest, 1.0)
    is_suspect = (cubic(lowest) < -allowed) | (end < -allowed)

    low, high = jnp.zeros_like(until), until
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_below = cubic(middle) < 0
        low, high = jnp.where(is_below, low, middle), jnp.where(is_below, middle, high)
    return jnp.where(is_suspect, (low + high) / 2, jnp.inf), until


def _root(function: Callable[[Array], Array], start: Array, end: Array, allowed: Array) -> Array:
    """Where a function that is negative at `end` leaves the positive side, by the method of Illinois.

    A kink that has just been crossed starts at zero and moves to the positive side, where the search begins then.
    """

    def nearer(bounds: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, _, count = bounds
        return x / 4, function(x / 4), count + 1

    is_zero = start <= allowed
    low, low_value, _ = jax.lax.while_loop(
        lambda b: is_zero & (b[1] <= allowed) & (b[2] < 20), nearer, (end, jnp.where(is_zero, -1, start), jnp.zeros((), jnp.int32))
    )
    low = jnp.where(is_zero, low, 0)

    def better(carry):
        low, high, low_value, high_value, _, count = carry
        x = (low * high_value - high * low_value) / (high_value - low_value)
        value = function(x)
        is_low = value > 0
        # The end that stays has its value halved, so that it moves next time.
        return (
            jnp.where(is_low, x, low),
            jnp.where(is_low, high, x),
            jnp.where(is_low, value, low_value / 2),
            jnp.where(is_low, high_value / 2, value),
            value,
            count + 1,
        )

    small = 1e-3 * allowed
    going = lambda c: (jnp.abs(c[4]) > small) & (c[1] - c[0] > 4 * jnp.finfo(c[0].dtype).eps * c[1]) & (c[5] < _ITERATIONS)
    high_value = function(end)
    first = (low, end, low_value, high_value, high_value, jnp.zeros((), jnp.int32))
    low, high, *_, value, _ = jax.lax.while_loop(going, better, first)
    return jnp.where(jnp.abs(value) <= small, jnp.where(value > 0, low, high), high)
