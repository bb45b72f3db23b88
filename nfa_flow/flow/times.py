"""Save times on a logarithmic axis."""

import numpy as np
from jaxtyping import Float

from ..checks import require_integer, require_number, wrong


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
