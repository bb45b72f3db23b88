"""Confidence intervals from a few runs."""

from typing import Any

import numpy as np


def wilson(count: int | np.ndarray, total: int, z: float = 1.96) -> tuple[Any, Any]:
    """The interval of a probability from `count` successes in `total` trials, 95 % with the default z; NaN for none.

    **Source:** Wilson 1927.
    """
    if total == 0:
        return count * np.nan, count * np.nan
    p, spread = count / total, z**2 / total
    center, half = p + spread / 2, np.sqrt(p * (1 - p) * spread + spread**2 / 4)
    # Rounding must not exclude the fractions 0 and 1.
    return np.minimum((center - half) / (1 + spread), p), np.maximum((center + half) / (1 + spread), p)


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    """A 95 % interval of the median, by 2 000 draws with replacement; NaN without values.

    **Source:** Efron 1979.
    """
    if not values.size:
        return np.nan, np.nan
    draws = np.random.default_rng(0).choice(values, (2_000, values.size))
    low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
    return float(low), float(high)
