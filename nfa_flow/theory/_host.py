"""Arguments of the closed forms: float64 numpy arrays on the host, for any setting of JAX."""

from typing import Any

import jax
import numpy as np
import numpy.typing
from jaxtyping import Float64

from ..checks import described, require_finite, require_number, wrong

Number = float | int | np.number | jax.Array
ArrayLike = Number | numpy.typing.ArrayLike


def as_number(argument: str, value: Number, **bounds: float | int) -> float:
    """`value` as a finite float within `bounds` (`above`, `at_least`).

    **Raises:** ValueError naming `argument`.
    """
    require_number(argument, value, **bounds)
    return float(value)


def as_array(argument: str, value: ArrayLike, *shape: Any) -> Float64[np.ndarray, "..."]:
    """`value` as finite float64 numbers of `shape`: a size for each axis, or a name for any; `...` for any shape.

    **Raises:** ValueError naming `argument` if the shape differs or an entry is NaN or infinite.
    """
    try:
        array = np.asarray(value)
        if array.dtype.kind in "USM" or np.iscomplexobj(array) or np.ma.is_masked(value):
            raise TypeError("not real numbers")
        array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise wrong(argument, "an array of real numbers", described(value)) from None
    fits = array.ndim == len(shape) and all(
        isinstance(size, str) or size == length for size, length in zip(shape, array.shape, strict=True)
    )
    if shape != (...,) and not fits:
        raise wrong(argument, f"an array of shape ({', '.join(map(str, shape))})", f"of shape {array.shape}")
    require_finite(argument, array)
    return array


def as_times(value: ArrayLike) -> Float64[np.ndarray, "..."]:
    """`times` as finite, non-negative float64 numbers of any shape.

    **Raises:** ValueError naming `times`.
    """
    times = as_array("times", value, ...)
    if np.any(times < 0):
        raise wrong("times", "non-negative", f"{times.min():g} at its smallest")
    return times
