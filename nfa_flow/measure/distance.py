"""The distance between the networks of two runs."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checks import described, wrong
from ..numerics.precision import at_least_single
from ..run.trajectory import Trajectory


def distance(run: Trajectory, other: Trajectory) -> Float[Array, " t"]:
    """‖θ(t) − θ'(t)‖ over all floating-point arrays of the networks of two runs, at the times of the first.

    Flow and gradient descent have the same time axis: `distance(flow, descent)` after a flow with
    `save_at=descent.times`. For runs whose networks are too large to keep, observe a `RandomProjection`.

    **Arguments:** `run`, `other`: both with `save_nets=True`, and not in a batch.
    **Returns:** one number for each of `run.times`; NaN at times that `other` does not have, up to rounding.
    **Raises:** ValueError naming `run` or `other`.
    """
    arrays, others = _arrays("run", run), _arrays("other", other)
    shapes = [[a.shape[1:] for a in each] for each in (arrays, others)]
    if shapes[0] != shapes[1]:
        raise wrong("other", f"of networks of arrays {shapes[0]}", f"of {shapes[1]}")
    times, theirs = np.asarray(run.times), np.asarray(other.times)
    rounding = 8 * max(np.finfo(times.dtype).eps, np.finfo(theirs.dtype).eps)
    same = np.isclose(times[:, None], theirs[None, :], rtol=rounding, atol=0)
    at = np.argmax(same, axis=1)
    square = sum(jnp.sum((a - b[at]) ** 2, axis=tuple(range(1, a.ndim))) for a, b in zip(arrays, others, strict=True))
    return jnp.where(same.any(axis=1), jnp.sqrt(square), jnp.nan)


def _arrays(argument: str, run: Any) -> list[Array]:
    if not isinstance(run, Trajectory):
        raise wrong(argument, "a `Trajectory`", described(run))
    run.require_one_run("distance")
    if run.nets is None:
        raise wrong(argument, "a run with `save_nets=True`", "one that kept only its last network")
    return jax.tree.leaves(at_least_single(eqx.filter(run.nets, eqx.is_inexact_array)))
