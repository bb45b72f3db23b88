"""What a flow has met at kinks: counts, and how well it kept the laws of sliding."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int


class Tally(eqx.Module):
    """Counts of events, and extremes over all accepted points on slides."""

    crossings: Int[Array, ""]
    slides: Int[Array, ""]  # that have begun
    releases: Int[Array, ""]  # slides that have ended
    pivots: Int[Array, ""]  # changes of one kink while a contact was resolved
    repelling: Int[Array, ""]  # kinks at the start that the flow may leave in more than one way
    most_slides: Int[Array, ""]  # at the same time
    largest_h: Float[Array, ""]  # |h| where it should be 0
    lowest_share: Float[Array, ""]  # λ, which should be within [0, 1]
    highest_share: Float[Array, ""]

    @staticmethod
    def empty(dtype: DTypeLike) -> "Tally":
        """Nothing met so far."""
        count, one = jnp.zeros((), jnp.int32), jnp.ones((), dtype)
        return Tally(count, count, count, count, count, count, 0 * one, one, 0 * one)

    def add(self, **met: Bool[Array, ""]) -> "Tally":
        """One more of each count that is true."""
        changed = {name: getattr(self, name) + jnp.where(one, 1, 0) for name, one in met.items()}
        return dataclasses.replace(self, **changed)

    def on_slides(self, slides: Bool[Array, " c"], h: Float[Array, " c"], share: Float[Array, " c"]) -> "Tally":
        """With one more point, at which these kinks slide."""
        return dataclasses.replace(
            self,
            most_slides=jnp.maximum(self.most_slides, jnp.sum(slides, dtype=jnp.int32)),
            largest_h=jnp.maximum(self.largest_h, jnp.max(jnp.where(slides, jnp.abs(h), 0))),
            lowest_share=jnp.minimum(self.lowest_share, jnp.min(jnp.where(slides, share, 1))),
            highest_share=jnp.maximum(self.highest_share, jnp.max(jnp.where(slides, share, 0))),
        )
