"""When a function of time becomes positive within a step."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_MOST = 100  # evaluations; a smooth function takes about eight, a condition about one for each bit of the time


class _Bracket(NamedTuple):
    """Two times between which a function gets to zero, and its values there."""

    low: Float[Array, ""]
    high: Float[Array, ""]
    low_value: Float[Array, ""]
    high_value: Float[Array, ""]
    is_probed: Bool[Array, ""]  # whether the function was evaluated just before a zero
    evaluations: Int[Array, ""]
    spent: Int[Array, ""]


def first_positive(
    function: Callable[[Float[Array, ""]], tuple[Float[Array, ""], Int[Array, ""]]],
    end: Float[Array, ""],
    end_value: Float[Array, ""],
    wanted: Bool[Array, ""],
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """A time in [0, end] at which a function that is negative before becomes ≥ 0, by the method of Illinois.

    It is 0 if the function is ≥ 0 there. Between infinite values, and where the function stays zero, as one that jumps
    to zero does, the method halves the time.

    **Arguments:** `function`: from a time to its value and what it costs; `end_value` ≥ 0: the value at `end`;
    `wanted`: otherwise `function` is not evaluated, and the time is `end`.
    **Returns:** the time, at which the function is ≥ 0, and the sum of the costs.
    """
    resolution = 4 * jnp.finfo(end.dtype).eps * end

    def narrower(search: _Bracket) -> _Bracket:
        x = jnp.where(search.evaluations == 0, 0, _next(search, resolution))
        value, cost = function(x)
        # The end that stays has its value halved, so that it moves next time.
        low, high, low_value, high_value = search[:4]
        pick = lambda if_met, otherwise: jnp.where(value >= 0, if_met, otherwise)
        ends = pick(low, x), pick(x, high), pick(low_value / 2, value), pick(value, high_value / 2)
        return _Bracket(*ends, high_value == 0, search.evaluations + 1, search.spent + cost)

    def goes_on(search: _Bracket) -> Array:
        return wanted & (search.high - search.low > resolution) & (search.evaluations < _MOST)

    zero, none = jnp.zeros_like(end), jnp.zeros((), jnp.int32)
    start = _Bracket(zero, end, jnp.full_like(end_value, -jnp.inf), end_value, jnp.asarray(False), none, none)
    found = jax.lax.while_loop(goes_on, narrower, start)
    return found.high, found.spent


def _next(search: _Bracket, resolution: Float[Array, ""]) -> Float[Array, ""]:
    """The time to evaluate the function at: on the secant, just before a zero, or in the middle."""
    low, high, low_value, high_value, is_probed = search[:5]
    has_secant = jnp.isfinite(low_value) & jnp.isfinite(high_value) & (high_value > 0)
    below, above = jnp.where(has_secant, low_value, -1), jnp.where(has_secant, high_value, 1)
    x = (low * above - high * below) / (above - below)
    return jnp.where((high_value == 0) & ~is_probed, high - resolution / 2, x)
