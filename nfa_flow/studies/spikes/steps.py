"""The same time η in one step, in several, or along the exact flow of the first layer: is one large step special?

Small steps come to a stop where the first layer has fitted the batch; one large step runs far past that, and so its
spikes are larger. This is an extension of the paper, without a theory to compare with.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ...one_step import flow_step, observed_spikes, one_step
from ...plot.style import PALETTE, entries_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, looped
from ..claims import Claim, reported
from ..old_experiment import OldExperiment
from .common import TEACHER, draw, look, middle

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

_ACTIVATION = "softplus"
WAYS: dict[str, Callable[..., Any]] = {
    "1 step": one_step,
    "2 steps": partial(one_step, steps=2),
    "10 steps": partial(one_step, steps=10),
    "exact flow": flow_step,
}


def grid(quick: bool) -> Grid:
    """Ways to spend the time × the time × seeds."""
    return Grid(
        samples=looped([300 if quick else 1000]),
        way=looped({name: WAYS[name] for name in (("1 step", "exact flow") if quick else WAYS)}),
        alpha=[0.1, 0.25, 0.42] if quick else [0.0, 0.1, 0.2, 0.3, 0.36, 0.42],
        seed=range(8),
    )


def one_run(key: PRNGKeyArray, samples: int, way: Callable[..., Any], alpha: float | Array) -> Trajectory:
    """The time n^α, spent in this way."""
    drawn = draw(key, samples, _ACTIVATION, TEACHER)
    return look(key, drawn, way(drawn.net, drawn.batch, samples**alpha))


_PANELS = {
    "first": "first singular value / $\\sqrt{n}$",
    "second": "second singular value / $\\sqrt{n}$",
    "train": "training loss / mean $y^2$",
    "test": "test loss / mean $y^2$",
}


def _values(dataset: "xarray.Dataset", name: str) -> np.ndarray:
    """A number of each run, way × α × seed."""
    if name in ("train", "test"):
        found = dataset[f"features.{name}_at_end"]
    else:
        place = {"features.singular_values[1]": 0 if name == "first" else 1}
        found = dataset["features.singular_values_at_end"].isel(place)
    return found.isel(samples=0).transpose("way", "alpha", "seed").values


def figure(dataset: "xarray.Dataset") -> "Figure":
    """The first two singular values and both losses against α, for each way."""
    sheet, axes = new_figure(len(_PANELS))
    alphas, entries = dataset["alpha"].values, {}
    for ax, (name, title) in zip(axes, _PANELS.items(), strict=True):
        for i, (way, values) in enumerate(zip(dataset["way"].values, _values(dataset, name), strict=True)):
            low, median, high = middle(values)
            ax.plot(alphas, median, color=PALETTE[i], marker="o", markersize=3, label=way)
            ax.fill_between(alphas, low, high, color=PALETTE[i], alpha=0.2, linewidth=0)
        ax.set(title=title, xlabel="time $\\eta = n^\\alpha$, exponent $\\alpha$")
        entries |= entries_of(ax)
    n, seeds = int(dataset["samples"].values[0]), dataset.sizes["seed"]
    legend_below(sheet, entries, f"{_ACTIVATION}, $n = {n}$; median and 10–90 % over {seeds} seeds")
    return sheet


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """What each way ends with at the longest time."""
    last = dataset.isel(samples=0, alpha=-1)
    rows = last["features.singular_values_at_end"].transpose("way", "seed", ...).values
    found = []
    for i, way in enumerate(dataset["way"].values):
        first, second, _, test = (np.median(_values(dataset, name)[i, -1]) for name in _PANELS)
        counts = [observed_spikes(row) for row in rows[i]]
        measured = f"{first:.2f}, {second:.2f}; {min(counts)}–{max(counts)} stand out; test loss {test:.3f}"
        statement = f"{way}, α = {float(last['alpha']):g}: first singular values"
        found.append(reported(statement, measured, last.isel(way=[i])))
    small, way = _values(dataset, "first")[:, 0], dataset["way"].values[-1]
    off = float(np.median(np.abs(small[-1] / small[0] - 1)))
    statement = f"α = {dataset['alpha'].values[0]:g}: the first singular value after one step beside that of the {way}"
    compared = dataset.isel(samples=0, alpha=0, way=[0, -1])
    return [*found, reported(statement, f"off by {100 * off:.1f} %", compared)]


STEPS = OldExperiment(
    name="steps",
    question="Does one large step do what many small ones or the flow do in the same time?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(30, 210),
)
