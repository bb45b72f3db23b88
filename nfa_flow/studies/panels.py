"""The panels of an experiment's figure: medians and bands of its runs, with baselines and theory.

A panel draws runs into axes and returns the entries of the legend, label → artist; any function that does so is a
panel. Theory is dashed and black. The same networks at t = 0 are dotted and gray; other, untrained networks are gray
with dots and dashes. Everything else is the median over the seeds with the range from 10 % to 90 %.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plot.at_end import draw_ends
from ..plot.bands import bands
from ..plot.style import AT_START, GRAY, color_of, label_of, legend_inside, swatch, text_of
from ..width import width_limit
from .intervals import wilson
from .runs import UNTRAINED, Runs, Values, Where, at_the_end, chosen

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:  # matplotlib is imported only when it is used
    Axes = Any

Entries = dict[str, Any]
Panel = Callable[[Axes, Runs], Entries]

THEORY: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1.2, "zorder": 5}
START: dict[str, Any] = {"color": GRAY, "linestyle": ":", "linewidth": 1.2, "zorder": 0}
BASELINE: dict[str, Any] = START | {"linestyle": "-."}
_LIMIT: dict[str, Any] = {"color": "black", "marker": "x", "linestyle": "", "zorder": 5, "clip_on": False}


@dataclass(frozen=True)
class Slope:
    """A power law as theory: a line of this slope in logarithms, through the middle of the medians.

    **Arguments:** `power`: one for all, or label of the hue → power (None for no line); `through`: the settings whose
    medians the line passes through, by default all.
    """

    power: float | Mapping[Any, float | None]
    through: Where = field(default_factory=dict)


# The theory of a panel: a number; a function of the horizontal axis; the name of a variable of the runs, such as a
# closed form for each run; or a power law.
Law = float | str | Slope | Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class _Panel:
    """The arguments that all panels share.

    **Arguments:** `name`: the variable; `of`: the settings of the runs to draw, as in `runs.chosen`; `hue`: the
    dimension with one color for each label; `law`: the theory, and `theory` its name, in a legend inside the axes;
    `baseline`: the label of other, untrained networks, which are drawn if it is given, from the variable
    `untrained.NAME`; `own_legend`: whether the colors are explained inside the axes, because they mean something else
    in other panels; `prefix`: text before the labels of the colors in the figure's legend; `title`; `label`: of the
    vertical axis; `axis`: further settings of the axes.
    """

    name: str
    _: KW_ONLY
    hue: str | None = None
    of: Where = field(default_factory=dict)
    law: Law | None = None
    theory: str = ""
    baseline: str = ""
    own_legend: bool = False
    prefix: str = ""
    title: str = ""
    label: str = ""
    axis: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, ax: Axes, dataset: Runs) -> Entries:
        """Draw the runs of this panel; nothing if there are none (see `is_empty`)."""
        runs = chosen(dataset, self.of)
        return {} if runs is None else self.draw(ax, runs)

    @abstractmethod
    def draw(self, ax: Axes, runs: Runs) -> Entries:
        """Draw these runs."""

    def _finish(self, ax: Axes, runs: Runs, against: str, xlabel: str) -> None:
        ax.set(title=self.title, ylabel=self.label or label_of(self.name), xlabel=xlabel)
        ax.set(**self.axis)

    def _legend(self, ax: Axes, runs: Runs, **style: Any) -> Entries:
        """The entries of colors and law for the figure's legend, unless they are explained inside these axes."""
        hues = self._hues(runs, **style)
        law = {} if self.law is None else {self.theory or "theory": swatch(**THEORY)}
        legend_inside(ax, (hues if self.own_legend else {}) | (law if self.theory else {}))
        return ({} if self.own_legend else hues) | ({} if self.theory else law)

    def _hues(self, runs: Runs, **style: Any) -> Entries:
        """A legend entry for each color that is used."""
        if self.hue is None:
            return {}
        drawn = at_the_end(runs, self.name).notnull()
        is_drawn = drawn.any([dim for dim in drawn.dims if dim != self.hue]).values
        labels = list(enumerate(runs[self.hue].values.tolist()))
        color = lambda i: swatch(color_of(i, len(labels)), **style)
        text = lambda label: self.prefix + legend_text(runs, self.hue or "", label)
        return {text(label): color(i) for i, label in labels if is_drawn[i]}


def is_empty(panel: Panel, dataset: Runs) -> bool:
    """Whether the runs lack the settings of a panel, which is possible at the smaller sizes of a study."""
    return isinstance(panel, _Panel) and chosen(dataset, panel.of) is None


@dataclass(frozen=True)
class Through(_Panel):
    """An observable over time; the law is a function of time, a number, or a variable of the runs."""

    def draw(self, ax: Axes, runs: Runs) -> Entries:
        bands(runs, self.name, hue=self.hue, ax=ax, legend=False)
        self._finish(ax, runs, "time", ax.get_xlabel())
        entries = {AT_START: swatch(**START)}
        if self.baseline:
            entries |= _across(ax, runs, self.name, self.baseline)
        if self.law is not None and runs[self.name].notnull().any():
            self._draw_law(ax, runs)
        return self._legend(ax, runs) | entries

    def _draw_law(self, ax: Axes, runs: Runs) -> None:
        if isinstance(self.law, int | float):
            ax.axhline(self.law, **THEORY)
            return
        if isinstance(self.law, str):
            times = runs["time"].values[1:]
            lines = _middle(runs[self.law], "seed").transpose("time", ...).values[1:].reshape(times.size, -1)
        else:
            assert callable(self.law)
            times = _between(np.array(ax.get_xlim()), ax.get_xscale())
            lines = self.law(times)
        ax.plot(times, lines, **THEORY)


@dataclass(frozen=True)
class AtEnd(_Panel):
    """One number of each run, such as an observable at its end, against a setting: medians with bars.

    **Arguments:** `against`: the dimension on the horizontal axis; `over`: the dimensions over which medians and bars
    are computed; `starts`: whether the same networks at t = 0 are drawn.
    """

    against: str
    _: KW_ONLY
    over: Sequence[str] = ("seed",)
    starts: bool = False

    def draw(self, ax: Axes, runs: Runs) -> Entries:
        values = self._values(at_the_end(runs, self.name))
        places = draw_ends(ax, values, self.against, over="run", hue=self.hue)
        for place, is_defined in zip(
            places, values.notnull().any([dim for dim in values.dims if dim != self.against]).values, strict=True
        ):
            if not is_defined:
                at: Any = {"transform": ax.get_xaxis_transform(), "rotation": 90, "ha": "center", "fontsize": 7.5}
                ax.text(float(place), 0.03, "undefined", **at)
        entries: Entries = {}
        if self.starts:
            start = self._values(runs[self.name].isel(time=0)).median("run")
            for i, each in enumerate(_by_hue(start, self.hue)):
                ax.plot(places, each, **START | {"color": color_of(i, values.sizes.get(self.hue, 1))})
            entries[AT_START] = swatch(**START)
        if self.baseline:
            null = at_the_end(runs, f"{UNTRAINED}{self.name}")
            if self.against in null.dims and places.size > 1:
                null = null.median([dim for dim in null.dims if dim not in (self.against, self.hue)])
                for i, each in enumerate(_by_hue(null, self.hue)):
                    style: Any = BASELINE | (
                        {"color": color_of(i, null.sizes[self.hue])} if self.hue in null.dims else {}
                    )
                    ax.plot(places, each, **style)
                entries[self.baseline] = swatch(**BASELINE)
            else:
                entries |= _across(ax, runs, self.name, self.baseline)
        self._finish(ax, runs, self.against, _long_name(runs, self.against) or self.against.replace("_", " "))
        if self.law is not None:
            limits = ax.get_ylim()
            self._draw_law(ax, runs, values, places)
            if isinstance(self.law, Slope):
                ax.set_ylim(limits)
        return self._legend(ax, runs, marker="o", markersize=3.5) | entries

    def _values(self, values: Values) -> Values:
        """The values over `against`, the hue and `run`; other dimensions of length one are dropped."""
        used = {self.against, self.hue, *self.over}
        values = values.squeeze([dim for dim in values.dims if dim not in used and values.sizes[dim] == 1], drop=True)
        pooled = [dim for dim in self.over if dim in values.dims]
        return values.stack(run=pooled, create_index=False) if pooled else values.expand_dims("run")

    def _draw_law(self, ax: Axes, runs: Runs, values: Values, places: np.ndarray) -> None:
        law, x = self.law, values[self.against].values
        if isinstance(law, int | float):
            ax.axhline(law, **THEORY)
        elif isinstance(law, str):
            for each in _by_hue(_middle(self._values(at_the_end(runs, law)), "run"), self.hue):
                ax.plot(places, each, **THEORY)
        elif isinstance(law, Slope):
            _draw_slopes(ax, law, values.median("run"), self.against, self.hue, places)
        elif law is not None:
            fine = _between(x, ax.get_xscale()) if x.dtype.kind == "f" and np.array_equal(places, x) else x
            ax.plot(places if fine is x else fine, law(fine), **THEORY)


@dataclass(frozen=True)
class AgainstWidth(AtEnd):
    """A size at the end against the width, on logarithmic axes of at least one decade, so that constants look flat."""

    against: str = "width"

    def _finish(self, ax: Axes, runs: Runs, against: str, xlabel: str) -> None:
        set_widths(ax, runs[against].values)
        super()._finish(ax, runs, against, "width $n$")


def set_widths(ax: Axes, widths: np.ndarray) -> None:
    """Set logarithmic axes, with at least one decade for the sizes."""
    ax.set(xscale="log", yscale="log", xlabel="width $n$")
    ax.set_xticks(widths, [str(width) for width in widths])
    ax.set_xticks([], minor=True)
    low, high = np.log10(ax.get_ylim())
    if high - low < 1:
        ax.set_ylim(10 ** ((low + high - 1) / 2), 10 ** ((low + high + 1) / 2))


@dataclass(frozen=True)
class Points(_Panel):
    """One number of each run against another, both logarithmic unless `axis` says otherwise.

    **Arguments:** `against`: the number on the horizontal axis, and `xlabel` its label; the law is a function of it, or
    a power law.
    """

    against: str
    _: KW_ONLY
    xlabel: str = ""

    def draw(self, ax: Axes, runs: Runs) -> Entries:
        x, y = (at_the_end(runs, name) for name in (self.against, self.name))
        size = {"s": 7, "linewidth": 0, "alpha": 0.6}
        if self.baseline:
            ax.scatter(
                *(at_the_end(runs, f"{UNTRAINED}{name}") for name in (self.against, self.name)), color=GRAY, **size
            )
        for i, (xs, ys) in enumerate(zip(_by_hue(x, self.hue), _by_hue(y, self.hue), strict=True)):
            ax.scatter(xs.values.ravel(), ys.values.ravel(), color=color_of(i, x.sizes.get(self.hue, 1)), **size)
        ax.set(xscale="log", yscale="log")
        self._finish(ax, runs, self.against, self.xlabel or label_of(self.against))
        if self.law is not None:
            limits, places = ax.axis(), _between(np.array(ax.get_xlim()), ax.get_xscale())
            if isinstance(self.law, Slope):
                x_0, y_0 = (float(each.sel(self.law.through).median()) for each in (x, y))
                power: Any = self.law.power  # one power for all colors
                ax.plot(places, y_0 * (places / x_0) ** power, **THEORY)
            else:
                assert callable(self.law)
                ax.plot(places, self.law(places), **THEORY)
            ax.axis(limits)
        return self._legend(ax, runs, marker="o", linewidth=0, markersize=3)


@dataclass(frozen=True)
class Distribution(_Panel):
    """The distribution function of one number of each run, with its 95 % interval at each point (Wilson 1927).

    **Arguments:** `style`: the dimension with one line style for each label; `up_to`: the end of the horizontal axis.
    """

    style: str
    _: KW_ONLY
    up_to: float = 1.0

    def draw(self, ax: Axes, runs: Runs) -> Entries:
        entries: Entries = {}
        if self.baseline:
            null = at_the_end(runs, f"{UNTRAINED}{self.name}").values.ravel()
            entries[self.baseline] = self._draw(ax, null, GRAY, "-.")
        for i, of_hue in enumerate(_by_hue(at_the_end(runs, self.name), self.hue)):
            for each, line in zip(_by_hue(of_hue, self.style), ("-", "--", ":"), strict=False):
                self._draw(ax, each.values.ravel(), color_of(i, runs.sizes[self.hue]), line)
                entries[legend_text(runs, self.style, each[self.style].item())] = swatch(linestyle=line)
        self._finish(ax, runs, self.name, self.label or label_of(self.name))
        ax.set(ylabel="fraction up to it")
        return self._legend(ax, runs) | entries

    def _draw(self, ax: Axes, values: np.ndarray, color: Any, line: str) -> Any:
        points, finite = np.linspace(0, self.up_to, 401), np.sort(values[np.isfinite(values)])
        counts = np.searchsorted(finite, points, side="right")
        if finite.size:
            ax.plot(points, counts / finite.size, color=color, linestyle=line, linewidth=1.4)
            ax.fill_between(points, *wilson(counts, finite.size), color=color, alpha=0.15, linewidth=0)
        return swatch(color, linestyle=line)


@dataclass(frozen=True)
class Extrapolated(_Panel):
    """Means over the seeds with their standard errors against 1/n, and the fitted line.

    **Arguments:** `against`: the dimension of n; `law`: the variable with the limit of the means.
    """

    against: str
    _: KW_ONLY
    law: str = ""

    def draw(self, ax: Axes, runs: Runs) -> Entries:
        values = at_the_end(runs, self.name).dropna("seed")  # NaN of failed runs
        n = values[self.against].values
        for i, each in enumerate(_by_hue(values, self.hue)):
            color = color_of(i, values.sizes.get(self.hue, 1))
            draw_means(ax, 1 / n, each, color, linestyle="")
            if values.sizes["seed"] > 1:
                fit = width_limit(n.tolist(), each.transpose(self.against, "seed").values)
                ax.plot([0, 1 / n[0]], [fit.limit, fit.limit + fit.slope / n[0]], color=color)
        self._finish(ax, runs, self.against, "$1/n$")
        ax.set_xlim(0)
        limits = at_the_end(runs, self.law).values.ravel()
        ax.plot(np.zeros(limits.size), limits, **_LIMIT)
        return self._hues(runs, marker="o", markersize=3.5) | {"limit, theory": swatch(**_LIMIT)}


def draw_means(ax: Axes, x: np.ndarray, values: Values, color: Any, **style: Any) -> None:
    """Draw means over the seeds with their standard errors at these x."""
    mean, error = values.mean("seed"), values.std("seed", ddof=1) / values.sizes["seed"] ** 0.5
    ax.errorbar(x, mean, error, color=color, marker="o", markersize=3.5, capsize=2, linewidth=1.2, **style)


def _across(ax: Axes, runs: Runs, name: str, label: str) -> Entries:
    """The median of the untrained networks of all settings, as a line across the panel."""
    null = at_the_end(runs, f"{UNTRAINED}{name}").values
    finite = null[np.isfinite(null)]
    return {label: ax.axhline(float(np.median(finite)), **BASELINE)} if finite.size else {}


def legend_text(runs: Runs, dim: str, label: Any) -> str:
    """A label in a legend: words unchanged, numbers with the symbol of their axis."""
    if isinstance(label, str):
        return label
    symbol = _long_name(runs, dim).partition("$")[2].partition("$")[0]
    return f"${symbol} = {text_of(label)}$" if symbol else f"{dim.replace('_', ' ')} = {text_of(label)}"


def _long_name(runs: Runs, dim: str) -> str:
    return runs[dim].attrs.get("long_name", "") if dim in runs.coords else ""


def _middle(values: Values, dim: str) -> Values:
    """The median over the runs, if the values depend on the run."""
    return values.median(dim) if dim in values.dims else values


def _by_hue(values: Values, hue: str | None) -> list[Values]:
    if hue is None or hue not in values.dims:
        return [values]
    return [values.sel({hue: label}) for label in values[hue].values]


def _draw_slopes(ax: Axes, law: Slope, medians: Values, against: str, hue: str | None, places: np.ndarray) -> None:
    x = medians[against]
    if isinstance(law.power, Mapping):
        powers = [(medians.sel({hue: label}), law.power.get(label)) for label in medians[hue].values.tolist()]
    else:
        powers = [(medians, law.power)]
    for each, power in powers:
        anchor = each.sel(law.through)
        known: Any = np.log(anchor.where(anchor > 0))
        if power is not None and bool(known.notnull().any()):
            center = (
                float(np.exp(np.log(x.where(known.notnull())).mean()))
                if against in anchor.dims
                else float(anchor[against])
            )
            ax.plot(places, float(np.exp(known.mean())) * (x / center) ** power, **THEORY)


def _between(x: np.ndarray, scale: str) -> np.ndarray:
    """50 points from the smallest setting to the largest."""
    return (np.geomspace if scale == "log" else np.linspace)(x.min(), x.max(), 50)
