"""How a small change of θ(t) moves along the exact flow across kinks.

On a piece it obeys the equation of that piece. Where the flow reaches the surface h = 0 of a kink and its velocity
changes from f⁻ to f⁺, a change of θ by v moves the moment by −(∇h·v)/(∇h·f⁻), so v jumps by (f⁺ − f⁻)(∇h·v)/(∇h·f⁻);
likewise with (∂_p h) ṗ. Where a slide ends, the velocity is continuous, and so is v.

On slides, f = −∇L for the Lagrangian L = F + Σ_j κ_j h_j, whose multipliers κ make f tangent to the surfaces of all
kinks j that slide. A change of θ obeys v' = −(∇²L) v − (∂_p∇L) ṗ + Nᵀy with the normals N = ∇h and y such that all h_j
remain 0: N v' and the change of N at fixed f cancel.

Source: Hiskens & Pai 2000 (trajectory sensitivity of hybrid systems).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..kinks.pieces import Contact, Piece, Pieces
from ..kinks.sight import sides
from .path import Path, PathKeeper
from .variation import Variation


class AcrossKinks(Variation):
    """Along a flow of `Piecewise`."""

    def forwards(self, dense: Any, theta: PyTree, v: PyTree, direction: PyTree) -> PyTree:
        (y, unravel), piece, of = ravel_pytree(theta), dense["piece"], self._pieces(theta)
        at, change = (y, self.p), (ravel_pytree(v)[0], direction)

        def sliding() -> Array:
            held = _Held.at(of, y, self.p, piece)
            free, rates = jax.jvp(held.free_and_rates, at, change)[1]
            return free - held.contact.combined(held.multipliers(held.contact.along_normals(free) + rates))

        free = lambda: jax.jvp(_free(of, piece), at, change)[1]
        return unravel(jax.lax.cond(self.is_held(dense), sliding, free))

    def backwards(self, dense: Any, theta: PyTree, mu: PyTree) -> tuple[PyTree, PyTree]:
        (y, unravel), piece, of = ravel_pytree(theta), dense["piece"], self._pieces(theta)
        mu = ravel_pytree(mu)[0]

        def sliding() -> tuple[Array, PyTree]:
            held = _Held.at(of, y, self.p, piece)
            pull = held.multipliers(held.contact.along_normals(mu))
            return jax.vjp(held.free_and_rates, y, self.p)[1]((mu - held.contact.combined(pull), -pull))

        free = lambda: jax.vjp(_free(of, piece), y, self.p)[1](mu)
        of_theta, of_p = jax.lax.cond(self.is_held(dense), sliding, free)
        return unravel(of_theta), of_p

    def velocity(self, dense: Any, theta: PyTree) -> PyTree:
        """On slides, the projection on them."""
        y, unravel = ravel_pytree(theta)
        return unravel(self._pieces(theta)(self.p).velocity(y, dense["piece"]))

    def velocities(self, keeper: PathKeeper, path: Path, times: Float[Array, " s"], thetas: PyTree) -> PyTree:
        def one(path: Path, time: Array) -> tuple[Path, PyTree]:
            time = jnp.clip(time, path.marks.begin, path.last_time)
            is_elsewhere = lambda path: (time < path.begin) | (path.end < time)
            load = lambda path: keeper.load(path, jnp.where(time < path.begin, 0, path.block + 1))
            path = jax.lax.while_loop(is_elsewhere, load, path)
            return path, self.velocity(*keeper.at(path, time))

        return jax.lax.scan(one, path, times)[1]

    def is_held(self, dense: Any) -> Bool[Array, ""]:
        return jnp.any(dense["piece"].slides)

    def last_event(self, path: Path, before: Int[Array, ""]) -> Int[Array, ""]:
        rows = jnp.arange(path.size, dtype=jnp.int32)
        return jnp.max(jnp.where(path.rows.dense["turn"].happens & (rows < before), rows, -1))

    def next_event(self, path: Path, row: Int[Array, ""]) -> Int[Array, ""]:
        rows = jnp.arange(path.size, dtype=jnp.int32)
        there = path.rows.dense["turn"].happens & (rows >= row) & (rows < path.inner_ends)
        return jnp.min(jnp.where(there, rows, path.size))

    def jump(self, dense: Any, theta: PyTree, v: PyTree, direction: PyTree) -> PyTree:
        switch, change, speed = self._turn(dense, theta)
        y, unravel = ravel_pytree(theta)
        moved = jax.jvp(switch, (y, self.p), (ravel_pytree(v)[0], direction))[1]
        return jax.tree.map(jnp.add, v, unravel(change * (moved / speed)))

    def jump_backwards(self, dense: Any, theta: PyTree, mu: PyTree) -> tuple[PyTree, PyTree]:
        switch, change, speed = self._turn(dense, theta)
        y, unravel = ravel_pytree(theta)
        of_theta, of_p = jax.vjp(switch, y, self.p)[1](change @ ravel_pytree(mu)[0] / speed)
        return jax.tree.map(jnp.add, mu, unravel(of_theta)), of_p

    def _pieces(self, theta: PyTree) -> Callable[[PyTree], Pieces]:
        return lambda p: Pieces(eqx.combine(p, self.problem.objective), theta)  # pyright: ignore  (of samples)

    def _turn(self, dense: Any, theta: PyTree) -> tuple[Callable, Float[Array, " p"], Float[Array, ""]]:
        """h of the kink that was reached, the change of the velocity there, and the rate of h before."""
        piece, turn, of, y = dense["piece"], dense["turn"], self._pieces(theta), ravel_pytree(theta)[0]
        gates, (_, is_held) = piece.gates.astype(y.dtype), sides(piece, y.dtype)
        switch = lambda y, p: of(p).switch(y, gates, jnp.minimum(turn.at, gates.size - 1))
        # None was reached by a start that is on kinks.
        change = jnp.where(turn.at < gates.size, turn.after - turn.before, jnp.nan)
        jumps = turn.changes & ~is_held.at[turn.at].get(mode="fill", fill_value=False)
        speed = jax.jvp(lambda y: switch(y, self.p), (y,), (turn.before,))[1]
        return switch, jnp.where(jumps, change, 0), jnp.where(jumps, speed, 1)


class _Held(NamedTuple):
    """What holds the flow on its slides at one point."""

    of: Callable[[PyTree], Pieces]
    piece: Piece
    contact: Contact
    f: Float[Array, " p"]
    pull: Float[Array, " c"]  # κ, for normals of length 1

    @classmethod
    def at(cls, of: Callable[[PyTree], Pieces], y: Float[Array, " p"], p: PyTree, piece: Piece) -> "_Held":
        contact = of(p).contact(y, piece)
        f, pull = contact.tangential(piece.slides, piece.factor, _free(of, piece)(y, p))
        return cls(of, piece, contact, f, pull)

    def multipliers(self, right: Float[Array, " c"]) -> Float[Array, " c"]:
        """x with N Nᵀ x = r for the unit normals N that slide."""
        return self.contact.least_squares(self.piece.slides, self.piece.factor, right)

    def free_and_rates(self, y: Float[Array, " p"], p: PyTree) -> tuple[Float[Array, " p"], Float[Array, " c"]]:
        """−∇L with the multipliers of this point, and the rates of all h_j along its f, over the lengths of normals."""
        h = lambda y: self._switches(y, p)
        return _free(self.of, self.piece)(y, p) - jax.vjp(h, y)[1](self.pull)[0], jax.jvp(h, (y,), (self.f,))[1]

    def _switches(self, y: Float[Array, " p"], p: PyTree) -> Float[Array, " c"]:
        """h_j over the lengths of the normals at this point, of kinks that slide."""
        slides, gates = self.piece.slides, self.piece.gates.astype(y.dtype)
        h = self.of(p).switches(y, gates).ravel().at[self.piece.touching].get(mode="fill", fill_value=0)
        return jnp.where(slides, h, 0) / jnp.where(slides, self.contact.length, 1)


def _free(of: Callable[[PyTree], Pieces], piece: Piece) -> Callable:
    """The velocity on a piece before it is projected on slides, a function of y and p."""
    return lambda y, p: -of(p).gradient(y, piece.gates.astype(y.dtype))
