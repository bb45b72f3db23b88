"""The same networks, scored by every named convention: what a published alignment says depends on its definition.

One network per seed and way to train, and each definition of `measure.conventions` of it. Untrained networks are other
draws of the same law, measured against the same start: then those definitions that look at the change of the weights
have a baseline too, that of any change, where the start itself leaves them undefined. That is a choice: none of the
papers says what a change by no training is.
"""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ... import measure, nets
from ...data import multi_index
from ...plot.style import GRAY, color_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, looped
from ..claims import Claim, judged, reported
from ..old_experiment import OldExperiment, quantiles
from ..training import Descent, Untrained

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTHS, _SAMPLES, _BATCH = (20, 64, 64, 1), 500, 50
_STEPS = 3_000
APART = 0.1  # between the highest and the lowest score of one and the same network
MOST = 7 / 8  # of the seeds

UNTRAINED = "untrained"
TRAININGS = {
    UNTRAINED: Untrained(),
    "Adam .001": Descent("adam", 0.001, _STEPS, _BATCH),
    "SGD momentum .01": Descent("momentum", 0.01, _STEPS, _BATCH),
}
_QUICK = (UNTRAINED, "Adam .001")
DEFINITIONS = {
    "nfa_cosine_2022": "cos(ΔWᵀΔW, AGOP), Radhakrishnan et al. 2022",
    "nfa_pearson_2024": "corr(WᵀW, AGOP$^{1/2}$), Radhakrishnan et al. 2024",
    "nfa_off_diagonal_2024": "the same off the diagonal, Mallinar et al. 2024",
    "uncentered_nfa": "cos(WᵀW, AGOP), Beaglehole et al. 2024",
    "centered_nfa": "cos(ΔWᵀΔW, ΔWᵀKΔW), Beaglehole et al. 2024",
    "nfa_of_depth": "cos(WᵀW, AGOP$^{1/L}$), Tansley et al. 2026",
    "enfa": "cos(WᵀW, E[∇ℓ∇ℓᵀ]$^{1/2}$), Boix-Adserà et al. 2025",
}


def grid(quick: bool) -> Grid:
    """Ways to train × seeds."""
    trainings = {name: TRAININGS[name] for name in (_QUICK if quick else TRAININGS)}
    return Grid(training=looped(trainings), seed=range(8 if quick else 32))


def one_run(key: PRNGKeyArray, training: Any) -> Trajectory:
    """A ReLU network of three layers on noisy data of two directions, and all its scores at the end."""
    data_key, start_key, other_key, batch_key = jax.random.split(key, 4)
    data = multi_index(_SAMPLES, _WIDTHS[0], rank=2, key=data_key, noise=0.1)
    start = nets.MLP(_WIDTHS, key=start_key, activation="relu")
    is_untrained = isinstance(training, Untrained)
    net = nets.MLP(_WIDTHS, key=other_key, activation="relu") if is_untrained else start
    observe = {"score": conventions(start), "loss": measure.loss}
    last = {} if is_untrained else {"save_at": [_STEPS]}
    return training(net, data, batch_key, observe=observe, progress=False, **last)


def conventions(start: nets.MLP) -> Any:
    """Every named convention by its name, as one observable, for a network that started there."""
    scores = {
        "nfa_cosine_2022": measure.nfa_cosine_2022(start),
        "nfa_pearson_2024": measure.nfa_pearson_2024(),
        "nfa_off_diagonal_2024": measure.nfa_off_diagonal_2024(),
        "uncentered_nfa": measure.uncentered_nfa(),
        "centered_nfa": measure.centered_nfa(start),
        "nfa_of_depth": measure.nfa_of_depth(len(start.weights)),
        "enfa": measure.enfa(),
    }
    return lambda net, data: {name: score(net, data) for name, score in scores.items()}


def scores_of(dataset: "xarray.Dataset", training: str) -> np.ndarray:
    """The scores at the end, definition × seed."""
    runs = dataset.sel(training=training)
    return np.stack([runs[f"score.{name}_at_end"].values for name in DEFINITIONS])


def apart(scores: np.ndarray) -> np.ndarray:
    """For each seed, the highest score of its network less the lowest, over the definitions."""
    return scores.max(axis=0) - scores.min(axis=0)


def figure(dataset: "xarray.Dataset") -> "Figure":
    """Each definition's scores, untrained and trained."""
    sheet, (ax,) = new_figure()
    sheet.set_size_inches(7.2, 3.6)
    names = [UNTRAINED, *(name for name in TRAININGS if name != UNTRAINED and name in dataset["training"])]
    entries = {name: _draw(ax, dataset, name, place, len(names)) for place, name in enumerate(names)}
    ax.set_yticks(np.arange(len(DEFINITIONS)), list(DEFINITIONS.values()))
    ax.invert_yaxis()
    ax.set(xlabel="score of the first layer", xlim=(min(0.0, ax.get_xlim()[0]), 1))
    ax.set_title(f"ReLU network {'-'.join(map(str, _WIDTHS))}, multi-index data")
    legend_below(sheet, entries, f"median and 10–90 % over {dataset.sizes['seed']} seeds")
    return sheet


def _draw(ax: "Axes", dataset: "xarray.Dataset", training: str, place: int, count: int) -> Any:
    low, median, high = np.quantile(scores_of(dataset, training), (0.1, 0.5, 0.9), axis=1)
    color = GRAY if training == UNTRAINED else color_of(place - 1, count)
    heights = np.arange(len(median)) + 0.2 * (place - (count - 1) / 2)
    style = {"fmt": "o", "markersize": 4.5, "capsize": 2, "linewidth": 1.2}
    return ax.errorbar(median, heights, xerr=np.array([median - low, high - median]), color=color, **style)


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """That scores of one network differ by definition, as does the sign of what training does; and their table."""
    untrained, found = scores_of(dataset, UNTRAINED), []
    for training in dataset["training"].values:
        if training == UNTRAINED:
            continue
        trained = scores_of(dataset, training)
        found.append(_claim_apart(dataset, training, trained, untrained))
        found.append(_claim_sign(dataset, training, trained, untrained))
        loss = quantiles(dataset["loss_at_end"].sel(training=training))
        found.append(reported(f"{training}: loss at the end", loss, dataset.sel(training=training)))
        for name, before, after in zip(DEFINITIONS, untrained, trained, strict=True):
            measured = f"{quantiles(before, '{:.2f}')} → {quantiles(after, '{:.2f}')}"
            found.append(reported(f"{training}: {name}: untrained → trained", measured, _both(dataset, training)))
    return found


def _both(dataset: "xarray.Dataset", training: str) -> "xarray.Dataset":
    return dataset.sel(training=[UNTRAINED, training])


_SCORES = [f"score.{name}_at_end" for name in DEFINITIONS]


def _claim_apart(dataset: "xarray.Dataset", training: str, trained: np.ndarray, untrained: np.ndarray) -> Claim:
    statement = f"{training}: the definitions score the same network differently"
    measured = f"{quantiles(apart(trained))}; untrained {quantiles(apart(untrained))}"
    expected = f"highest − lowest, median over seeds > {APART:g}"
    holds = bool(np.median(apart(trained)) > APART)
    return judged(statement, expected, measured, holds, _both(dataset, training), _SCORES)


def _claim_sign(dataset: "xarray.Dataset", training: str, trained: np.ndarray, untrained: np.ndarray) -> Claim:
    rises, seeds = (trained > untrained).sum(axis=1), trained.shape[1]
    statement = f"{training}: whether a trained network scores above an untrained one depends on the definition"
    measured = ", ".join(f"{name} {rise}" for name, rise in zip(DEFINITIONS, rises, strict=True))
    expected = f"a definition that rises in ≥ {MOST:g} of the seeds, and one in ≤ {1 - MOST:g}"
    holds = rises.max() >= MOST * seeds and rises.min() <= (1 - MOST) * seeds
    measured = f"rises in, of {seeds} seeds: {measured}"
    return judged(statement, expected, measured, bool(holds), _both(dataset, training), _SCORES)


CONVENTIONS = OldExperiment(
    name="conventions",
    question="Do the published definitions of alignment score the same network alike?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(20, 45),
)
