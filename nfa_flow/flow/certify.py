"""How far a trajectory is from the exact flow, estimated from a second run at a tenth of the tolerance."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..trajectory import Trajectory

PARAMETER_ERROR = "parameter_error"


def with_error_estimate(run: Trajectory, tighter: Trajectory, *, save_nets: bool) -> Trajectory:
    """`run` with ‖θ − θ'‖/‖θ'‖ at each of its times as the observation `parameter_error`, θ' the tighter run.

    Both runs must have kept their networks. NaN where the two have no time in common: at the end of a run that a rule
    stopped, and after the failure of the tighter one.
    """
    count = min(len(run.times), len(tighter.times))
    error = jnp.full(run.times.shape, jnp.nan, run.times.dtype).at[:count].set(_distance(run, tighter, count))
    same = jnp.asarray(run.times[:count] == tighter.times[:count])
    error = error.at[:count].set(jnp.where(same, error[:count], jnp.nan))
    observed = run.observed | {PARAMETER_ERROR: error}
    return dataclasses.replace(run, observed=observed, nets=run.nets if save_nets else None)


def _distance(run: Trajectory, tighter: Trajectory, count: int) -> Float[Array, " t"]:
    leaves = [jax.tree.leaves(eqx.filter(each.nets, eqx.is_inexact_array)) for each in (run, tighter)]
    squared = lambda arrays: sum(jnp.sum(a[:count] ** 2, axis=tuple(range(1, a.ndim))) for a in arrays)
    difference = [a[:count] - b[:count] for a, b in zip(*leaves, strict=True)]
    distance, size = squared(difference), squared(leaves[1])
    return jnp.sqrt(jnp.where(distance == 0, 0, distance / size))  # 0 and not 0/0 for a network that stays at zero
