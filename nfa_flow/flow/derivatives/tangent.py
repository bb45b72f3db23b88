"""The derivative of a flow in one direction: dv/dt = −H v − (∂_p ∇F) ṗ along θ(t), from v(t0) = θ̇(t0)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .adjoint import Gradient
from .linear import Field, Linear, LinearState
from .path import Path, PathKeeper


class _Progress(NamedTuple):
    path: Path
    block: Int[Array, ""]
    t: Float[Array, ""]
    linear: LinearState
    found: PyTree  # v at the times; each array leads with them
    saved: Int[Array, ""]


def forwards(
    gradient: Gradient,
    keeper: PathKeeper,
    path: Path,
    linear: Linear,
    p: PyTree,
    times: Float[Array, " s"],
    count: Int[Array, ""],
    v: PyTree,
    direction: PyTree,
) -> tuple[PyTree, PyTree]:
    """The derivatives of θ at the times, of which `count` were reached, and at the end of the run.

    **Arguments:** `gradient`: ∇F as a function of θ and p; `path`: as the run left it; `v`: the derivative of θ(t0);
    `direction`: that of p.
    **Returns:** the derivatives at the times (each array leads with them) and at the end; NaN if the integration
    failed.
    """
    begin, dtype = path.marks.begin, jax.tree.leaves(v)[0].dtype
    horizon = (path.end - begin).astype(dtype)

    def field_at(path: Path, t: Array) -> Field:
        def field(tau: Array, v: PyTree) -> PyTree:
            theta = keeper.at(path, t + tau)
            return jax.tree.map(jnp.negative, jax.jvp(gradient, (theta, p), (v, direction))[1])

        return field

    def step(now: _Progress) -> _Progress:
        remaining = now.path.end - now.t
        state, piece = linear.step(field_at(now.path, now.t), now.linear, remaining.astype(dtype))
        t = jnp.where(piece.elapsed.astype(remaining.dtype) >= remaining, now.path.end, now.t + piece.elapsed)

        def save(carry: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
            saved, found = carry
            inside = piece.evaluate((times[saved] - now.t).astype(dtype))
            return saved + 1, jax.tree.map(lambda buffer, value: buffer.at[saved].set(value), found, inside)

        is_due = lambda carry: (carry[0] < count) & (times[carry[0]] <= t)
        saved, found = jax.lax.while_loop(is_due, save, (now.saved, now.found))
        return now._replace(t=t, linear=state, found=found, saved=saved)

    def block(now: _Progress) -> _Progress:
        now = now._replace(path=keeper.load(now.path, now.block))
        start = lambda: linear.begin(field_at(now.path, now.t), v, horizon, now.linear)
        now = now._replace(linear=jax.lax.cond(now.block == 0, start, lambda: now.linear))
        now = jax.lax.while_loop(lambda now: (now.t < now.path.end) & ~now.linear.failed, step, now)
        return now._replace(block=now.block + 1)

    is_start = (times == begin) & (jnp.arange(len(times)) < count)
    found = jax.tree.map(lambda leaf: jnp.multiply.outer(is_start.astype(leaf.dtype), leaf), v)
    still = linear.nothing(field_at(path, begin), v, horizon)
    now = _Progress(path, jnp.zeros_like(path.block), begin, still, found, jnp.sum(is_start, dtype=jnp.int32))
    last = path.last_block
    now = jax.lax.while_loop(lambda now: now.block <= last, block, now)
    honest = lambda leaf: jnp.where(now.linear.failed, jnp.nan, leaf)
    return jax.tree.map(honest, (now.found, now.linear.parameters))
