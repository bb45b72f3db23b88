"""The spectrum of the features before one step and after steps of four sizes, and what of it is predicted."""

from typing import TYPE_CHECKING, Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ...data import Dataset
from ...nets import MLP
from ...one_step import feature_spectrum, features, observed_spikes, one_step, sizes
from ...plot.style import GRAY, PALETTE, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, looped
from ...theory import feature_bulk_edge, feature_outliers, spike_matrix
from ..claims import Claim, judged
from ..old_experiment import OldExperiment
from .common import PHI, PSI, TEACHER, THEORY, direction_of, draw, expansion, look

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACTIVATION = "relu"
_AGREES = 0.08


def grid(quick: bool) -> Grid:
    """Four sizes of the step × seeds."""
    samples = looped([500 if quick else 2000])
    return Grid(samples=samples, alpha=[0.1, 0.2, 0.3, 0.42], seed=range(8 if quick else 16))


def one_run(key: PRNGKeyArray, samples: int, alpha: float | Array) -> Trajectory:
    """A step of size n^α."""
    drawn = draw(key, samples, _ACTIVATION, TEACHER)
    after = one_step(drawn.net, drawn.batch, samples**alpha)
    return look(key, drawn, after, before=eqx.Partial(_before, net=drawn.net, samples=samples))


def _before(after: MLP, data: Dataset, net: MLP, samples: int) -> Float[Array, " r"]:
    return feature_spectrum(features(net, data.x[:samples])).singular_values


def predicted(samples: int, alpha: float) -> Float[np.ndarray, " s"]:
    """The singular values outside the bulk after a step of size n^α."""
    direction = direction_of(_ACTIVATION)
    S = spike_matrix(_ACTIVATION, samples**alpha, direction, sizes(samples, PHI, PSI).width)
    return feature_outliers(S, PHI, PSI, expansion(_ACTIVATION), own=direction.own)


def _edge() -> float:
    return feature_bulk_edge(PHI, PSI, expansion(_ACTIVATION))


def figure(dataset: "xarray.Dataset") -> "Figure":
    """Histograms of all singular values of all seeds, before and after, and the spikes of each seed."""
    alphas = dataset["alpha"].values
    sheet, axes = new_figure(len(alphas))
    entries: dict[str, Any] = {}
    for ax, alpha in zip(axes, alphas, strict=True):
        entries |= _draw_spectrum(ax, dataset.sel(alpha=alpha).isel(samples=0), float(alpha))
    axes[0].set_ylabel("density")
    n = int(dataset["samples"].values[0])
    legend_below(sheet, entries, f"{_ACTIVATION}, $n = {n}$, step $\\eta = n^\\alpha$; {dataset.sizes['seed']} seeds")
    return sheet


def _draw_spectrum(ax: "Axes", runs: "xarray.Dataset", alpha: float) -> dict[str, Any]:
    before, after = runs["before_at_end"].values, runs["features.singular_values_at_end"].values
    top = np.sqrt(max(after.max(), 1.5 * _edge()))
    bins = np.linspace(0, top, 60) ** 2  # finer near zero, where the bulk is
    outline: Any = ax.hist(before.ravel(), bins, density=True, histtype="step", color=GRAY)[2]
    filled: Any = ax.hist(after.ravel(), bins, density=True, color=PALETTE[0], alpha=0.5)[2]
    entries: dict[str, Any] = {"before the step": outline[0], "after": filled[0]}
    for row in after:
        spikes = row[: observed_spikes(row)]
        marks = ax.plot(spikes, np.full(spikes.size, 0.02), "|", color=PALETTE[1], transform=ax.get_xaxis_transform())
        entries["spikes seen, each seed"] = marks[0]
    entries["predicted edge of the bulk"] = ax.axvline(_edge(), color="black", linewidth=1.0)
    for place in predicted(int(runs["samples"]), alpha):
        entries["predicted spikes"] = ax.axvline(place, **THEORY)
    ax.set(title=f"$\\alpha = {alpha:g}$", xlabel="singular value / $\\sqrt{n}$", yscale="log")
    return entries


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """Where the bulk ends, and that the spikes are where they are predicted."""
    largest = dataset["before_at_end"].max("before[1]").values
    n, ratio = int(dataset["samples"].values[0]), float(np.median(largest) / _edge())
    margin = 2 * n ** (-2 / 3)
    found = [
        judged(
            "features before the step: the bulk ends at its predicted edge",
            f"within 2n^−⅔ = {margin:.3f} of {_edge():.3f}",
            f"{np.median(largest):.3f}",
            abs(ratio - 1) <= margin,
            dataset,
            ["before_at_end"],
        )
    ]
    for alpha in dataset["alpha"].values:
        runs = dataset.sel(alpha=alpha).isel(samples=0)
        after, expected = runs["features.singular_values_at_end"].values, predicted(n, float(alpha))
        seen = np.median(after[:, : len(expected)], axis=0)
        counts = [observed_spikes(row) for row in after]
        agrees = bool(np.all(np.abs(seen / expected - 1) <= _AGREES))
        told = lambda values: ", ".join(f"{each:.2f}" for each in values) or "none"
        found.append(
            judged(
                f"{_ACTIVATION}, n = {n}, α = {alpha:g}: spikes where they are predicted",
                f"{told(expected)}, within {100 * _AGREES:g} %",
                f"{told(seen)}; {min(counts)}–{max(counts)} stand out",
                agrees,
                runs,
                ["features.singular_values_at_end"],
            )
        )
    return found


SPECTRA = OldExperiment(
    name="spectra",
    question="What does one step do to the spectrum of the features, and is it where it is predicted?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(15, 80),
)
