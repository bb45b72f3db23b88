"""How common it is that a small ReLU network fits its data while no exponent connects its NFM with its AGOP.

Random inputs and random labels, random starts; for each trained network the exponent that suits it best, so that what
is left of the error is no matter of α. One kind of labels has a structure to be learned: a ReLU of one direction.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ... import measure, nets
from ...data import Dataset, single_index
from ...flow import LossBelow
from ...plot.style import GRAY, color_of, label_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, looped
from ..claims import Claim, finished, judged, reported
from ..old_experiment import OldExperiment, quantiles
from ..training import Descent, ExactFlow

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIT = 1e-3  # the loss up to which data count as fitted; for f = 0 it is 1/2 with random labels, 1/4 with the teacher's
LIMITS = (0.1, 0.3)  # relative errors at the best exponent


class Problem(NamedTuple):
    """A kind of data and of networks."""

    inputs: int = 3
    samples: int = 8
    width: int = 32
    depth: int = 2
    random_labels: bool = True


PROBLEMS = {
    "base": Problem(),
    "2 inputs": Problem(inputs=2),
    "4 inputs": Problem(inputs=4),
    "4 samples": Problem(samples=4),
    "16 samples": Problem(samples=16),
    "width 8": Problem(width=8),
    "3 layers": Problem(depth=3),
    "teacher": Problem(random_labels=False),
}
_QUICK = ("base",)
TRAININGS = {"exact flow": ExactFlow(300.0, rtol=1e-3), "Adam .01": Descent("adam", 0.01, 3_000)}


def grid(quick: bool) -> Grid:
    """Problems × ways to train × sizes of the start × seeds."""
    problems = {name: PROBLEMS[name] for name in (_QUICK if quick else PROBLEMS)}
    seeds = range(32 if quick else 128)
    return Grid(problem=looped(problems), training=looped(TRAININGS), scale=[0.3, 1.4], seed=seeds)


def one_run(key: PRNGKeyArray, problem: Problem, training: Any, scale: float | Array) -> Trajectory:
    """A ReLU network of Gaussian weights, of standard deviation scale/√fan_in, on normal inputs and labels."""
    data_key, label_key, net_key, batch_key = jax.random.split(key, 4)
    data = single_index(problem.samples, problem.inputs, key=data_key, link="relu")
    if problem.random_labels:
        data = Dataset(data.x, jax.random.normal(label_key, data.y.shape))
    widths = [problem.inputs] + [problem.width] * (problem.depth - 1) + [1]
    net = nets.MLP(widths, key=net_key, activation="relu", init=nets.Gaussian(scale))
    observe = {"loss": measure.loss, "best": measure.best_cosine}
    if isinstance(training, ExactFlow):
        ends = {"save_at": [0.0, training.t1], "stop": LossBelow(FIT)}
    else:
        ends = {"save_at": [0, training.steps]}
    return training(net, data, batch_key, observe=observe, progress=False, **ends)


class Outcome(NamedTuple):
    """The runs of one problem with one way to train, at all scales: how many there are, and the best of those that fit.

    `runs`: all; `failed`: that ended with an error; `cosine`, `error`: of those that fit, where they are defined;
    `undefined`: that fit, and where NFM or AGOP is zero; `any_power`: that fit, where all exponents do equally well.
    """

    runs: int
    failed: int
    fitted: int
    undefined: int
    any_power: int
    cosine: np.ndarray
    error: np.ndarray


def outcome(dataset: "xarray.Dataset") -> Outcome:
    """Of the runs in this part of a dataset."""
    fits = dataset["loss_at_end"].values.ravel() <= FIT
    cosine, error, power = (
        dataset[f"best.{name}_at_end"].values.ravel()[fits] for name in ("cosine", "relative_error", "exponent")
    )
    defined = np.isfinite(error)
    return Outcome(
        runs=fits.size,
        failed=int((~finished(dataset)).sum()),
        fitted=int(fits.sum()),
        undefined=int((~defined).sum()),
        any_power=int((defined & np.isnan(power)).sum()),
        cosine=cosine[defined],
        error=error[defined],
    )


def untrained(dataset: "xarray.Dataset", name: str) -> np.ndarray:
    """What the same networks score before training; it depends neither on that nor on their scale."""
    values = dataset[f"best.{name}"].isel(time=0, training=0, scale=0).values.ravel()
    return values[np.isfinite(values)]


def wilson(count: int | np.ndarray, total: int, z: float = 1.96) -> tuple[Any, Any]:
    """The interval for a probability by `count` of `total`, at 95 % for this z; NaN without any.

    **Source:** Wilson 1927.
    """
    if total == 0:
        return count * np.nan, count * np.nan
    p, spread = count / total, z**2 / total
    center, half = p + spread / 2, np.sqrt(p * (1 - p) * spread + spread**2 / 4)
    # Rounding must not put all of them, or none, outside.
    return np.minimum((center - half) / (1 + spread), p), np.maximum((center + half) / (1 + spread), p)


def figure(dataset: "xarray.Dataset") -> "Figure":
    """Distributions of the best cosine and error for one problem, and the error and its tail for all."""
    from matplotlib.lines import Line2D

    sheet, axes = new_figure(4)
    base, names = dataset.isel(problem=[0]), dataset["training"].values
    colors = [color_of(i, len(names)) for i in range(len(names))]
    for ax, name in zip(axes, ("cosine", "relative_error"), strict=False):
        _draw_distribution(ax, untrained(base, name), color=GRAY, linestyle=":")
        for training, color in zip(names, colors, strict=True):
            for scale, style in zip(dataset["scale"].values, ("-", "--"), strict=True):
                found = outcome(base.sel(training=training, scale=scale))
                values = found.cosine if name == "cosine" else found.error
                _draw_distribution(ax, values, color=color, linestyle=style)
        ax.set(title=f"{base['problem'].item()}, that fit", xlabel=label_of(f"best.{name}"), ylabel="fraction up to it")
    axes[0].set_xlim(0.6, 1)
    axes[1].set_xlim(0, 0.8)
    _draw_errors(axes[2], dataset, colors)
    _draw_fractions(axes[3], dataset, colors)
    entries = {str(name): Line2D([], [], color=color) for name, color in zip(names, colors, strict=True)}
    entries["untrained"] = Line2D([], [], color=GRAY, linestyle=":")
    for scale, style in zip(dataset["scale"].values, ("-", "--"), strict=True):
        entries[f"start of scale {scale:g}"] = Line2D([], [], color=GRAY, linestyle=style)
    legend_below(
        sheet, entries, f"{dataset.sizes['seed']} seeds; 95 % Wilson intervals; third panel 10–90 % of the runs"
    )
    return sheet


def _draw_distribution(ax: "Axes", values: np.ndarray, **style: Any) -> None:
    """The empirical distribution function, with its interval at each point."""
    points = np.linspace(0, 1, 401)
    counts = np.searchsorted(np.sort(values), points, side="right")
    if values.size:
        ax.plot(points, counts / values.size, linewidth=1.4, **style)
        ax.fill_between(points, *wilson(counts, values.size), color=style["color"], alpha=0.15, linewidth=0)


def _groups(dataset: "xarray.Dataset", colors: list[Any]) -> Iterator[tuple[float, Any, list[np.ndarray]]]:
    """(shift along the axis, color, best relative errors of each problem) untrained and for each way to train."""
    parts = [dataset.isel(problem=[i]) for i in range(dataset.sizes["problem"])]
    yield -0.25, GRAY, [untrained(part, "relative_error") for part in parts]
    for i, (name, color) in enumerate(zip(dataset["training"].values, colors, strict=True)):
        yield 0.25 * i, color, [outcome(part.sel(training=name)).error for part in parts]


def _draw_errors(ax: "Axes", dataset: "xarray.Dataset", colors: list[Any]) -> None:
    for shift, color, groups in _groups(dataset, colors):
        for place, values in enumerate(groups):
            if values.size:
                low, median, high = np.quantile(values, (0.1, 0.5, 0.9))
                _draw_bar(ax, place + shift, median, low, high, color)
    ax.set(title="all problems, that fit", ylabel=label_of("best.relative_error"), ylim=(0, None))
    _name_problems(ax, dataset)


def _draw_fractions(ax: "Axes", dataset: "xarray.Dataset", colors: list[Any]) -> None:
    for shift, color, groups in _groups(dataset, colors):
        for place, values in enumerate(groups):
            for limit, fill in zip(LIMITS, (color, "white"), strict=True):
                count = int((values > limit).sum())
                if values.size:
                    low, high = wilson(count, values.size)
                    _draw_bar(ax, place + shift, count / values.size, low, high, color, markerfacecolor=fill)
    ax.set(title=f"error > {LIMITS[0]:g} (full) and > {LIMITS[1]:g} (open)", ylabel="fraction", ylim=(0, 1.03))
    _name_problems(ax, dataset)


def _draw_bar(ax: "Axes", place: float, value: float, low: float, high: float, color: Any, **style: Any) -> None:
    bars: Any = [[value - low], [high - value]]
    ax.errorbar([place], [value], yerr=bars, color=color, marker="o", markersize=3.5, capsize=2, linewidth=1.2, **style)


def _name_problems(ax: "Axes", dataset: "xarray.Dataset") -> None:
    names = dataset["problem"].values
    ax.set_xticks(np.arange(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """How often the ansatz fails at every exponent although the data are fitted."""
    everything = outcome(dataset)
    count = int((everything.error > LIMITS[0]).sum())
    found = [
        judged(
            "some networks fit their data and violate the ansatz at every α",
            f"some with a best relative error > {LIMITS[0]:g}",
            f"{count} of {everything.fitted} that fit",
            count > 0,
            dataset,
            ["loss_at_end"],
            despite="some is enough",
        )
    ]
    for problem in dataset["problem"].values:
        part = dataset.sel(problem=[problem])
        null = untrained(part, "relative_error")
        found.append(reported(f"{problem}: untrained, best relative error", _tail(null), part))
        for training in dataset["training"].values:
            runs = part.sel(training=training)
            of, statement = outcome(runs), f"{problem}, {training}: best relative error of those that fit"
            found.append(reported(statement, f"{_counts(of)}; {_tail(of.error)}", runs))
    return found


def _counts(of: Outcome) -> str:
    parts = {"undefined": of.undefined, "with any α": of.any_power, "failed": of.failed}
    shown = "".join(f", {number} {what}" for what, number in parts.items() if number)
    return f"{of.fitted} of {of.runs} fit{shown}"


def _tail(errors: np.ndarray) -> str:
    shares = []
    for limit in LIMITS:
        count = int((errors > limit).sum())
        low, high = wilson(count, errors.size)
        shares.append(f"> {limit:g}: {count / max(errors.size, 1):.0%} ({low:.0%}–{high:.0%})")
    return "; ".join([quantiles(errors), *shares]) if errors.size else "undefined"


RANDOM_RELU = OldExperiment(
    name="random-relu",
    question="How common is it that a random ReLU network fits its data and violates the ansatz at every exponent?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(18, 440),
)
