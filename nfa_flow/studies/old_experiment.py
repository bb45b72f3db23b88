"""Experiments that draw and judge by themselves, until they use the vocabulary; `experiment` is what replaces this."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..run.trajectory import Trajectory
from ..sweep import Grid
from .claims import Claim, Count, of_finished
from .runs import quantiles as quantiles

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class OldExperiment:
    """One question of a study."""

    name: str
    question: str
    one_run: Callable[..., Trajectory]
    make_grid: Callable[[bool], Grid]
    figure: "Callable[[xarray.Dataset], Figure]"
    claims: "Callable[[xarray.Dataset], Sequence[Claim]]"
    seconds: tuple[int, int]

    def grid(self, size: str = "full") -> Grid:
        """The full grid, or the quick one for all other sizes."""
        return self.make_grid(size != "full")

    def judge(self, dataset: "xarray.Dataset") -> list[Claim]:
        """What the runs say. Of runs that failed the claims have NaN, and may have too few others to say anything."""
        try:
            return list(self.claims(of_finished(dataset)))
        except Exception as error:  # of whatever computes with these numbers
            count = Count.of(dataset)
            if not count.failed:
                raise
            return [Claim(self.question, "", f"not enough runs came to their end ({error})", count.told(), "undecided")]
