"""The derivatives of a flow backwards in time: dμ/dt = Hμ along θ(t), from the times at which θ was used.

μ(t) is the derivative of the result with respect to θ(t). It jumps by the derivative with respect to θ(t_i) at each
time t_i at which θ was observed, and μ(t0) is the derivative with respect to the start. The Hessian H is symmetric, so
the equation, in reversed time, is that of a flow, and the solver of the flow solves it at any stiffness. Everything
else p in the objective has the derivative −∫ ∂_p⟨∇F(θ), μ⟩ dt.

Source: Pontryagin et al. 1962; Chen et al. 2018 (neural ODEs), with θ(t) from the path that was kept.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from .linear import Field, Linear, LinearState, Piece
from .path import Path, PathKeeper
from .variation import Variation

# Exact to degree three on every panel between the ends of steps of the path and of μ.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(2)


class _Progress(NamedTuple):
    path: Path
    block: Int[Array, ""]
    t: Float[Array, ""]
    linear: LinearState
    begins: Bool[Array, ""]  # a solution, here
    slope: PyTree  # with respect to p
    jumps: Int[Array, ""]  # still to come
    rows: Int[Array, ""]  # of the block at whose ends are the events that are still to come


def backwards(
    variation: Variation,
    keeper: PathKeeper,
    path: Path,
    linear: Linear,
    times: Float[Array, " s"],
    count: Int[Array, ""],
    at_times: PyTree,
    at_end: PyTree,
) -> tuple[PyTree, PyTree]:
    """The derivatives of a result with respect to θ(t0) and p, given those with respect to θ where it was used.

    **Arguments:** `path`: as the run left it; `times`: of which `count` were reached; `at_times`: the derivatives with
    respect to θ at each of the times; `at_end`: that at the end of the run.
    **Returns:** the two derivatives; NaN if the integration failed.
    """
    begin, end = path.marks.begin, path.end
    horizon = (end - begin).astype(jax.tree.leaves(at_end)[0].dtype)
    times = jnp.append(times, 0).at[count].set(end)
    one_more = lambda buffer, last: jnp.concatenate([buffer, last[None]]).at[count].set(last)
    at_times = jax.tree.map(one_more, at_times, at_end)

    def field_at(path: Path, t: Array, last: Array) -> Field:
        first = variation.last_event(path, last) + 1

        def field(tau: Array, mu: PyTree) -> PyTree:
            dense, theta = keeper.at(path, t - tau, first, last)
            return variation.backwards(dense, theta, mu)[0]

        return field

    def to(now: _Progress, until: Array) -> _Progress:
        """Back to a time within the loaded block, and not before the next event."""

        def step(carry: tuple[Array, LinearState, PyTree]) -> tuple[Array, LinearState, PyTree]:
            t, state, slope = carry
            remaining = t - until
            state, piece = linear.step(field_at(now.path, t, now.rows), state, remaining.astype(horizon.dtype))
            slope = add(slope, _spent(variation, keeper, now, t, piece))
            t = jnp.where(piece.elapsed.astype(remaining.dtype) >= remaining, until, t - piece.elapsed)
            return t, state, slope

        unfinished = lambda carry: (carry[0] > until) & ~_is_zero(carry[1].parameters) & ~carry[1].failed
        _, state, slope = jax.lax.while_loop(unfinished, step, (now.t, now.linear, now.slope))
        return now._replace(t=until, linear=state, slope=slope)

    def stage(now: _Progress) -> _Progress:
        """To the next jump or event, or to the begin of the block if there is none in it."""
        now = now._replace(path=keeper.load(now.path, now.block))
        now = now._replace(rows=jnp.minimum(now.rows, now.path.inner_ends))
        anew = lambda: linear.begin(field_at(now.path, now.t, now.rows), now.linear.parameters, horizon, now.linear)
        now = now._replace(linear=jax.lax.cond(now.begins, anew, lambda: now.linear))
        event, time = variation.last_event(now.path, now.rows), times[now.jumps - 1]
        until = jnp.where(event < 0, now.path.begin, now.path.rows.end[event])
        jumps = (now.jumps > 0) & (time >= until)
        turns, ends = ~jumps & (event >= 0), ~jumps & (event < 0)
        now = to(now, jnp.where(jumps, time, until))
        more = jax.tree.map(lambda each: jnp.where(jumps, each[now.jumps - 1], 0), at_times)
        mu = add(now.linear.parameters, more)
        across = lambda: variation.jump_backwards(*keeper.on(now.path, event, now.t), mu)
        mu, of_p = jax.lax.cond(turns, across, lambda: (mu, nothing))
        return now._replace(
            block=now.block - ends,
            linear=dataclasses.replace(now.linear, parameters=mu),
            begins=~_is_zero(mu) & (turns | ~_is_zero(more)),
            slope=add(now.slope, of_p),
            jumps=now.jumps - jumps,
            rows=jnp.where(turns, event, jnp.where(ends, path.size, now.rows)),
        )

    still = linear.nothing(field_at(path, end, path.inner_ends), at_end, horizon)
    nothing = jax.tree.map(jnp.zeros_like, variation.p)
    now = _Progress(path, path.last_block, end, still, jnp.asarray(False), nothing, count + 1, path.inner_ends)
    now = jax.lax.while_loop(lambda now: now.block >= 0, stage, now)
    honest = lambda leaf: jnp.where(now.linear.failed, jnp.nan, leaf)
    return jax.tree.map(honest, (now.linear.parameters, now.slope))


def _spent(variation: Variation, keeper: PathKeeper, now: _Progress, t: Array, piece: Piece) -> PyTree:
    """−∫ ∂_p⟨∇F(θ), μ⟩ dt over a step of μ that ends at `t`, by Gauss-Legendre quadrature between steps of the path."""
    if not jax.tree.leaves(variation.p):
        return variation.p
    begin = t - piece.elapsed

    def panel(carry: tuple[Array, Int[Array, ""], PyTree]) -> tuple[Array, Int[Array, ""], PyTree]:
        high, row, slope = carry
        low = jnp.maximum(now.path.rows.begin[row], begin)
        half = (high - low) / 2
        nodes, weights = (low + high) / 2 + half * _NODES, half * _WEIGHTS

        def more(slope: PyTree, node: tuple[Array, Array]) -> tuple[PyTree, None]:
            (time, weight), mu = node, piece.evaluate((t - node[0]).astype(piece.elapsed.dtype))
            dense, theta = keeper.on(now.path, row, time)
            of_p = variation.backwards(dense, theta, mu)[1]
            return add(slope, jax.tree.map(lambda g: weight.astype(g.dtype) * g, of_p)), None

        return low, row - 1, jax.lax.scan(more, slope, (nodes, weights))[0]

    unfinished = lambda carry: (carry[0] > begin) & (carry[1] >= 0)
    first = t, jnp.minimum(now.path.row_at(t), now.rows), jax.tree.map(jnp.zeros_like, variation.p)
    return jax.lax.while_loop(unfinished, panel, first)[2]


def add(a: PyTree, b: PyTree) -> PyTree:
    """The sum of two trees."""
    return jax.tree.map(jnp.add, a, b)


def _is_zero(tree: PyTree) -> Array:
    return jnp.all(jnp.stack([jnp.all(leaf == 0) for leaf in jax.tree.leaves(tree)]))
