"""Integration of matrix equations by scipy, for closed forms that need one."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float64

from ..checks import wrong
from ._host import ArrayLike, as_array, as_times

_RTOL = 1e-12
Arrays = Sequence[Float64[np.ndarray, "..."]]


def integrate(
    times: ArrayLike, field: Callable[..., Arrays], start: Arrays, *, atol: float = _RTOL
) -> list[Float64[np.ndarray, "t ..."]]:
    """Arrays through time, by DOP853 at a relative tolerance of 1e-12.

    A step ends at each of the times, because the interpolant between steps is less accurate.

    **Arguments:** `times`: (t,), non-negative, ascending; `field`: arrays → their derivatives; `start`: arrays at t =
    0; `atol`: of each step, relative to the largest entry at the time before it (if all entries are zero there: to
    their derivatives times the distance to the next time).
    **Returns:** every array at `times`.
    **Raises:** ValueError for times that do not ascend, RuntimeError if scipy fails.
    """
    from scipy.integrate import solve_ivp

    moments = as_array("times", as_times(times), "t")
    if np.any(np.diff(moments) < 0):
        raise wrong("times", "in ascending order", moments.tolist())
    cuts = np.cumsum([array.size for array in start])[:-1]

    def unpack(flat):
        parts = np.split(flat, cuts, axis=-1)
        return [part.reshape(*flat.shape[:-1], *array.shape) for part, array in zip(parts, start, strict=True)]

    def flat_field(_, flat):
        return np.concatenate([slope.ravel() for slope in field(*unpack(flat))])

    flat = np.concatenate([array.ravel() for array in start])
    path = np.empty((moments.size, flat.size))
    for i, stretch in enumerate(pairwise([0.0, *moments])):
        if stretch[1] > stretch[0]:
            size = np.max(np.abs(flat))
            if size == 0:  # so that only the way ahead has a scale
                size = np.max(np.abs(flat_field(0, flat))) * (stretch[1] - stretch[0])
            floor = max(atol * size, 1e-300)
            with np.errstate(over="ignore", invalid="ignore"):  # of steps that are tried, and refused
                solution = solve_ivp(flat_field, stretch, flat, "DOP853", t_eval=stretch[1:], rtol=_RTOL, atol=floor)
            if not solution.success:
                raise RuntimeError(f"scipy could not integrate to t = {stretch[1]:g}: {solution.message}")
            flat = solution.y[:, -1]
        path[i] = flat
    return unpack(path)
