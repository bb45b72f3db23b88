"""Fits over widths, from several networks per width: the power of n, and the limit n → ∞ with the first correction.

Both give a standard error that includes the spread over the networks and, if the points deviate from the line by more,
also the misfit.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float64

from ..checks import real_array, require_finite, require_integer, wrong


class WidthExponent(NamedTuple):
    """v ∝ n^exponent, `error`: the standard error of the exponent."""

    exponent: float
    error: float


class WidthLimit(NamedTuple):
    """v = limit + slope / n, `error`: the standard error of the limit; `misfit`: χ² per degree of freedom."""

    limit: float
    error: float
    slope: float
    misfit: float


def width_exponent(widths: Sequence[int], values: ArrayLike) -> WidthExponent:
    """The power of the width with which a positive number grows, from a line through the means of its logarithm.

    **Arguments:** `widths`: at least three, increasing; `values`: (widths, networks), positive; with one network per
    width the error is that of the residuals alone.
    **Returns:** a `WidthExponent`.
    **Raises:** ValueError naming the argument.
    """
    n, v = _points(widths, values)
    if v.min() <= 0:
        raise wrong("values", "positive, to have a power of the width", f"{v.min():g} at its smallest")
    x, y = np.log(n), np.log(v)
    pull = (x - x.mean()) / np.sum((x - x.mean()) ** 2)
    mean = y.mean(axis=1)
    exponent = float(pull @ mean)
    residual = mean - mean.mean() - exponent * (x - x.mean())
    misfit = np.sum(residual**2) / (len(n) - 2) * np.sum(pull**2)
    spread = pull**2 @ _variance_of_mean(y) if v.shape[1] > 1 else 0.0
    return WidthExponent(exponent, float(np.sqrt(max(misfit, spread))))


def width_limit(widths: Sequence[int], values: ArrayLike) -> WidthLimit:
    """The limit of infinite width by v = v_∞ + c/n, least squares through the means with their standard errors.

    Means over networks deviate from the limit like 1/n, while a single network deviates like n^{−½}. If χ² per degree
    of freedom is above 1, the error is multiplied by its root.

    **Arguments:** `widths`: at least three, increasing; `values`: (widths, networks), with at least two networks.
    **Returns:** a `WidthLimit`.
    **Raises:** ValueError naming the argument, also if the values at some width have no spread.
    """
    n, v = _points(widths, values)
    if v.shape[1] < 2:
        raise wrong("values", "of at least two networks per width, whose spread gives the error", "of one")
    variance = _variance_of_mean(v)
    if variance.min() == 0:
        raise wrong("values", "different between networks, to weigh the widths by their spread", "all equal at a width")
    columns = np.stack([np.ones_like(n), 1 / n], axis=1) / np.sqrt(variance)[:, None]
    covariance = np.linalg.inv(columns.T @ columns)
    means = v.mean(axis=1) / np.sqrt(variance)
    limit, slope = covariance @ columns.T @ means
    misfit = float(np.sum((means - columns @ [limit, slope]) ** 2) / (len(n) - 2))
    error = np.sqrt(covariance[0, 0] * max(misfit, 1.0))
    return WidthLimit(float(limit), float(error), float(slope), misfit)


def require_widths(widths: Sequence[int]) -> None:
    """Raise unless there are at least three increasing widths, which a fit needs."""
    if not isinstance(widths, Sequence | np.ndarray):
        raise wrong("widths", "at least three increasing widths, for a fit", repr(widths))
    for width in widths:
        require_integer("widths", width, at_least=1)
    if len(widths) < 3 or any(after <= before for before, after in zip(widths[:-1], widths[1:], strict=True)):
        raise wrong("widths", "at least three increasing widths, for a fit", list(widths))


def _points(widths: Sequence[int], values: ArrayLike) -> tuple[Float64[np.ndarray, " w"], Float64[np.ndarray, "w s"]]:
    require_widths(widths)
    real_array("values", values, ...)
    v = np.asarray(values, np.float64)  # not through JAX, which may know no float64
    if v.ndim != 2 or len(v) != len(widths) or v.shape[1] < 1:
        raise wrong("values", f"an array of shape ({len(widths)} widths, networks)", f"of shape {v.shape}")
    require_finite("values", v)
    return np.asarray(widths, np.float64), v


def _variance_of_mean(v: Float64[np.ndarray, "w s"]) -> Float64[np.ndarray, " w"]:
    return v.var(axis=1, ddof=1) / v.shape[1]
