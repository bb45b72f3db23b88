"""One question of a study: what is run to answer it, what is drawn, and what is claimed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..run.trajectory import Trajectory
from ..sweep import Grid
from .claims import Claim, Count, of_finished

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Experiment:
    """One question of a study.

    **Arguments:**
    - `name`: of its files and on the command line.
    - `question`: in one line.
    - `one_run`, `grid`: what `nf.sweep` is called with; `grid(quick)` is the small grid or the full one.
    - `figure`: from the dataset of the sweep to a figure; it computes nothing that takes long.
    - `claims`: from the dataset to what it says, as `judge` calls it.
    - `seconds`: what the quick and the full grid take on two cores, for the estimate of what is left.
    """

    name: str
    question: str
    one_run: Callable[..., Trajectory]
    grid: Callable[[bool], Grid]
    figure: "Callable[[xarray.Dataset], Figure]"
    claims: "Callable[[xarray.Dataset], Sequence[Claim]]"
    seconds: tuple[int, int]

    def judge(self, dataset: "xarray.Dataset") -> list[Claim]:
        """What the runs say. Of runs that failed the claims have NaN, and may have too few others to say anything."""
        try:
            return list(self.claims(of_finished(dataset)))
        except Exception as error:  # of whatever computes with these numbers
            count = Count.of(dataset)
            if not count.failed:
                raise
            return [Claim(self.question, "", f"not enough runs came to their end ({error})", count.told(), "undecided")]


def quantiles(values: "xarray.DataArray | np.ndarray", form: str = "{:.2g}") -> str:
    """Median (10 %–90 %) of what is finite among the values, as text; "undefined" where nothing is."""
    finite = np.asarray(values, float).ravel()
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return "undefined"
    low, median, high = (form.format(each) for each in np.quantile(finite, (0.1, 0.5, 0.9)))
    return f"{median} ({low}–{high})"
