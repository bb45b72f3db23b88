"""One question of a study: what is run to answer it, what is drawn, and what is claimed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..sweep import Grid
from ..trajectory import Trajectory

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


class Claim(NamedTuple):
    """A statement, what it says of a number, what was measured, and whether that agrees; None for a mere report."""

    statement: str
    expected: str
    measured: str
    holds: bool | None


@dataclass(frozen=True)
class Experiment:
    """One question of a study.

    **Arguments:**
    - `name`: of its files and on the command line.
    - `question`: in one line.
    - `one_run`, `grid`: what `nf.sweep` is called with; `grid(quick)` is the small grid or the full one.
    - `figure`: from the dataset of the sweep to a figure; it computes nothing that takes long.
    - `claims`: from the dataset to what it says.
    - `seconds`: what the quick and the full grid take on two cores, for the estimate of what is left.
    """

    name: str
    question: str
    one_run: Callable[..., Trajectory]
    grid: Callable[[bool], Grid]
    figure: "Callable[[xarray.Dataset], Figure]"
    claims: "Callable[[xarray.Dataset], Sequence[Claim]]"
    seconds: tuple[int, int]


def quantiles(values: "xarray.DataArray | np.ndarray", form: str = "{:.2g}") -> str:
    """Median (10 %–90 %) of what is finite among the values, as text; "undefined" where nothing is."""
    finite = np.asarray(values, float).ravel()
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return "undefined"
    low, median, high = (form.format(each) for each in np.quantile(finite, (0.1, 0.5, 0.9)))
    return f"{median} ({low}–{high})"
