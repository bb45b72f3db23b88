"""What is known at one point of a piece: where the flow goes, and how that moves all kinks."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float

from .contact import velocity_and_share
from .pieces import Piece, Pieces

_TOUCHES = 1e4  # roundings of the size of a switching function: closer than this, a kink is touched


class Sight(eqx.Module):
    """The velocity, the switching functions with their rates of change, and the shares of the slides."""

    velocity: Float[Array, " p"]
    h: Float[Array, "n k"]
    rate: Float[Array, "n k"]
    share: Float[Array, " c"]


def look(pieces: Pieces, y: Float[Array, " p"], piece: Piece) -> Sight:
    """The sight from a point of a piece, at the cost of a gradient and a product with the Jacobian of h."""
    return see(pieces, y, piece, *slide(pieces, y, piece))


def see(
    pieces: Pieces, y: Float[Array, " p"], piece: Piece, velocity: Float[Array, " p"], share: Float[Array, " c"]
) -> Sight:
    """The sight where velocity and shares are known."""
    h, rate = jax.jvp(lambda y: pieces.switches(y, piece.gates.astype(y.dtype)), (y,), (velocity,))
    return Sight(velocity, h, rate, share)


def slide(pieces: Pieces, y: Float[Array, " p"], piece: Piece) -> tuple[Float[Array, " p"], Float[Array, " c"]]:
    """The velocity and the shares at a point of a piece."""
    plain = -pieces.gradient(y, piece.gates.astype(y.dtype))

    def sliding() -> tuple[Array, Array]:
        contact = pieces.contact(y, piece)
        return velocity_and_share(pieces, y, piece.gates, contact, piece.slides, piece.factor, plain)

    return jax.lax.cond(jnp.any(piece.slides), sliding, lambda: (plain, jnp.zeros(piece.slides.shape, y.dtype)))


def sides(piece: Piece, dtype: DTypeLike) -> tuple[Float[Array, "n k"], Bool[Array, " n*k"]]:
    """The side of every kink, ±1, and whether the flow is held on its surface."""
    is_held = jnp.zeros(piece.gates.size, bool).at[piece.touching].set(True, mode="drop")
    return jnp.where(piece.gates, 1.0, -1.0).astype(dtype), is_held


def zero_of(h: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """Up to what |h| counts as zero: a multiple of the rounding errors at the size of h over all samples."""
    size = jnp.sqrt(jnp.mean(h**2, axis=0))
    return jnp.broadcast_to(_TOUCHES * jnp.finfo(h.dtype).eps * size, h.shape)
