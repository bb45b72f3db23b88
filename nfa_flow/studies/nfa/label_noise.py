"""The effect of label noise on the ansatz and on the features, under the exact flow and under optimizers.

Data with a known index space and noisy labels: a linear teacher of low rank for a balanced deep linear network, and a
multi-index teacher for a GELU network. Runs are compared at the first time when only a fraction `FIT` of the reducible
training loss is left, so that no run looks better because it has fitted less of the noise.

The more robust training is here the one with the smaller change of a score, of either sign, between no noise and some.
All trainings of a seed share data, initial weights and minibatches, so SGD with momentum and Adam form pairs. The
results depend on the learning rates: Adam with a third of the rate of momentum needs about as many steps; such pairs
are compared at two rates.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ... import Dataset, Trajectory, measure, nets
from ...data import add_label_noise, linear_teacher, multi_index
from ...training import Descent, ExactFlow, Untrained
from ..axes import batched, looped, seeds
from ..experiment import Experiment
from ..held_out import split
from ..intervals import bootstrap
from ..judgments import AtMost, Reported
from ..panels import AtEnd, Panel
from ..runs import Runs, Values, Where, quantiles, where_first
from .common import EXACT

FIT = 0.03  # runs are compared when this fraction of the reducible training loss is left
COMPARED = (0.5, 1.0)  # levels of noise for comparisons, in units of the rms of the clean targets
_SAMPLES, _FRESH, _BATCH = 100, 1_000, 20
_START = 0.3


class Problem(NamedTuple):
    """A teacher, `(samples, key=) -> Dataset` without noise, and the shape and initialization of the networks."""

    teacher: Callable[..., Dataset]
    widths: tuple[int, ...]
    activation: str
    init: nets.AbstractInitialization

    @property
    def depth(self) -> int:
        """The number of layers L."""
        return len(self.widths) - 1


class Case(NamedTuple):
    """A problem and a training."""

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
# Balanced networks satisfy the ansatz before training, so their baseline is another initialization.
CASES[f"{LINEAR}: {UNTRAINED}"] = Case(PROBLEMS[LINEAR]._replace(init=nets.Gaussian(_START)), Untrained())
_QUICK = (f"{LINEAR}: {FLOW}", f"{LINEAR}: {UNTRAINED}", *(f"{GELU}: {training}" for training in PAIRS[0]))


def one_run(key: PRNGKeyArray, case: Case, noise: float | Array) -> Trajectory:
    """A network trained on noisy labels and tested on clean ones."""
    problem, training = case
    data_key, noise_key, net_key, batch_key = jax.random.split(key, 4)
    clean, fresh = split(problem.teacher(_SAMPLES + _FRESH, key=data_key), _SAMPLES, _FRESH)
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


def _loss_of_zero(data: Dataset) -> Float[Array, ""]:
    return jnp.trace(data.S_yy) / 2


def unfitted(net: Any, data: Dataset, is_linear: bool) -> Float[Array, ""]:
    """The remaining fraction of the reducible training loss: (ℒ − min ℒ) / (ℒ of f = 0 − min ℒ).

    The minimum is that of least squares for a linear network, and zero for a network with more parameters than samples.
    """
    zero = reducible = _loss_of_zero(data)
    if is_linear:
        reducible = jnp.trace(data.S_xy.T @ jnp.linalg.solve(data.S_xx, data.S_xy)) / 2
    return 1 - (zero - measure.loss(net, data)) / reducible


def largest_angle(net: Any, data: Dataset, of: str) -> Float[Array, ""]:
    """The largest principal angle in degrees between the index space and the span of as many leading eigenvectors."""
    return jnp.degrees(measure.index_angles(net, data, of=of)[-1])


SCORES = {
    "relative_error": "relative error of the ansatz at α = 1/L",
    "best.relative_error": "relative error of the ansatz at the best α",
    "best.exponent": "best exponent α",
    "nfm_angle": "largest angle between NFM and index space (°)",
    "agop_angle": "largest angle between AGOP and index space (°)",
    "test": "loss on clean test data / that of f = 0",
}


def at_fit(dataset: Runs, problem: str) -> Runs:
    """The scores of a problem's runs at the first time when a fraction `FIT` of the loss is left; NaN if never.

    The dimension `training` always has all labels, so that each training has the same color in all figures.
    """
    cases = [f"{problem}: {training}" for training in TRAININGS]
    scores = {name: where_first(dataset["unfitted"], FIT, dataset[name]) for name in SCORES}
    found = dataset[[]].assign(scores).reindex(case=cases)
    return found.assign_coords(case=list(TRAININGS)).rename(case="training")


def untrained(dataset: Runs, problem: str, name: str) -> Values:
    """A score of Gaussian networks before training, for each seed; it does not depend on the labels."""
    starts = dataset[name].isel(time=0, noise=0, drop=True)
    own = [case for case in dataset["case"].values if case.startswith(problem)]
    baseline = [case for case in own if case.endswith(UNTRAINED)]
    return starts.sel(case=(baseline or own)[0], drop=True)


def _derive(runs: Runs) -> Runs:
    """Add `at_fit` and `untrained` for each problem; levels of noise become words, for an axis with equal distances."""
    import xarray

    words = [f"{noise:g}" for noise in runs["noise"].values]
    level = ("level", words, {"long_name": "label noise / rms of clean labels"})
    over_problems = lambda values: xarray.concat(values, xarray.Variable("problem", list(PROBLEMS)))
    fits = [at_fit(runs, problem).rename(noise="level").assign_coords(level=level) for problem in PROBLEMS]
    found = {f"fit.{name}": over_problems([fit[name] for fit in fits]) for name in SCORES}
    for name in SCORES:
        found[f"untrained.fit.{name}"] = over_problems([untrained(runs, problem, name) for problem in PROBLEMS])
    return runs.assign(found)


class Comparison(NamedTuple):
    """The effect of noise on a score under SGD with momentum, compared with the effect under Adam.

    `levels`: for each training of the pair, the medians without and with noise. `gain`: |change| under momentum −
    |change| under Adam, for the seeds in which both are defined; `low`, `high`: the 95 % bootstrap interval of its
    median.
    """

    pair: tuple[str, str]
    levels: tuple[np.ndarray, np.ndarray]
    gain: np.ndarray
    low: float
    high: float

    @property
    def steadier(self) -> str:
        """The training with the smaller change, if the interval excludes zero; otherwise "neither"."""
        return "Adam" if self.low > 0 else "SGD momentum" if self.high < 0 else "neither"


def comparisons(runs: Runs, problem: str, name: str, noise: float) -> list[Comparison]:
    """The comparisons of one score on one problem, for each pair of trainings with runs."""
    of_score = runs[f"fit.{name}"].sel(problem=problem, level=["0", f"{noise:g}"])
    values = of_score.transpose("training", "level", "seed")
    found = [compare(pair, *values.sel(training=list(pair)).values) for pair in PAIRS]
    return [each for each in found if each.gain.size]


def compare(
    pair: tuple[str, str], momentum: Float[np.ndarray, "2 seeds"], adam: Float[np.ndarray, "2 seeds"]
) -> Comparison:
    """Compare the values of a score without and with noise under the two trainings of a pair."""
    defined = np.isfinite(momentum).all(axis=0) & np.isfinite(adam).all(axis=0)
    momentum, adam = momentum[:, defined], adam[:, defined]
    gain = np.abs(momentum[1] - momentum[0]) - np.abs(adam[1] - adam[0])
    levels = _medians(momentum), _medians(adam)
    return Comparison(pair, levels, gain, *bootstrap(gain))


def _medians(values: Float[np.ndarray, "2 seeds"]) -> Float[np.ndarray, "2"]:
    return np.median(values, axis=1) if values.size else np.full(2, np.nan)


_PANELS = {
    "relative_error": "relative error of NFM $\\propto$ AGOP$^{1/L}$",
    "best.exponent": "best exponent $\\alpha$",
    "nfm_angle": "angle of NFM to index space (°)",
    "agop_angle": "angle of AGOP to index space (°)",
}


def _row(problem: str) -> list[Panel]:
    """Panels against the noise: error at 1/L, best exponent, and angles to the index space."""
    law = {"best.exponent": {"law": 1 / PROBLEMS[problem].depth, "theory": "$1/L$"}}
    panel = partial(AtEnd, against="level", hue="training", of={"problem": problem}, baseline=UNTRAINED, title=problem)
    axis = {"yscale": "linear", "ylim": (0, None)}
    return [panel(f"fit.{name}", label=label, axis=axis, **law.get(name, {})) for name, label in _PANELS.items()]


def _fitted(runs: Runs, problem: str) -> str:
    """How many runs fit, and the scores of untrained networks, as text."""
    of = runs.sel(problem=problem)
    fits = of["fit.test"].dropna("training", how="all")
    baselines = [f"{what} {quantiles(of[f'untrained.fit.{name}'])}" for name, what in SCORES.items()]
    return f"{int(fits.notnull().sum())} of {fits.size}; untrained: {', '.join(baselines)}"


def _steadier(runs: Runs, noise: float) -> str:
    """How often each training has the smaller change; by chance, one in twenty 95 % intervals is wrong."""
    every = [comparisons(runs, problem, name, noise) for problem in PROBLEMS for name in SCORES]
    steadier = [each.steadier for compared in every for each in compared]
    counts = [f"{who} {steadier.count(who)}" for who in ("Adam", "SGD momentum", "neither")]
    return f"{', '.join(counts)} of {len(steadier)}"


def _change(runs: Runs, problem: str, name: str, noise: float) -> str:
    return "; ".join(map(_as_text, comparisons(runs, problem, name, noise)))


def _compared(noise: float, *problems: str) -> Where:
    """The settings of a comparison: the trainings of all pairs, without and with noise."""
    cases = [f"{problem}: {training}" for problem in problems for pair in PAIRS for training in pair]
    return {"noise": [0.0, noise], "case": lambda case: case.isin(cases)}


def _claims(problem: str) -> dict[str, Reported]:
    """Reports: how many runs fit, and the effect of noise on each score under each pair."""
    own = {"case": lambda case: case.str.startswith(problem)}
    share = f"{problem}: runs that fit {100 * (1 - FIT):g} % of what can be fitted"
    return {share: Reported(partial(_fitted, problem=problem), of=own)} | {
        f"{problem}, noise 0 → {noise:g}: {what}; |change| of SGD momentum − of Adam": Reported(
            partial(_change, problem=problem, name=name, noise=noise), of=_compared(noise, problem)
        )
        for noise in COMPARED
        for name, what in SCORES.items()
    }


def _as_text(compared: Comparison) -> str:
    levels = [f"{name} {a:.2g} → {b:.2g}" for name, (a, b) in zip(compared.pair, compared.levels, strict=True)]
    gain = f"{np.median(compared.gain):.2g} [{compared.low:.2g}, {compared.high:.2g}]"
    return f"{', '.join(levels)}: {gain}, > 0 in {int((compared.gain > 0).sum())} of {compared.gain.size} seeds"


LABEL_NOISE = Experiment(
    "label-noise",
    "How does label noise affect the ansatz and the features: less under Adam than under SGD with momentum?",
    axes={
        "case": looped(CASES, quick=_QUICK, tiny=_QUICK),
        "noise": batched([0.0, 0.2, *COMPARED], quick=[0.0, *COMPARED], tiny=[0.0, *COMPARED]),
        "seed": seeds(16),
    },
    one_run=one_run,
    derive=_derive,
    panels=[_row(problem) for problem in PROBLEMS],
    claims={
        f"{LINEAR}, balanced, exact flow: NFM ∝ AGOP^{{1/3}} at all times, whatever the noise": AtMost(
            "relative_error", EXACT, of={"case": f"{LINEAR}: {FLOW}"}
        ),
        **_claims(LINEAR),
        **_claims(GELU),
        **{
            f"our setting, noise 0 → {noise:g}: under which a score changes less, by its 95 % interval": Reported(
                partial(_steadier, noise=noise), of=_compared(noise, *PROBLEMS), expected="Adam, by the paper"
            )
            for noise in COMPARED
        },
    },
    note=f"where {100 * (1 - FIT):g} % of the reducible training loss is gone",
    seconds=(25, 120),
)
