"""Save times: on a logarithmic axis, and what is required of them."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checks import is_traced, require_integer, require_number, wrong


def log_times(first: float, last: float, count: int) -> Float[np.ndarray, " count"]:
    """`count` times from `first` to `last`, evenly spaced in log t; both ends are exact.

    **Raises:** ValueError unless 0 < first < last and count ≥ 2.
    """
    require_number("first", first, above=0)
    require_number("last", last, above=0)
    require_integer("count", count, at_least=2)
    if not first < last:
        raise wrong("last", f"after `first` = {first:g}", f"{last:g}")
    return np.geomspace(first, last, count)


def check_times(t0: Any, t1: Any, save_at: Any) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, " s"]]:
    """Start, end and save times as arrays; by default `t0` and 60 times up to `t1`.

    **Raises:** ValueError naming `t0`, `t1` or `save_at`.
    """
    time_dtype = jnp.zeros(()).dtype
    require_number("t0", t0)
    require_number("t1", t1)
    if is_traced(t0, t1, save_at):
        if save_at is None:
            raise wrong("save_at", "given when `t0` or `t1` is traced by JAX", "None")
        return jnp.asarray(t0, time_dtype), jnp.asarray(t1, time_dtype), jnp.asarray(save_at, time_dtype)
    # As the loop sees them: in float32 a span of 1 at a time of 1e8 is none.
    is_lost = float(t1) > float(t0)
    t0, t1 = (_in_dtype(name, time, time_dtype) for name, time in (("t0", t0), ("t1", t1)))
    if not t1 > t0:
        raise wrong("t1", f"after `t0` = {t0:g}{f' in {time_dtype}' if is_lost else ''}", f"{t1:g}")
    if save_at is None:
        times = t0 + np.concatenate([[0.0], log_times(1e-4 * (t1 - t0), t1 - t0, 60)])
        save_at = np.unique(times.astype(time_dtype))
    try:
        times = np.asarray(save_at, dtype=time_dtype)
    except (TypeError, ValueError):
        raise wrong("save_at", "a non-empty sequence of times", repr(save_at)) from None
    if times.ndim != 1 or times.size == 0:
        raise wrong("save_at", "a non-empty sequence of times", f"of shape {times.shape}")
    if not np.all(np.diff(times) > 0):
        raise wrong("save_at", "strictly increasing", _first_bad(times))
    rounding = 4 * float(jnp.finfo(time_dtype).eps) * max(abs(t0), abs(t1))
    if not (times[0] >= t0 - rounding and times[-1] <= t1 + rounding):
        raise wrong("save_at", f"within [t0, t1] = [{t0:g}, {t1:g}]", f"from {times[0]:g} to {times[-1]:g}")
    return jnp.asarray(t0, time_dtype), jnp.asarray(t1, time_dtype), jnp.asarray(np.clip(times, t0, t1), time_dtype)


def _in_dtype(name: str, time: Any, dtype: np.dtype) -> float:
    with np.errstate(over="ignore"):
        rounded = float(np.asarray(time, dtype))
    if not np.isfinite(rounded):
        raise wrong(name, f"a time that {dtype} holds", f"{float(time):g}")
    return rounded


def _first_bad(times: np.ndarray) -> str:
    i = int(np.argmin(np.diff(times) > 0))
    return f"{times[i]:g} followed by {times[i + 1]:g} at position {i + 1}"
