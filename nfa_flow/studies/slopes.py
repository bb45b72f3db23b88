"""How values grow with a setting: slopes in logarithms, and powers of the width with their errors."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..width import WidthExponent, width_exponent
from .runs import Values

# For fitted powers of the width, as in `nf.width`: half the distance between promised powers, which are multiples of ½.
TOLERANCE = 0.25
WITHIN = f"within {TOLERANCE:g} by two standard errors"


def slope(values: Values, against: str, between: tuple[Any, Any] | None = None) -> Values:
    """d log(value) / d log(setting) of each run between two settings, by default the two smallest."""
    first, second = np.sort(values[against].values)[:2] if between is None else between
    rise: Any = np.log(values.sel({against: second}, drop=True) / values.sel({against: first}, drop=True))
    return rise / np.log(second / first)


def exponent(values: Values, against: str = "width") -> WidthExponent:
    """The power of the width in a size over (width, seed); NaN if a size is undefined or not positive."""
    sizes = values.transpose(against, "seed").values
    if not (np.isfinite(sizes).all() and sizes.min() > 0):
        return WidthExponent(np.nan, np.nan)
    return width_exponent(values[against].values.tolist(), sizes)


def verdict(fits: Sequence[WidthExponent], promised: Sequence[float]) -> bool | None:
    """Whether all powers equal the promised ones within the tolerance, with a margin of two standard errors.

    False if one is outside by two standard errors, or undefined; None if the fits do not decide, as in `nf.width`.
    """
    gaps = [(abs(fit.exponent - power), 2 * fit.error) for fit, power in zip(fits, promised, strict=True)]
    if all(gap + spare <= TOLERANCE for gap, spare in gaps):
        return True
    return None if all(gap - spare <= TOLERANCE for gap, spare in gaps) else False


def power_as_text(fit: WidthExponent) -> str:
    """An exponent as text."""
    return f"{round(fit.exponent, 2) + 0.0:+.2f} ± {fit.error:.2f}".replace("-", "−")  # no −0.00


def powers_as_text(powers: Sequence[float]) -> str:
    """Promised powers, as `power_as_text` writes fitted ones."""
    return ", ".join(f"{power + 0.0:+g}".replace("-", "−") if power else "0" for power in powers)
