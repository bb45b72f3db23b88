"""The same networks, scored by every named convention: the score depends on the published definition.

One network for each seed and training, scored by each definition in `measure.conventions`. Untrained networks are
independent draws from the same distribution, compared with the same initial network. So definitions that use the change
of the weights have a baseline too, that of a random change; for the initial network itself they are undefined. This is
our choice: none of the papers defines the change without training.
"""

from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ... import Trajectory, measure, nets
from ...data import multi_index
from ...plot.at_end import quantiles_over
from ...plot.style import GRAY, color_of
from ...training import Descent, Untrained
from ..axes import looped, seeds
from ..experiment import Experiment
from ..judgments import Judged, Reported
from ..panels import Axes, Entries
from ..runs import Runs, quantiles

_WIDTHS, _SAMPLES, _BATCH = (20, 64, 64, 1), 500, 50
_STEPS = 3_000
APART = 0.1  # difference between the highest and the lowest score of the same network
MOST = 7 / 8  # fraction of the seeds

UNTRAINED = "untrained"
TRAININGS = {
    UNTRAINED: Untrained(),
    "Adam .001": Descent("adam", 0.001, _STEPS, _BATCH),
    "SGD momentum .01": Descent("momentum", 0.01, _STEPS, _BATCH),
}
ADAM, MOMENTUM = (name for name in TRAININGS if name != UNTRAINED)
DEFINITIONS = {
    "nfa_cosine_2022": "cos(ΔWᵀΔW, AGOP), Radhakrishnan et al. 2022",
    "nfa_pearson_2024": "corr(WᵀW, AGOP$^{1/2}$), Radhakrishnan et al. 2024",
    "nfa_off_diagonal_2024": "the same off the diagonal, Mallinar et al. 2024",
    "uncentered_nfa": "cos(WᵀW, AGOP), Beaglehole et al. 2024",
    "centered_nfa": "cos(ΔWᵀΔW, ΔWᵀKΔW), Beaglehole et al. 2024",
    "nfa_of_depth": "cos(WᵀW, AGOP$^{1/L}$), Tansley et al. 2026",
    "enfa": "cos(WᵀW, E[∇ℓ∇ℓᵀ]$^{1/2}$), Boix-Adserà et al. 2025",
}


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
    """All named conventions as one observable, for networks that were trained from this initial network."""
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


def scores_of(dataset: Runs, training: str) -> np.ndarray:
    """The scores at the end, definition × seed."""
    runs = dataset.sel(training=training)
    return np.stack([runs[f"score.{name}_at_end"].values for name in DEFINITIONS])


def apart(scores: np.ndarray) -> np.ndarray:
    """For each seed, the highest minus the lowest score over the definitions."""
    return scores.max(axis=0) - scores.min(axis=0)


def _draw_scores(ax: Axes, runs: Runs) -> Entries:
    """The scores of each definition in one row, untrained and trained."""
    names = runs["training"].values.tolist()
    entries = {}
    for place, name in enumerate(names):
        low, median, high = quantiles_over(scores_of(runs, name).T)
        heights = np.arange(len(median)) + 0.2 * (place - (len(names) - 1) / 2)
        style: Any = {"fmt": "o", "markersize": 4.5, "capsize": 2, "linewidth": 1.2}
        style["color"] = GRAY if name == UNTRAINED else color_of(place - 1, len(names))
        entries[name] = ax.errorbar(median, heights, xerr=np.array([median - low, high - median]), **style)
    ax.set_yticks(np.arange(len(DEFINITIONS)), list(DEFINITIONS.values()))
    ax.invert_yaxis()
    ax.set(xlabel="score of the first layer", xlim=(min(0.0, ax.get_xlim()[0]), 1))
    ax.set_title(f"ReLU network {'-'.join(map(str, _WIDTHS))}, multi-index data")
    return entries


def _apart(training: str, runs: Runs) -> tuple[str, bool]:
    trained, untrained = (apart(scores_of(runs, name)) for name in (training, UNTRAINED))
    return f"{quantiles(trained)}; untrained {quantiles(untrained)}", bool(np.median(trained) > APART)


def _sign(training: str, runs: Runs) -> tuple[str, bool]:
    trained, untrained = (scores_of(runs, name) for name in (training, UNTRAINED))
    rises, count = (trained > untrained).sum(axis=1), trained.shape[1]
    holds = rises.max() >= MOST * count and rises.min() <= (1 - MOST) * count
    counts = ", ".join(f"{name} {rise}" for name, rise in zip(DEFINITIONS, rises, strict=True))
    return f"rises in, of {count} seeds: {counts}", bool(holds)


def _both(training: str, name: str, runs: Runs) -> str:
    before, after = (runs[f"score.{name}_at_end"].sel(training=each) for each in (UNTRAINED, training))
    return f"{quantiles(before, '{:.2f}')} → {quantiles(after, '{:.2f}')}"


def _claims(training: str) -> dict[str, Any]:
    """Claims: scores of one network, and the sign of the effect of training, depend on the definition. All scores."""
    both, scores = {"training": [UNTRAINED, training]}, [f"score.{name}_at_end" for name in DEFINITIONS]
    return {
        f"{training}: the definitions score the same network differently": Judged(
            f"highest − lowest, median over seeds > {APART:g}", partial(_apart, training), scores, of=both
        ),
        f"{training}: whether a trained network scores above an untrained one depends on the definition": Judged(
            f"a definition that rises in ≥ {MOST:g} of the seeds, and one in ≤ {1 - MOST:g}",
            partial(_sign, training),
            scores,
            of=both,
        ),
        f"{training}: loss at the end": Reported("loss_at_end", of={"training": training}),
    } | {
        f"{training}: {name}: untrained → trained": Reported(partial(_both, training, name), of=both)
        for name in DEFINITIONS
    }


CONVENTIONS = Experiment(
    "conventions",
    "Do the published definitions of alignment give the same network similar scores?",
    axes={"training": looped(TRAININGS, quick=[UNTRAINED, ADAM]), "seed": seeds(32)},
    one_run=one_run,
    panels=[_draw_scores],
    claims=_claims(ADAM) | _claims(MOMENTUM),
    seconds=(20, 45),
)
