"""The gain of ridge regression from one step on the features, against the step's size, for teachers and activations.

Losses are divided by the mean square of the targets. For comparison: the limits with zero, one and two spikes, the same
with spikes of their actual size, and ridge regression on the inputs. The theory leaves out only the change of the
features apart from the spikes; that part, of relative size η‖β‖/√N, reduces the loss.
"""

from functools import partial

import numpy as np

from ...plot.style import GRAY
from ...theory import hermite_series, information_exponent
from ..axes import batched, looped, seeds
from ..claims import Claim, judged
from ..experiment import Experiment
from ..judgments import ForEach, Judged, Reported
from ..panels import AtEnd, Axes, Entries
from ..runs import Runs, Values, filled, quantiles, tabulated, together
from .common import ALPHA, LOSSES, PHI, TEACHER, after_step, listed, samples
from .predictions import expansion, limits, linear_limits, losses

TEACHERS = {
    "He_1 + He_2/√2": TEACHER,
    "He_1 + He_3/√6": hermite_series([0, 1, 0, 6**-0.5]),
    "He_2": hermite_series([0, 0, 1]),
}
_LIMITS = {"no spike": (), "one": (1,), "two": (1, 2)}
_NOTHING = 0.05  # relative error of a loss


def _derive(runs: Runs) -> Runs:
    """Add both `losses`, and their values in `theory` with the spikes of each step."""
    theory = lambda samples, activation, alpha, teacher: losses(samples, activation, alpha, TEACHERS[teacher])
    settings = ["samples", "activation", "alpha", "teacher"]
    return runs.assign(losses=together(runs, LOSSES, "loss"), theory=tabulated(theory, runs, settings, "loss"))


def _losses(ax: Axes, runs: Runs, activation: str, teacher: str) -> Entries:
    """Training and test loss against α, with the limits."""
    panel = AtEnd(
        "losses",
        against="alpha",
        hue="loss",
        of={"activation": activation, "teacher": teacher},
        law="theory",
        title=f"${teacher}$, {activation}",
        label="loss / mean $y^2$",
    )
    entries = panel(ax, runs)
    for width, (count, orders) in zip((0.6, 1.2, 2.0), _LIMITS.items(), strict=True):
        for place in limits(orders, activation, TEACHERS[teacher]):
            line = ax.axhline(place, color="black", linestyle=":", linewidth=width, zorder=1)
            entries[f"limit: {count}"] = line
    for place in linear_limits(TEACHERS[teacher]):
        line = ax.axhline(place, color=GRAY, linestyle="-.", linewidth=1.0, zorder=0)
        entries["linear model, theory"] = line
    return entries


def _panels(runs: Runs) -> list[list[partial[Entries]]]:
    """A column for each teacher, a row for each activation."""
    teachers, activations = runs["teacher"].values.tolist(), runs["activation"].values.tolist()
    return [[partial(_losses, activation=each, teacher=teacher) for teacher in teachers] for each in activations]


def _begin_there(runs: Runs) -> tuple[str, bool]:
    """Whether mean losses at the smallest step agree with theory within three standard errors plus 2/d."""
    seen, expected = runs["losses"].transpose("loss", "seed"), runs["theory"]
    mean, error = seen.mean("seed"), seen.std("seed", ddof=1) / seen.sizes["seed"] ** 0.5
    holds = bool((abs(mean - expected) <= 3 * error + expected * 2 / (PHI * int(runs["samples"]))).all())
    return f"{_pair(mean)} ± {_pair(error)}", holds


def _pair(values: Values) -> str:
    return listed(values, ".3f").replace(", ", " / ")


def _gain(statement: str, runs: Runs) -> list[Claim]:
    """The claim that the best step reduces the test loss, if the teacher has a linear part."""
    test = runs["losses"].sel(loss="test")
    best = test.median("seed").idxmin("alpha")
    gain = (1 - test.sel(alpha=best) / test.isel(alpha=0)).values.ravel()
    statement, error = filled(statement, {"best": float(best)}, runs), gain.std(ddof=1) / gain.size**0.5
    if information_exponent(expansion(TEACHERS[runs["teacher"].item()])) == 1:
        expected, holds = "mean > 0 by 3 standard errors", bool(gain.mean() > 3 * error)
        measured = f"{gain.mean():.2g} ± {error:.1g}; seeds {quantiles(gain)}"
    else:
        statement, expected = f"{statement}; c_{{*1}} = 0", f"≤ {_NOTHING:g}: nothing is learned"
        measured, holds = quantiles(gain), bool(np.median(gain) <= _NOTHING)
    return [judged(statement, expected, measured, holds, runs, ["features.test_at_end"])]


def _beside(runs: Runs) -> str:
    off = 100 * (runs["losses"].mean("seed") / runs["theory"] - 1)
    ranges = {name: off.sel(loss=name) for name in LOSSES.values()}
    return "; ".join(f"{name} {float(each.min()):+.1f} to {float(each.max()):+.1f} %" for name, each in ranges.items())


RIDGE_ERROR = Experiment(
    "ridge-error",
    "How much does one step improve ridge regression, and how much of this do the spikes explain?",
    axes={
        "samples": samples(1500),
        "teacher": looped(TEACHERS, quick=["He_1 + He_2/√2", "He_2"], tiny=list(TEACHERS)[:2]),
        "activation": looped(["relu", "tanh"], quick=["relu"], tiny=["relu"]),
        "alpha": batched(
            [-0.2, 0.0, 0.08, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45],
            quick=[-0.2, 0.1, 0.3, 0.42],
            tiny=[-0.2, 0.42],
            label=ALPHA,
        ),
        "seed": seeds(16),
    },
    one_run=after_step,
    derive=_derive,
    panels=_panels,
    claims={
        "{activation}, {teacher}": ForEach(
            ["samples", "activation", "teacher"],
            {
                ", η = n^{alpha}: training / test loss of random features": Judged(
                    lambda runs: f"{_pair(runs['theory'])} within 3 standard errors and 2/d of it",
                    _begin_there,
                    ["losses"],
                    of={"alpha": lambda alpha: alpha == alpha.min()},
                    each="alpha",
                ),
                ": what the best step (α = {best}) takes off the test loss": _gain,
                ": losses beside those with spikes of their size, all α": Reported(_beside),
            },
        )
    },
    note="step $\\eta = n^\\alpha$; theory: with spikes of this size",
    seconds=(15, 560),
)
