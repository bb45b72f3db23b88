"""The derivatives of a flow backwards in time: dμ/dt = Hμ along θ(t), from the times at which θ was used.

μ(t) is the derivative of the result with respect to θ(t). It jumps by the derivative with respect to θ(t_i) at each
time t_i at which θ was observed, and μ(t0) is the derivative with respect to the start. The Hessian H is symmetric, so
the equation, in reversed time, is that of a flow, and the solver of the flow solves it at any stiffness. Everything
else p in the objective has the derivative −∫ ∂_p⟨∇F(θ), μ⟩ dt.

Source: Pontryagin et al. 1962; Chen et al. 2018 (neural ODEs), with θ(t) from the path that was kept.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from .linear import Field, Linear, LinearState, Piece
from .path import Path, PathKeeper

# Exact to degree three on every panel between the ends of steps of the path and of μ.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(2)

Gradient = Callable[[PyTree, PyTree], PyTree]  # of θ and p


class _Progress(NamedTuple):
    path: Path
    block: Int[Array, ""]
    t: Float[Array, ""]
    linear: LinearState
    slope: PyTree  # with respect to p
    jumps: Int[Array, ""]  # still to come


def backwards(
    gradient: Gradient,
    keeper: PathKeeper,
    path: Path,
    linear: Linear,
    p: PyTree,
    times: Float[Array, " s"],
    count: Int[Array, ""],
    at_times: PyTree,
    at_end: PyTree,
    *,
    symmetric: bool,
) -> tuple[PyTree, PyTree]:
    """The derivatives of a result with respect to θ(t0) and p, given those with respect to θ where it was used.

    **Arguments:** `gradient`: ∇F as a function of θ and p; `path`: as the run left it; `times`: of which `count` were
    reached; `at_times`: the derivatives with respect to θ at each of the times; `at_end`: that at the end of the run;
    `symmetric`: whether H is.
    **Returns:** the two derivatives; NaN if the integration failed.
    """
    begin, end = path.marks.begin, path.end
    horizon = (end - begin).astype(jax.tree.leaves(at_end)[0].dtype)
    times = jnp.append(times, 0).at[count].set(end)
    one_more = lambda buffer, last: jnp.concatenate([buffer, last[None]]).at[count].set(last)
    at_times = jax.tree.map(one_more, at_times, at_end)

    def field_at(path: Path, t: Array) -> Field:
        def field(tau: Array, mu: PyTree) -> PyTree:
            theta = keeper.at(path, t - tau)
            along = lambda theta: gradient(theta, p)
            # The product with H is the cheaper one of two that are equal if H is symmetric.
            product = jax.jvp(along, (theta,), (mu,))[1] if symmetric else jax.vjp(along, theta)[1](mu)[0]
            return jax.tree.map(jnp.negative, product)

        return field

    def to(now: _Progress, until: Array) -> _Progress:
        """Back to a time within the loaded block."""

        def step(carry: tuple[Array, LinearState, PyTree]) -> tuple[Array, LinearState, PyTree]:
            t, state, slope = carry
            remaining = t - until
            state, piece = linear.step(field_at(now.path, t), state, remaining.astype(horizon.dtype))
            slope = add(slope, _spent(gradient, keeper, now.path, p, t, piece))
            t = jnp.where(piece.elapsed.astype(remaining.dtype) >= remaining, until, t - piece.elapsed)
            return t, state, slope

        unfinished = lambda carry: (carry[0] > until) & ~_is_zero(carry[1].parameters) & ~carry[1].failed
        _, state, slope = jax.lax.while_loop(unfinished, step, (now.t, now.linear, now.slope))
        return now._replace(t=until, linear=state, slope=slope)

    def next_jump(now: _Progress) -> tuple[Array, Array]:
        """Its time, and whether it is in this block."""
        time = times[now.jumps - 1]
        return time, (now.jumps > 0) & (time >= now.path.begin)

    def stage(now: _Progress) -> _Progress:
        """To the next jump, or to the begin of the block if there is none in it."""
        now = now._replace(path=keeper.load(now.path, now.block))
        time, jumps = next_jump(now)
        now = to(now, jnp.where(jumps, time, now.path.begin))
        more = jax.tree.map(lambda each: jnp.where(jumps, each[now.jumps - 1], 0), at_times)
        mu = add(now.linear.parameters, more)
        again = lambda: linear.begin(field_at(now.path, now.t), mu, horizon, now.linear)
        state = jax.lax.cond(_is_zero(more), lambda: now.linear, again)
        return now._replace(linear=state, jumps=now.jumps - jumps, block=now.block - jnp.where(jumps, 0, 1))

    still = linear.nothing(field_at(path, end), at_end, horizon)
    now = _Progress(path, path.last_block, end, still, jax.tree.map(jnp.zeros_like, p), count + 1)
    now = jax.lax.while_loop(lambda now: now.block >= 0, stage, now)
    honest = lambda leaf: jnp.where(now.linear.failed, jnp.nan, leaf)
    return jax.tree.map(honest, (now.linear.parameters, now.slope))


def _spent(gradient: Gradient, keeper: PathKeeper, path: Path, p: PyTree, t: Array, piece: Piece) -> PyTree:
    """−∫ ∂_p⟨∇F(θ), μ⟩ dt over a step of μ that ends at `t`, by Gauss-Legendre quadrature between steps of the path."""
    if not jax.tree.leaves(p):
        return p
    begin = t - piece.elapsed

    def at(time: Array) -> PyTree:
        theta, mu = keeper.at(path, time), piece.evaluate((t - time).astype(piece.elapsed.dtype))
        return jax.vjp(lambda p: gradient(theta, p), p)[1](mu)[0]

    def panel(carry: tuple[Array, Int[Array, ""], PyTree]) -> tuple[Array, Int[Array, ""], PyTree]:
        high, row, slope = carry
        low = jnp.maximum(path.rows.begin[row], begin)
        half = (high - low) / 2
        nodes, weights = (low + high) / 2 + half * _NODES, -half * _WEIGHTS
        more = lambda slope, node: (add(slope, jax.tree.map(lambda g: node[1].astype(g.dtype) * g, at(node[0]))), None)
        return low, row - 1, jax.lax.scan(more, slope, (nodes, weights))[0]

    unfinished = lambda carry: (carry[0] > begin) & (carry[1] >= 0)
    return jax.lax.while_loop(unfinished, panel, (t, path.row_at(t), jax.tree.map(jnp.zeros_like, p)))[2]


def add(a: PyTree, b: PyTree) -> PyTree:
    """The sum of two trees."""
    return jax.tree.map(jnp.add, a, b)


def _is_zero(tree: PyTree) -> Array:
    return jnp.all(jnp.stack([jnp.all(leaf == 0) for leaf in jax.tree.leaves(tree)]))
