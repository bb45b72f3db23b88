"""One question of a study: its runs, its figure and its claims."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..plot.style import legend_below, new_figure
from ..run.trajectory import Trajectory
from ..sweep import Grid
from .axes import Axis, grid
from .claims import Claim, Count, of_finished
from .panels import Panel, is_empty, legend_text
from .runs import Runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Panels = Sequence[Panel] | Sequence[Sequence[Panel]]

_NARROWEST = 9.0  # inches, so that a legend fits below one panel too


@dataclass(frozen=True)
class Experiment:
    """One question of a study.

    **Arguments:**
    - `name`: in names of files and on the command line.
    - `question`: in one line.
    - `axes`: name → axis of the sweep, or a function that computes a setting from axes.
    - `one_run`: the function of one run, for `nf.sweep`.
    - `panels`: the panels of the figure, in one row or in rows; or a function from the runs to them.
    - `claims`: statement → judgment, a function from the statement and the runs to claims (see `judgments`).
    - `derive`: adds variables to the runs that panels and claims share; must be fast.
    - `draw`: a function that draws the whole figure, in place of panels.
    - `shown`: the statistics over the seeds that panels show; `note`: a further sentence in the title of the legend.
    - `seconds`: the duration of the quick and of the full grid on two cores, for the estimate of the time left.
    """

    name: str
    question: str
    axes: Mapping[str, Axis | Callable[..., Any]]
    one_run: Callable[..., Trajectory]
    claims: Mapping[str, Callable[[str, Runs], Iterable[Claim]]]
    panels: Panels | Callable[[Runs], Panels] = ()
    derive: Callable[[Runs], Runs] = lambda runs: runs
    draw: "Callable[[Runs], Figure] | None" = None
    shown: str = "median and 10–90 %"
    note: str = ""
    seconds: tuple[int, int] = (20, 60)

    def grid(self, size: str = "full") -> Grid:
        """The settings of the runs at a size."""
        return grid(self.axes, size)

    def figure(self, dataset: Runs) -> "Figure":
        """The figure: panels with one legend, of the runs that did not fail."""
        runs = self._prepared(dataset)
        if self.draw is not None:
            return self.draw(runs)
        panels: Any = self.panels(runs) if callable(self.panels) else self.panels
        rows = [panels] if callable(panels[0]) else panels
        rows = [[panel for panel in row if not is_empty(panel, runs)] for row in rows]
        rows = [row for row in rows if row]
        columns = max(map(len, rows))
        sheet, axes = new_figure(columns, len(rows))
        sheet.set_figwidth(max(sheet.get_figwidth(), _NARROWEST))
        entries: dict[str, Any] = {}
        for i, row in enumerate(rows):
            own = axes[i * columns : (i + 1) * columns]
            for panel, ax in zip(row, own, strict=False):
                entries |= panel(ax, runs)
            for ax in own[len(row) :]:
                ax.remove()
        said = [f"{self.shown} over {dataset.sizes['seed']} seeds", self.note, *self._settings(runs)]
        legend_below(sheet, entries, "; ".join(filter(None, said)))
        return sheet

    def _settings(self, runs: Runs) -> list[str]:
        """The settings that all runs share, as text, for axes with a label."""
        named = [name for name, axis in self.axes.items() if isinstance(axis, Axis) and axis.label and name in runs]
        return [legend_text(runs, name, runs[name].item()) for name in named if runs[name].size == 1]

    def judge(self, dataset: Runs) -> list[Claim]:
        """The claims about the runs. Failed runs count as NaN; with too few other runs, one undecided claim says so."""
        try:
            runs = self._prepared(dataset)
            return [claim for statement, judge in self.claims.items() for claim in judge(statement, runs)]
        except Exception as error:  # any error of a computation with these numbers
            count = Count.of(dataset)
            if not count.failed:
                raise
            return [
                Claim(self.question, "", f"not enough runs came to their end ({error})", count.as_text(), "undecided")
            ]

    def _prepared(self, dataset: Runs) -> Runs:
        """The runs with derived variables, and with the labels of the axes."""
        labels = {name: axis.label for name, axis in self.axes.items() if isinstance(axis, Axis) and axis.label}
        named = {name: dataset[name].assign_attrs(long_name=label) for name, label in labels.items() if name in dataset}
        return self.derive(of_finished(dataset.assign_coords(named)))
