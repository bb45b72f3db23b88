"""What ridge regression gains from the features after one step, for teachers and activations, against the step's size.

Losses are over the mean square of the targets. Against them: the limits with no, one and two spikes, the same with the
spikes of their actual size, and ridge regression on the inputs. All that the theory leaves out is what the step does
to the features beside the spikes; that part, of relative size η‖β‖/√N, helps.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ...one_step import one_step, sizes
from ...plot.style import GRAY, PALETTE, entries_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, looped
from ...theory import (
    HermiteSeries,
    RidgeLosses,
    finite_ridge_losses,
    hermite_series,
    information_exponent,
    linear_losses,
    ridge_losses,
    spike_matrix,
)
from ..claims import Claim, judged, reported
from ..old_experiment import OldExperiment, quantiles
from .common import (
    NOISE,
    PENALTY,
    PHI,
    PSI,
    TEACHER,
    THEORY,
    direction_of,
    draw,
    energy,
    expansion,
    look,
    middle,
)

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEACHERS = {
    "He_1 + He_2/√2": TEACHER,
    "He_1 + He_3/√6": hermite_series([0, 1, 0, 6**-0.5]),
    "He_2": hermite_series([0, 0, 1]),
}
_LOSSES = {"train": PALETTE[0], "test": PALETTE[1]}
_LIMITS = {"no spike": (), "one": (1,), "two": (1, 2)}
_NOTHING = 0.05  # of a loss


def grid(quick: bool) -> Grid:
    """Teachers × activations × sizes of the step × seeds."""
    return Grid(
        samples=looped([500 if quick else 1500]),
        teacher=looped(TEACHERS),
        activation=["relu"] if quick else ["relu", "tanh"],
        alpha=[-0.2, 0.1, 0.3, 0.42] if quick else [-0.2, 0.0, 0.08, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45],
        seed=range(8 if quick else 16),
    )


def one_run(
    key: PRNGKeyArray, samples: int, teacher: HermiteSeries, activation: str, alpha: float | Array
) -> Trajectory:
    """A step of size n^α."""
    drawn = draw(key, samples, activation, teacher)
    return look(key, drawn, one_step(drawn.net, drawn.batch, samples**alpha))


def limit(teacher: HermiteSeries, activation: str, orders: tuple[int, ...]) -> Float[np.ndarray, "2"]:
    """(train, test) with infinitely large spikes, over E[y²]."""
    direction = direction_of(activation, teacher) if orders else None
    given = PENALTY, PHI, PSI, expansion(activation), expansion(teacher)
    return _over_energy(ridge_losses(*given, noise=NOISE, orders=orders, direction=direction), teacher)


def of_finite_spikes(samples: int, teacher: HermiteSeries, activation: str, alpha: float) -> Float[np.ndarray, "2"]:
    """(train, test) with the spikes of a step of size n^α, over E[y²]."""
    direction, width = direction_of(activation, teacher), sizes(samples, PHI, PSI).width
    S = spike_matrix(activation, samples**alpha, direction, width)
    given = PENALTY, PHI, PSI, expansion(activation), expansion(teacher)
    return _over_energy(finite_ridge_losses(*given, S, direction, noise=NOISE), teacher)


def _baseline(teacher: HermiteSeries) -> Float[np.ndarray, "2"]:
    return _over_energy(linear_losses(PENALTY, PHI, expansion(teacher), noise=NOISE), teacher)


def _over_energy(losses: RidgeLosses, teacher: HermiteSeries) -> Float[np.ndarray, "2"]:
    return np.array(losses) / energy(teacher)


def figure(dataset: "xarray.Dataset") -> "Figure":
    """Training and test loss against α: a column for each teacher, a row for each activation."""
    teachers, activations = dataset["teacher"].values.tolist(), dataset["activation"].values.tolist()
    sheet, axes = new_figure(len(teachers), rows=len(activations))
    entries: dict[str, Any] = {}
    for i, activation in enumerate(activations):
        for j, teacher in enumerate(teachers):
            runs = dataset.sel(activation=activation, teacher=teacher).isel(samples=0)
            ax = axes[i * len(teachers) + j]
            entries |= _draw(ax, runs, TEACHERS[teacher], activation)
            ax.set_title(f"${_in_tex(teacher)}$, {activation}")
            ax.set_xlabel("exponent $\\alpha$")
    for i in range(len(activations)):
        axes[i * len(teachers)].set_ylabel("loss / mean $y^2$")
    n, seeds = int(dataset["samples"].values[0]), dataset.sizes["seed"]
    legend_below(sheet, entries, f"$n = {n}$, step $\\eta = n^\\alpha$; median and 10–90 % over {seeds} seeds")
    return sheet


def _draw(ax: "Axes", runs: "xarray.Dataset", teacher: HermiteSeries, activation: str) -> dict[str, Any]:
    alphas, theory = runs["alpha"].values, {}
    fine = np.linspace(alphas[0], alphas[-1], 16)
    finite = np.array([of_finite_spikes(int(runs["samples"]), teacher, activation, alpha) for alpha in fine])
    for i, (name, color) in enumerate(_LOSSES.items()):
        low, median, high = middle(runs[f"features.{name}_at_end"].transpose("alpha", "seed").values)
        ax.plot(alphas, median, color=color, marker="o", markersize=3, label=name)
        ax.fill_between(alphas, low, high, color=color, alpha=0.2, linewidth=0)
        theory["spikes of this size, theory"] = ax.plot(fine, finite[:, i], **THEORY)[0]
        for width, (count, orders) in zip((0.6, 1.2, 2.0), _LIMITS.items(), strict=True):
            place = limit(teacher, activation, orders)[i]
            theory[f"limit: {count}"] = ax.axhline(place, color="black", linestyle=":", linewidth=width, zorder=1)
        baseline = _baseline(teacher)[i]
        theory["linear model, theory"] = ax.axhline(baseline, color=GRAY, linestyle="-.", linewidth=1.0, zorder=0)
    return entries_of(ax) | theory


def _in_tex(teacher: str) -> str:
    return teacher.replace("√2", "\\sqrt{2}").replace("√6", "\\sqrt{6}")


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """Where the losses begin, what a large step gains from each teacher, and how far the theory is off."""
    found = []
    for activation in dataset["activation"].values.tolist():
        for name in dataset["teacher"].values.tolist():
            runs, teacher = dataset.sel(activation=activation, teacher=name).isel(samples=0), TEACHERS[name]
            label = f"{activation}, {name}"
            found += [_claim_start(runs, teacher, activation, label), _claim_gain(runs, teacher, activation, label)]
            found.append(_claim_finite(runs, teacher, activation, label))
    return found


def _claim_start(runs: "xarray.Dataset", teacher: HermiteSeries, activation: str, label: str) -> Claim:
    first = runs.isel(alpha=0)
    expected = of_finite_spikes(int(runs["samples"]), teacher, activation, float(first["alpha"]))
    seen = np.array([first[f"features.{name}_at_end"].values for name in _LOSSES])
    error = seen.std(axis=1, ddof=1) / seen.shape[1] ** 0.5
    # Three standard errors, and 2/d for what is left of the limit at this size.
    holds = bool(
        np.all(np.abs(seen.mean(axis=1) - expected) <= 3 * error + expected * 2 / (PHI * int(runs["samples"])))
    )
    told = lambda values: " / ".join(f"{each:.3f}" for each in values)
    statement = f"{label}, η = n^{float(first['alpha']):g}: training / test loss of random features"
    wanted = f"{told(expected)} within 3 standard errors and 2/d of it"
    names = [f"features.{name}_at_end" for name in _LOSSES]
    return judged(statement, wanted, f"{told(seen.mean(axis=1))} ± {told(error)}", holds, first, names)


def _claim_gain(runs: "xarray.Dataset", teacher: HermiteSeries, activation: str, label: str) -> Claim:
    test = runs["features.test_at_end"]
    start, best = test.isel(alpha=0).values, test.median("seed").idxmin("alpha")
    gain = 1 - test.sel(alpha=best).values / start
    statement = f"{label}: what the best step (α = {float(best):g}) takes off the test loss"
    if information_exponent(expansion(teacher)) == 1:
        error = gain.std(ddof=1) / gain.size**0.5
        told_mean = f"{gain.mean():.2g} ± {error:.1g}; seeds {quantiles(gain)}"
        holds = bool(gain.mean() > 3 * error)
        return judged(statement, "mean > 0 by 3 standard errors", told_mean, holds, runs, ["features.test_at_end"])
    return judged(
        f"{statement}; c_{{*1}} = 0",
        f"≤ {_NOTHING:g}: nothing is learned",
        quantiles(gain),
        bool(np.median(gain) <= _NOTHING),
        runs,
        ["features.test_at_end"],
    )


def _claim_finite(runs: "xarray.Dataset", teacher: HermiteSeries, activation: str, label: str) -> Claim:
    n, alphas = int(runs["samples"]), runs["alpha"].values
    expected = np.array([of_finite_spikes(n, teacher, activation, float(alpha)) for alpha in alphas])
    off = [runs[f"features.{name}_at_end"].mean("seed").values / expected[:, i] - 1 for i, name in enumerate(_LOSSES)]
    told = "; ".join(
        f"{name} {100 * each.min():+.1f} to {100 * each.max():+.1f} %" for name, each in zip(_LOSSES, off, strict=True)
    )
    return reported(f"{label}: losses beside those with spikes of their size, all α", told, runs)


RIDGE_ERROR = OldExperiment(
    name="ridge-error",
    question="What does ridge regression gain from one step, and how much of it do the spikes explain?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(20, 560),
)
