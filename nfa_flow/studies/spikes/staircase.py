"""Losses after one step against α as n grows: a staircase in the limit, and what is left of it at practical sizes.

A spike of order k is larger than the bulk by n^{kα − (k−1)/2} only, so the stairs are smooth at every n within reach.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ...one_step import one_step
from ...plot.style import color_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, looped
from ...theory import spike_boundaries, spike_orders
from ..claims import Claim, reported
from ..old_experiment import OldExperiment
from .common import TEACHER, draw, expansion, look
from .ridge_error import limit, of_finite_spikes

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

_ACTIVATION = "relu"
_LOSSES = ("train", "test")


def grid(quick: bool) -> Grid:
    """Numbers of samples × sizes of the step × seeds."""
    return Grid(
        samples=looped([200, 800] if quick else [250, 500, 1000, 2000, 4000]),
        alpha=[0.05, 0.2, 0.3, 0.42] if quick else [0.02, 0.08, 0.14, 0.2, 0.26, 0.32, 0.38, 0.44],
        seed=range(8),
    )


def one_run(key: PRNGKeyArray, samples: int, alpha: float | Array) -> Trajectory:
    """A step of size n^α."""
    drawn = draw(key, samples, _ACTIVATION, TEACHER)
    return look(key, drawn, one_step(drawn.net, drawn.batch, samples**alpha))


def staircase(alphas: np.ndarray) -> Float[np.ndarray, "2 a"]:
    """The limits of training and test loss at each α, which is on no boundary."""
    orders = [spike_orders(float(alpha), expansion(_ACTIVATION)) for alpha in alphas]
    of = {each: limit(TEACHER, _ACTIVATION, each) for each in set(orders)}
    return np.array([of[each] for each in orders]).T


def figure(dataset: "xarray.Dataset") -> "Figure":
    """Training and test loss against α, for each n beside the theory at that n, and the limit."""
    alphas, counts = dataset["alpha"].values, dataset["samples"].values.tolist()
    sheet, axes = new_figure(2)
    sheet.set_figwidth(9)
    fine = np.linspace(alphas[0], alphas[-1], 16)
    stairs = np.setdiff1d(np.linspace(alphas[0], alphas[-1], 400), spike_boundaries(12))
    entries: dict[str, Any] = {}
    for j, n in enumerate(counts):
        color = color_of(j, len(counts))
        theory = np.array([of_finite_spikes(n, TEACHER, _ACTIVATION, alpha) for alpha in fine]).T
        for ax, name, values in zip(axes, _LOSSES, theory, strict=True):
            runs = dataset[f"features.{name}_at_end"].sel(samples=n)
            mean, error = runs.mean("seed").values, runs.std("seed").values / dataset.sizes["seed"] ** 0.5
            entries[f"$n = {n}$"] = ax.errorbar(alphas, mean, error, color=color, marker="o", markersize=3, capsize=2)
            entries["spikes of this size, theory"] = ax.plot(fine, values, color=color, linestyle="--", linewidth=1)[0]
    for ax, name, values in zip(axes, _LOSSES, staircase(stairs), strict=True):
        entries["limit $n \\to \\infty$"] = ax.plot(stairs, values, color="black", linewidth=1.2)[0]
        ax.set(title=f"{name} loss / mean $y^2$", xlabel="exponent $\\alpha$")
    seeds = dataset.sizes["seed"]
    legend_below(sheet, entries, f"{_ACTIVATION}, step $\\eta = n^\\alpha$; mean and standard error over {seeds} seeds")
    return sheet


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """Whether the losses come nearer to the theory with spikes of their size, and to the limit, as n grows."""
    alphas, counts = dataset["alpha"].values, dataset["samples"].values.tolist()
    found = []
    for i, name in enumerate(_LOSSES):
        means = dataset[f"features.{name}_at_end"].mean("seed").transpose("samples", "alpha").values
        finite = [[of_finite_spikes(n, TEACHER, _ACTIVATION, float(a))[i] for a in alphas] for n in counts]
        for expected, what in ((np.array(finite), "spikes of their size"), (staircase(alphas)[i], "the limit")):
            off = np.sqrt(np.mean((means / expected - 1) ** 2, axis=1))
            told = ", ".join(f"{100 * each:.1f} % (n = {n})" for n, each in zip(counts, off, strict=True))
            found.append(reported(f"{name} loss: rms distance from the theory with {what}", told, dataset))
    return found


STAIRCASE = OldExperiment(
    name="staircase",
    question="Is there a staircase in alpha at sizes within reach?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(20, 530),
)
