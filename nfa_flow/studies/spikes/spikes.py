"""How many spikes a step leaves, how large they are, and what they align with, against the size n^α of the step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ...one_step import observed_spikes, one_step, sizes
from ...plot.style import GRAY, PALETTE, entries_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, looped
from ...theory import (
    feature_bulk_edge,
    feature_outliers,
    spike_boundaries,
    spike_matrix,
    spike_orders,
    spike_sizes,
)
from ..claims import Claim, judged, reported
from ..old_experiment import OldExperiment
from .common import PHI, PSI, SOURCE, TEACHER, THEORY, direction_of, draw, expansion, look, middle

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN = 3  # spikes
_AGREES = 0.08
_CLEAR = 1.2  # times the edge: a spike that the bulk does not hide


def grid(quick: bool) -> Grid:
    """Activations × sizes of the step × seeds."""
    alphas = [0.05, 0.15, 0.22, 0.3, 0.36, 0.42] if quick else np.round(np.arange(0.04, 0.48, 0.03), 2).tolist()
    return Grid(
        samples=looped([500 if quick else 2000]),
        activation=["relu", "tanh"] if quick else ["relu", "softplus", "tanh"],
        alpha=alphas,
        seed=range(8),
    )


def one_run(key: PRNGKeyArray, samples: int, activation: str, alpha: float | Array) -> Trajectory:
    """A step of size n^α."""
    drawn = draw(key, samples, activation, TEACHER)
    return look(key, drawn, one_step(drawn.net, drawn.batch, samples**alpha))


def predicted(samples: int, activation: str, alphas: Sequence[float]) -> Float[np.ndarray, "s a"]:
    """The first spikes outside the bulk for each size of the step, NaN where there are fewer."""
    direction, width = direction_of(activation), sizes(samples, PHI, PSI).width
    found = np.full((_SHOWN, len(alphas)), np.nan)
    for i, alpha in enumerate(alphas):
        S = spike_matrix(activation, samples**alpha, direction, width)
        outliers = feature_outliers(S, PHI, PSI, expansion(activation), own=direction.own)[:_SHOWN]
        found[: len(outliers), i] = outliers
    return found


def figure(dataset: "xarray.Dataset") -> "Figure":
    """Singular values against α for each activation, and numbers of spikes."""
    activations = dataset["activation"].values.tolist()
    sheet, axes = new_figure(len(activations) + 1)
    entries: dict[str, Any] = {}
    for ax, activation in zip(axes, activations, strict=False):
        entries |= _draw_sizes(ax, dataset.sel(activation=activation).isel(samples=0), activation)
    axes[0].set_ylabel("singular value / $\\sqrt{n}$")
    entries |= _draw_counts(axes[-1], dataset.isel(samples=0))
    n = int(dataset["samples"].values[0])
    title = f"$n = {n}$, step $\\eta = n^\\alpha$; median and 10–90 % over {dataset.sizes['seed']} seeds"
    legend_below(sheet, entries, f"{title}; thin lines: boundaries of $\\alpha$")
    return sheet


def _draw_sizes(ax: "Axes", runs: "xarray.Dataset", activation: str) -> dict[str, Any]:
    alphas, n = runs["alpha"].values, int(runs["samples"])
    values = runs["features.singular_values_at_end"].transpose("features.singular_values[1]", "alpha", "seed").values
    for k in range(_SHOWN):
        low, median, high = middle(values[k])
        ax.plot(alphas, median, color=PALETTE[k], marker="o", markersize=3, label=f"$s_{k + 1}$ seen")
        ax.fill_between(alphas, low, high, color=PALETTE[k], alpha=0.2, linewidth=0)
    fine = np.linspace(alphas[0], alphas[-1], 30)
    entries = entries_of(ax)
    entries["spikes predicted"] = ax.plot(fine, predicted(n, activation, fine.tolist()).T, **THEORY)[0]
    orders = [k for k in (1, 2, 3) if expansion(activation).has(k)]
    direction, width = direction_of(activation), sizes(n, PHI, PSI).width
    source = [spike_sizes(n**alpha, expansion(activation), float(direction.norm), width, orders) for alpha in fine]
    entries["each order alone (source)"] = ax.plot(fine, source, **SOURCE)[0]
    edge = feature_bulk_edge(PHI, PSI, expansion(activation))
    entries["predicted edge of the bulk"] = ax.axhline(edge, color="black", linewidth=0.8)
    _mark_boundaries(ax, alphas)
    ax.set(title=activation, xlabel="exponent $\\alpha$", yscale="log", ylim=(0.7 * edge, 1.3 * values.max()))
    return entries


def _draw_counts(ax: "Axes", runs: "xarray.Dataset") -> dict[str, Any]:
    alphas = runs["alpha"].values
    for i, activation in enumerate(runs["activation"].values.tolist()):
        color = PALETTE[3 + i]
        counts = np.median(_counts(runs.sel(activation=activation)), axis=-1)
        ax.plot(alphas, counts + 0.04 * i, color=color, marker="o", markersize=3, label=f"{activation} seen")
        fine = np.setdiff1d(np.linspace(alphas[0], alphas[-1], 200), spike_boundaries(12))
        limit = [len(spike_orders(float(alpha), expansion(activation))) + 0.04 * i for alpha in fine]
        ax.plot(fine, limit, color=color, linestyle=":", linewidth=1.0)
    _mark_boundaries(ax, alphas)
    ax.set(title="how many; dotted: in the limit", xlabel="exponent $\\alpha$", yticks=range(6))
    return entries_of(ax)


def _counts(runs: "xarray.Dataset") -> np.ndarray:
    """How many spikes stand out, alpha × seed."""
    values = runs["features.singular_values_at_end"].transpose("alpha", "seed", ...).values
    return np.array([[observed_spikes(row) for row in rows] for rows in values])


def _mark_boundaries(ax: "Axes", alphas: np.ndarray) -> None:
    for boundary in spike_boundaries(8)[1:]:
        if alphas[0] < boundary < alphas[-1]:
            ax.axvline(boundary, color=GRAY, linewidth=0.5, zorder=0)


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """That spikes clear of the bulk are where they are predicted, how many are seen, and what they consist of."""
    found = []
    for activation in dataset["activation"].values.tolist():
        runs = dataset.sel(activation=activation).isel(samples=0)
        found += [_claim_sizes(runs, activation), _claim_third(runs, activation), _claim_alignment(runs, activation)]
    return found


def _claim_sizes(runs: "xarray.Dataset", activation: str) -> Claim:
    alphas, n = runs["alpha"].values, int(runs["samples"])
    expected = predicted(n, activation, alphas.tolist())
    values = runs["features.singular_values_at_end"].transpose("features.singular_values[1]", "alpha", "seed").values
    clear = expected > _CLEAR * feature_bulk_edge(PHI, PSI, expansion(activation))
    off = np.abs(np.median(values[:_SHOWN], axis=-1)[clear] / expected[clear] - 1)
    statement = f"{activation}, n = {n}: spikes more than {100 * (_CLEAR - 1):.0f} % above the bulk, predicted"
    measured = f"≤ {100 * off.max():.1f} %, median {100 * np.median(off):.1f} %, of {off.size}"
    expected, holds = f"off by ≤ {100 * _AGREES:g} % at each α", bool(off.max() <= _AGREES)
    return judged(statement, expected, measured, holds, runs, ["features.singular_values_at_end"])


def _claim_third(runs: "xarray.Dataset", activation: str) -> Claim:
    within = runs.sel(alpha=[alpha for alpha in runs["alpha"].values if 1 / 3 < alpha < 3 / 8])
    orders = spike_orders(0.36, expansion(activation))
    counts = _counts(within)
    statement = f"{activation}: spikes for 1/3 < α < 3/8, where c_k ≠ 0 for k = {', '.join(map(str, orders))}"
    measured, holds = f"{counts.min()}–{counts.max()}", bool(counts.max() <= len(orders))
    return judged(statement, f"≤ {len(orders)}", measured, holds, within, ["features.singular_values_at_end"])


def _claim_alignment(runs: "xarray.Dataset", activation: str) -> Claim:
    overlap = runs["features.overlap_at_end"].isel(alpha=-1).median("seed").values
    statement = f"{activation}, α = {runs['alpha'].values[-1]:g}: cos² of the spikes with the span of X̃β and (X̃β)²"
    return reported(statement, ", ".join(f"{each:.3f}" for each in overlap), runs.isel(alpha=[-1]))


SPIKES = OldExperiment(
    name="spikes",
    question="How many spikes does a step leave, how large are they, and what do they consist of?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(25, 640),
)
