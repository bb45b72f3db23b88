"""The derivative of a flow in one direction: dv/dt = −H v − (∂_p ∇F) ṗ along θ(t), from v(t0) = θ̇(t0)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .linear import Field, Linear, LinearState
from .path import Path, PathKeeper
from .variation import Variation


class _Progress(NamedTuple):
    path: Path
    block: Int[Array, ""]
    t: Float[Array, ""]
    linear: LinearState
    begins: Bool[Array, ""]  # a solution, here
    found: PyTree  # v at the times; each array leads with them
    saved: Int[Array, ""]
    row: Int[Array, ""]  # of the block: the first one after the last event


def forwards(
    variation: Variation,
    keeper: PathKeeper,
    path: Path,
    linear: Linear,
    times: Float[Array, " s"],
    count: Int[Array, ""],
    v: PyTree,
    direction: PyTree,
) -> tuple[PyTree, PyTree]:
    """The derivatives of θ at the times, of which `count` were reached, and at the end of the run.

    **Arguments:** `path`: as the run left it; `v`: the derivative of θ(t0); `direction`: that of p.
    **Returns:** the derivatives at the times (each array leads with them) and at the end; NaN if the integration
    failed.
    """
    begin, dtype = path.marks.begin, jax.tree.leaves(v)[0].dtype
    horizon = (path.end - begin).astype(dtype)

    def field_at(path: Path, t: Array, first: Array) -> Field:
        last = variation.next_event(path, first)

        def field(tau: Array, v: PyTree) -> PyTree:
            dense, theta = keeper.at(path, t + tau, first, last)
            return variation.forwards(dense, theta, v, direction)

        return field

    def step(now: _Progress, until: Array) -> _Progress:
        remaining = until - now.t
        state, piece = linear.step(field_at(now.path, now.t, now.row), now.linear, remaining.astype(dtype))
        t = jnp.where(piece.elapsed.astype(remaining.dtype) >= remaining, until, now.t + piece.elapsed)

        def save(carry: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
            saved, found = carry
            inside = piece.evaluate((times[saved] - now.t).astype(dtype))
            return saved + 1, jax.tree.map(lambda buffer, value: buffer.at[saved].set(value), found, inside)

        is_due = lambda carry: (carry[0] < count) & (times[carry[0]] <= t)
        saved, found = jax.lax.while_loop(is_due, save, (now.saved, now.found))
        return now._replace(t=t, linear=state, found=found, saved=saved)

    def stage(now: _Progress) -> _Progress:
        """To the next event, or to the end of the block, and across it."""
        now = now._replace(path=keeper.load(now.path, now.block))
        anew = lambda: linear.begin(field_at(now.path, now.t, now.row), now.linear.parameters, horizon, now.linear)
        now = now._replace(linear=jax.lax.cond(now.begins, anew, lambda: now.linear))
        event = variation.next_event(now.path, now.row)
        turns = event < now.path.size
        until = jnp.where(turns, now.path.rows.end[event], now.path.end)
        unfinished = lambda now: (now.t < until) & ~now.linear.failed
        now = jax.lax.while_loop(unfinished, lambda now: step(now, until), now)
        before = now.linear.parameters
        across = lambda: variation.jump(*keeper.on(now.path, event, now.t), before, direction)
        return now._replace(
            block=now.block + ~turns,
            linear=dataclasses.replace(now.linear, parameters=jax.lax.cond(turns, across, lambda: before)),
            begins=turns,
            row=jnp.where(turns, event + 1, 0),
        )

    is_start = (times == begin) & (jnp.arange(len(times)) < count)
    found = jax.tree.map(lambda leaf: jnp.multiply.outer(is_start.astype(leaf.dtype), leaf), v)
    none = jnp.zeros_like(path.block)
    still = linear.nothing(field_at(path, begin, none), v, horizon)
    still = dataclasses.replace(still, parameters=v)
    now = _Progress(path, none, begin, still, jnp.asarray(True), found, jnp.sum(is_start, dtype=jnp.int32), none)
    last = path.last_block
    now = jax.lax.while_loop(lambda now: (now.block <= last) & ~now.linear.failed, stage, now)
    honest = lambda leaf: jnp.where(now.linear.failed, jnp.nan, leaf)
    return jax.tree.map(honest, (now.found, now.linear.parameters))
