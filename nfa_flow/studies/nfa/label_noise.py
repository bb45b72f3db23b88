"""Label noise: what it does to the ansatz, and to the features, under the exact flow and under optimizers.

Data whose true index space is known, with noise on the labels: a linear teacher of low rank before a balanced deep
linear network, and a multi-index teacher before a GELU network. Runs are compared where they first leave a share of
`FIT` of the reducible training loss, so that none looks better for having fitted less of the noise.

The more robust training is here the one under which a score changes less between no noise and some, in whichever
direction. All trainings of a seed share their data, start and minibatches, so SGD with momentum and Adam make a pair.
What comes out depends on the learning rates: Adam at a third of the rate of momentum needs about as many steps, and
such pairs are compared at two paces.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ... import measure, nets
from ...data import Dataset, add_label_noise, linear_teacher, multi_index
from ...plot.at_end import at_end
from ...plot.style import GRAY, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, looped
from ..claims import Claim, judged, reported
from ..old_experiment import OldExperiment, quantiles
from ..training import Descent, ExactFlow, Untrained
from .common import EXACT

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIT = 0.03  # the share of the reducible training loss at which runs are compared
COMPARED = (0.5, 1.0)  # noises under which trainings are compared, in units of the clean targets
_SAMPLES, _FRESH, _BATCH = 100, 1_000, 20
_START = 0.3


class Problem(NamedTuple):
    """A teacher, `(samples, key=) -> Dataset` without noise, and the networks that learn from it."""

    teacher: Callable[..., Dataset]
    widths: tuple[int, ...]
    activation: str
    init: nets.AbstractInitialization

    @property
    def depth(self) -> int:
        """The number of layers L."""
        return len(self.widths) - 1


class Case(NamedTuple):
    """A problem and a way to train."""

    problem: Problem
    training: Any


LINEAR, GELU = "linear, L = 3", "GELU, L = 2"
PROBLEMS = {
    LINEAR: Problem(
        partial(linear_teacher, inputs=20, outputs=5, rank=2), (20, 20, 20, 5), "identity", nets.Balanced(_START)
    ),
    GELU: Problem(partial(multi_index, inputs=10, rank=2), (10, 64, 1), "gelu", nets.Gaussian(_START)),
}

FLOW, UNTRAINED = "exact flow", "untrained, Gaussian"
TRAININGS = {
    FLOW: ExactFlow(300.0, rtol=1e-9),
    "GD .1": Descent("gd", 0.1, 3_000),
    "SGD momentum .01": Descent("momentum", 0.01, 3_000, _BATCH),
    "SGD momentum .03": Descent("momentum", 0.03, 3_000, _BATCH),
    "Adam .003": Descent("adam", 0.003, 3_000, _BATCH),
    "Adam .01": Descent("adam", 0.01, 3_000, _BATCH),
    "AdamW .003": Descent("adamw", 0.003, 3_000, _BATCH, adamw_decay=0.1),
}
PAIRS = (("SGD momentum .01", "Adam .003"), ("SGD momentum .03", "Adam .01"))
CASES = {
    f"{problem}: {training}": Case(PROBLEMS[problem], TRAININGS[training])
    for problem in PROBLEMS
    for training in TRAININGS
}
# Balanced networks satisfy the ansatz before training, so these need others as a baseline.
CASES[f"{LINEAR}: {UNTRAINED}"] = Case(PROBLEMS[LINEAR]._replace(init=nets.Gaussian(_START)), Untrained())
_QUICK = (f"{LINEAR}: {FLOW}", f"{LINEAR}: {UNTRAINED}", *(f"{GELU}: {training}" for training in PAIRS[0]))


def grid(quick: bool) -> Grid:
    """Problems and ways to train × standard deviations of the noise, in units of the clean targets' × seeds."""
    return Grid(
        case=looped({name: CASES[name] for name in (_QUICK if quick else CASES)}),
        noise=[0.0, *COMPARED] if quick else [0.0, 0.2, *COMPARED],
        seed=range(8 if quick else 16),
    )


def one_run(key: PRNGKeyArray, case: Case, noise: float | Array) -> Trajectory:
    """A network on noisy labels, tested on clean ones."""
    problem, training = case
    data_key, noise_key, net_key, batch_key = jax.random.split(key, 4)
    clean, fresh = _split(problem.teacher(_SAMPLES + _FRESH, key=data_key), _SAMPLES)
    data = add_label_noise(clean, noise * jnp.sqrt(jnp.mean(clean.y**2)), key=noise_key)
    net = nets.MLP(problem.widths, key=net_key, activation=problem.activation, init=problem.init)
    zero = _loss_of_zero(fresh)
    observe = {
        "unfitted": partial(unfitted, is_linear=net.is_linear),
        "relative_error": measure.alignment(1 / problem.depth, metric="relative_error"),
        "best": measure.best_cosine,
        "nfm_angle": partial(largest_angle, of="nfm"),
        "agop_angle": partial(largest_angle, of="agop"),
        "test": lambda net, data: measure.loss(net, fresh) / zero,
    }
    return training(net, data, batch_key, observe=observe, progress=False)


def _split(data: Dataset, samples: int) -> tuple[Dataset, Dataset]:
    first, rest = slice(None, samples), slice(samples, None)
    return Dataset(data.x[first], data.y[first], index=data.index), Dataset(data.x[rest], data.y[rest])


def _loss_of_zero(data: Dataset) -> Float[Array, ""]:
    return jnp.trace(data.S_yy) / 2


def unfitted(net: Any, data: Dataset, is_linear: bool) -> Float[Array, ""]:
    """The share that is left of the reducible training loss: (ℒ − min ℒ) / (ℒ of f = 0 − min ℒ).

    The minimum is that of least squares for a linear network, and zero for one with more parameters than samples.
    """
    zero = reducible = _loss_of_zero(data)
    if is_linear:
        reducible = jnp.trace(data.S_xy.T @ jnp.linalg.solve(data.S_xx, data.S_xy)) / 2
    return 1 - (zero - measure.loss(net, data)) / reducible


def largest_angle(net: Any, data: Dataset, of: str) -> Float[Array, ""]:
    """The largest principal angle, in degrees, between the index space and as many leading eigenvectors."""
    return jnp.degrees(measure.index_angles(net, data, of=of)[-1])


SCORES = {
    "relative_error": "relative error of the ansatz at α = 1/L",
    "best.relative_error": "relative error of the ansatz at the best α",
    "best.exponent": "best exponent α",
    "nfm_angle": "largest angle between NFM and index space (°)",
    "agop_angle": "largest angle between AGOP and index space (°)",
    "test": "loss on clean test data / that of f = 0",
}


def at_fit(dataset: "xarray.Dataset", problem: str) -> "xarray.Dataset":
    """The scores of a problem's runs where each first leaves a share of `FIT`, NaN where it never does.

    They are interpolated between observations, linearly in that share. Along the dimension `training` are all that
    there are, so that each always has one color.
    """
    left = dataset["unfitted"]
    after = (left <= FIT).argmax("time")
    before = np.maximum(after - 1, 0)
    pick = lambda values, time: values.isel(time=time, drop=True)
    weight = (pick(left, before) - FIT) / (pick(left, before) - pick(left, after)).where((left <= FIT).any("time"))
    mean = lambda values: (1 - weight) * pick(values, before) + weight * pick(values, after)
    cases = [f"{problem}: {training}" for training in TRAININGS]
    found = dataset[["status"]].assign({name: mean(dataset[name]) for name in SCORES}).reindex(case=cases)
    return found.assign_coords(case=list(TRAININGS)).rename(case="training")


def untrained(dataset: "xarray.Dataset", problem: str, name: str) -> np.ndarray:
    """A score of Gaussian networks before training, seed by seed; labels do not matter to it."""
    starts = dataset[name].isel(time=0, noise=0)
    own = [case for case in dataset["case"].values if case.startswith(problem)]
    baseline = [case for case in own if case.endswith(UNTRAINED)]
    return starts.sel(case=(baseline or own)[0]).values


class Comparison(NamedTuple):
    """By how much less a score changes, from no noise to some, under Adam than under SGD with momentum.

    `levels`: the medians without and with noise, under each of the pair. `gain`: |change| under momentum − |change|
    under Adam, of the seeds in which both are defined; `low`, `high`: a 95 % interval of its median by the bootstrap.
    """

    pair: tuple[str, str]
    levels: tuple[np.ndarray, np.ndarray]
    gain: np.ndarray
    low: float
    high: float

    @property
    def steadier(self) -> str:
        """Under which the score changes less, if the interval decides."""
        return "Adam" if self.low > 0 else "SGD momentum" if self.high < 0 else "neither"


def comparisons(scores: "xarray.Dataset", name: str, noise: float) -> list[Comparison]:
    """Of a score of `at_fit`, for each pair of trainings that has runs."""
    values = scores[name].sel(noise=[0.0, noise]).transpose("training", "noise", "seed")
    found = [compare(pair, *values.sel(training=list(pair)).values) for pair in PAIRS]
    return [each for each in found if each.gain.size]


def compare(
    pair: tuple[str, str], momentum: Float[np.ndarray, "2 seeds"], adam: Float[np.ndarray, "2 seeds"]
) -> Comparison:
    """Compare the values of a score, without noise and with it, under the two of a pair."""
    defined = np.isfinite(momentum).all(axis=0) & np.isfinite(adam).all(axis=0)
    momentum, adam = momentum[:, defined], adam[:, defined]
    gain = np.abs(momentum[1] - momentum[0]) - np.abs(adam[1] - adam[0])
    levels = _medians(momentum), _medians(adam)
    return Comparison(pair, levels, gain, *bootstrap(gain))


def _medians(values: Float[np.ndarray, "2 seeds"]) -> Float[np.ndarray, "2"]:
    return np.median(values, axis=1) if values.size else np.full(2, np.nan)


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    """A 95 % interval of the median, by 2 000 draws with replacement; NaN without values.

    **Source:** Efron 1979.
    """
    if not values.size:
        return np.nan, np.nan
    draws = np.random.default_rng(0).choice(values, (2_000, values.size))
    low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
    return float(low), float(high)


_PANELS = {
    "relative_error": "relative error of NFM $\\propto$ AGOP$^{1/L}$",
    "best.exponent": "best exponent $\\alpha$",
    "nfm_angle": "angle of NFM to index space (°)",
    "agop_angle": "angle of AGOP to index space (°)",
}
_BASELINE: dict[str, Any] = {"color": GRAY, "linestyle": ":", "linewidth": 1.2, "zorder": 0}
_THEORY: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1.2, "zorder": 5}


def figure(dataset: "xarray.Dataset") -> "Figure":
    """Error at 1/L, best exponent and angles to the index space against the noise, a row for each problem."""
    sheet, axes = new_figure(len(_PANELS), rows=len(PROBLEMS))
    entries: dict[str, Any] = {}
    for row, problem in enumerate(PROBLEMS):
        panels = axes[row * len(_PANELS) : (row + 1) * len(_PANELS)]
        entries |= _draw_row(panels, dataset, problem)
    shown = [name for name in TRAININGS if any(case.endswith(f": {name}") for case in dataset["case"].values)]
    title = f"where {100 * (1 - FIT):g} % of the reducible training loss is gone; median and 10–90 % over seeds"
    legend_below(sheet, {name: entries[name] for name in [*shown, UNTRAINED, "$1/L$"]}, title)
    return sheet


def _draw_row(axes: "list[Axes]", dataset: "xarray.Dataset", problem: str) -> dict[str, Any]:
    """The panels of one problem; label → artist."""
    scores, entries = at_fit(dataset, problem), {}
    scores = scores.assign_coords(noise=[f"{noise:g}" for noise in scores["noise"].values])  # words stand side by side
    for ax, (name, label) in zip(axes, _PANELS.items(), strict=True):
        at_end(scores, name, against="noise", hue="training", ax=ax, label=label)
        handles, labels = ax.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
        if name == "best.exponent":
            entries["$1/L$"] = ax.axhline(1 / PROBLEMS[problem].depth, **_THEORY)
        baseline = float(np.nanmedian(untrained(dataset, problem, name)))
        entries[UNTRAINED] = ax.axhline(baseline, **_BASELINE)
        ax.set(title=problem, xlabel="label noise / rms of clean labels", yscale="linear")
        ax.set_ylim(bottom=-0.03 * ax.get_ylim()[1])  # a value of zero in full
    return entries


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """That balance keeps the ansatz along the flow whatever the noise, and whether Adam is steadier than momentum."""
    found, winners = [_claim_flow(dataset.sel(case=f"{LINEAR}: {FLOW}"))], {noise: [] for noise in COMPARED}
    for problem in PROBLEMS:
        scores = at_fit(dataset, problem)
        found.append(_claim_fit(dataset, problem, scores["test"].dropna("training", how="all")))
        for noise in COMPARED:
            for name, what in SCORES.items():
                compared = comparisons(scores, name, noise)
                winners[noise] += [each.steadier for each in compared]
                if compared:
                    statement = f"{problem}, noise 0 → {noise:g}: {what}; |change| of SGD momentum − of Adam"
                    runs = _compared(dataset, noise, problem)
                    found.append(reported(statement, "; ".join(map(_told, compared)), runs))
    return found + [_claim_overall(_compared(dataset, noise), noise, steadier) for noise, steadier in winners.items()]


def _compared(dataset: "xarray.Dataset", noise: float, problem: str = "") -> "xarray.Dataset":
    """The runs of a comparison, of one problem or of all."""
    trained = [each for each in dataset["case"].values if any(each.endswith(f": {name}") for name in sum(PAIRS, ()))]
    return dataset.sel(noise=[0.0, noise], case=[each for each in trained if each.startswith(problem)])


def _claim_flow(runs: "xarray.Dataset") -> Claim:
    worst = float(runs["relative_error"].max())
    statement = f"{LINEAR}, balanced, exact flow: NFM ∝ AGOP^{{1/3}} at all times, whatever the noise"
    expected = f"relative error ≤ {EXACT:g}"
    return judged(statement, expected, f"≤ {worst:.1g}", worst <= EXACT, runs, ["relative_error"])


def _claim_fit(dataset: "xarray.Dataset", problem: str, runs: "xarray.DataArray") -> Claim:
    """How many of the runs can be compared, and the scores of networks that have learned nothing."""
    baselines = [f"{what} {quantiles(untrained(dataset, problem, name))}" for name, what in SCORES.items()]
    measured = f"{int(runs.notnull().sum())} of {runs.size}; untrained: {', '.join(baselines)}"
    of_problem = dataset.sel(case=[each for each in dataset["case"].values if each.startswith(problem)])
    return reported(f"{problem}: runs that fit {100 * (1 - FIT):g} % of what can be fitted", measured, of_problem)


def _told(compared: Comparison) -> str:
    levels = [f"{name} {a:.2g} → {b:.2g}" for name, (a, b) in zip(compared.pair, compared.levels, strict=True)]
    gain = f"{np.median(compared.gain):.2g} [{compared.low:.2g}, {compared.high:.2g}]"
    return f"{', '.join(levels)}: {gain}, > 0 in {int((compared.gain > 0).sum())} of {compared.gain.size} seeds"


def _claim_overall(runs: "xarray.Dataset", noise: float, steadier: list[str]) -> Claim:
    # One in twenty intervals misses by chance.
    counts = [f"{who} {steadier.count(who)}" for who in ("Adam", "SGD momentum", "neither")]
    statement = f"our setting, noise 0 → {noise:g}: under which a score changes less, by its 95 % interval"
    return reported(statement, f"{', '.join(counts)} of {len(steadier)}", runs, expected="Adam, by the paper")


LABEL_NOISE = OldExperiment(
    name="label-noise",
    question="What does label noise do to the ansatz and the features, and is Adam steadier than SGD with momentum?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(25, 120),
)
