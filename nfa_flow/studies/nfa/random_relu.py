"""How often a small ReLU network fits its data although no exponent relates its NFM to its AGOP.

Random inputs, labels and initial weights. Each trained network is scored at its best exponent, so that the remaining
error does not come from the choice of α. One kind of labels has a structure that can be learned: a ReLU of one
direction.

Every exact flow certifies itself by two laws that hold across kinks. Where it ends on kinks, along which it slides,
the network has the gradients of both sides, and AGOP is not unique; the score is the better one of both.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, PRNGKeyArray

from ... import Dataset, LossBelow, Trajectory, measure, nets
from ...data import single_index
from ...plot.style import GRAY, color_of
from ...run.status import finished
from ...training import Descent, ExactFlow
from ..axes import batched, looped, seeds
from ..experiment import Experiment
from ..intervals import wilson
from ..judgments import ForEach, Judged, Reported
from ..panels import AtEnd, Axes, Distribution, Entries
from ..runs import Runs, quantiles
from .common import best_of_both_sides, certificate

FIT = 1e-3  # data count as fitted up to this loss; f = 0 has a loss of 1/2 on random labels, 1/4 on the teacher's
LIMITS = (0.1, 0.3)  # relative errors at the best exponent
_ERROR = "best.relative_error_at_end"
_CERTIFIED = 1e-5  # ten times the tolerance, which is what `gradient_flow` promises


class Problem(NamedTuple):
    """A kind of data and networks."""

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
FLOW = "exact flow"
TRAININGS = {FLOW: ExactFlow(300.0), "Adam .01": Descent("adam", 0.01, 3_000)}


def one_run(key: PRNGKeyArray, problem: Problem, training: Any, scale: float | Array) -> Trajectory:
    """A ReLU network of Gaussian weights, of standard deviation scale/√fan_in, on normal inputs and labels."""
    data_key, label_key, net_key, batch_key = jax.random.split(key, 4)
    data = single_index(problem.samples, problem.inputs, key=data_key, link="relu")
    if problem.random_labels:
        data = Dataset(data.x, jax.random.normal(label_key, data.y.shape))
    widths = [problem.inputs] + [problem.width] * (problem.depth - 1) + [1]
    net = nets.MLP(widths, key=net_key, activation="relu", init=nets.Gaussian(scale))
    observe = {"loss": measure.loss, "best": best_of_both_sides}
    if isinstance(training, ExactFlow):
        options = {"save_at": [0.0, training.t1], "stop": LossBelow(FIT), "certify": True}
    else:
        options = {"save_at": [0, training.steps]}
    return training(net, data, batch_key, observe=observe, progress=False, **options)


def _derive(runs: Runs) -> Runs:
    """Add `fits`, restrict `best.…` to runs that fit, and use one scale of the untrained networks: it has no effect."""
    fits = runs["loss_at_end"] <= FIT * (1 + 1e-9)  # exact flows stop at FIT, up to rounding
    found = {"fits": fits}
    for name in ("best.cosine", "best.relative_error", "best.exponent"):
        found[f"untrained.{name}_at_end"] = runs[name].isel(time=0, training=0, scale=0, drop=True)
        found[f"{name}_at_end"] = runs[f"{name}_at_end"].where(fits)
    return runs.assign(found)


def _draw_fractions(ax: Axes, runs: Runs) -> Entries:
    """Fractions of errors above the limits by problem, for untrained networks and for each training."""
    names = runs["training"].values
    for place, problem in enumerate(runs["problem"].values):
        part = runs.sel(problem=problem)
        groups = [(GRAY, part[f"untrained.{_ERROR}"])]
        groups += [(color_of(i, len(names)), part[_ERROR].sel(training=name)) for i, name in enumerate(names)]
        for i, (color, values) in enumerate(groups):
            for limit, fill in zip(LIMITS, (color, "white"), strict=True):
                share, low, high = _share(values, limit)
                style: Any = {"marker": "o", "markersize": 3.5, "capsize": 2, "markerfacecolor": fill}
                ax.errorbar(
                    [place + 0.25 * (i - 1)], [share], yerr=[[share - low], [high - share]], color=color, **style
                )
    ax.set(title=f"error > {LIMITS[0]:g} (full) and > {LIMITS[1]:g} (open)", ylabel="fraction", ylim=(0, 1.03))
    ax.set_xticks(range(runs.sizes["problem"]), runs["problem"].values, rotation=35, ha="right", rotation_mode="anchor")
    return {}


def _share(values: Any, limit: float) -> tuple[float, float, float]:
    """The fraction of defined values above a limit, and its interval."""
    total = int(values.notnull().sum())
    count = int((values > limit).sum())
    return count / max(total, 1), *wilson(count, total)


def _some(runs: Runs) -> tuple[str, bool]:
    count = int((runs[_ERROR] > LIMITS[0]).sum())
    return f"{count} of {int(runs['fits'].sum())} that fit", count > 0


def counts(runs: Runs) -> str:
    """How many runs fit; and among them, how many scores are undefined (NFM or AGOP is zero) or equal at all α."""
    error, exponent = (runs[f"best.{name}_at_end"] for name in ("relative_error", "exponent"))
    parts = {
        "undefined": runs["fits"] & error.isnull(),
        "with any α": error.notnull() & exponent.isnull(),
        "failed": ~finished(runs),
    }
    shown = "".join(f", {int(each.sum())} {what}" for what, each in parts.items() if each.any())
    return f"{int(runs['fits'].sum())} of {runs['fits'].size} fit{shown}"


def _tail(errors: Any) -> str:
    shares = [
        f"> {limit:g}: {share:.0%} ({low:.0%}–{high:.0%})"
        for limit in LIMITS
        for share, low, high in [_share(errors, limit)]
    ]
    return "; ".join([quantiles(errors), *shares]) if errors.notnull().any() else "undefined"


_distribution = partial(
    Distribution, hue="training", style="scale", of={"problem": "base"}, baseline="untrained", title="base, that fit"
)

RANDOM_RELU = Experiment(
    "random-relu",
    "How often does a random ReLU network fit its data and violate the ansatz at every exponent?",
    axes={
        "problem": looped(PROBLEMS, quick=["base"]),
        "training": looped(TRAININGS),
        "scale": batched([0.3, 1.4], quick=[1.4]),
        "seed": seeds(16, quick=8, tiny=4),
    },
    one_run=one_run,
    derive=_derive,
    panels=[
        _distribution("best.cosine", axis={"xlim": (0.6, 1)}),
        _distribution("best.relative_error", axis={"xlim": (0, 0.8)}),
        AtEnd(
            "best.relative_error",
            against="problem",
            hue="training",
            over=("scale", "seed"),
            baseline="untrained",
            title="all problems, that fit",
            label="error at the best $\\alpha$",
            axis={"ylim": (0, None), "yscale": "linear"},
        ),
        _draw_fractions,
    ],
    claims={
        "some networks fit their data and violate the ansatz at every α": Judged(
            f"some with a best relative error > {LIMITS[0]:g}", _some, ["loss_at_end"], despite="some is enough"
        ),
        **certificate(_CERTIFIED, {"training": FLOW}),
        "exact flow: difference of the errors by both sides of the kinks, at the end": Reported(
            "best.apart_at_end", of={"training": FLOW}
        ),
        "{problem}": ForEach(
            "problem",
            {
                ": untrained, best relative error": Reported(lambda runs: _tail(runs[f"untrained.{_ERROR}"])),
                ", {training}: best relative error of those that fit": Reported(
                    lambda runs: f"{counts(runs)}; {_tail(runs[_ERROR])}", each="training"
                ),
            },
        ),
    },
    note="95 % Wilson intervals of fractions",
    seconds=(10, 570),
)
