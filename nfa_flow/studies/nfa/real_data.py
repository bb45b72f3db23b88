"""Real data: balance keeps NFM^L = AGOP along the flow whatever the data and the loss, and what else training leaves.

Digits by squared loss and by cross-entropy, and diabetes. A seed draws the split into training and held-out samples,
the start and the minibatches. Data that a linear map separates leave the cross-entropy without a minimum: its weights
grow for ever (Soudry et al. 2018), and what is shown of it belongs to the horizon. A linear network of one output has
an AGOP of rank one, on which no slope can rest: on diabetes its fitted exponent is undefined, and all exponents do
equally well, so that the law at constant 1 says more there than any score that leaves the scale free.

Every run comes with an untrained Gaussian network of its own kind as a baseline, since balanced networks satisfy the
ansatz before any training.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ... import measure, nets
from ...data import Dataset, diabetes, digits
from ...plot.bands import bands
from ...plot.style import GRAY, color_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, looped
from ..claims import Claim, judged, reported
from ..held_out import held_out_score
from ..old_experiment import OldExperiment, quantiles
from ..training import Descent, ExactFlow
from .common import EXACT

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SAMPLES, _BATCH, _WIDTH = 300, 30, 16
DEPTH = 3
_START = 0.3
_T1 = 100.0


class Problem(NamedTuple):
    """Real data, all of them, and the loss by which a network learns them."""

    load: Callable[[], Dataset]
    loss: str


class Method(NamedTuple):
    """A kind of network, how it starts, and how it is trained."""

    activation: str
    init: nets.AbstractInitialization
    training: Any


class Case(NamedTuple):
    """A problem and what is done about it."""

    problem: Problem
    method: Method


DIABETES = "diabetes, squared loss"
PROBLEMS = {
    "digits, squared loss": Problem(digits, "mse"),
    "digits, cross-entropy": Problem(digits, "cross_entropy"),
    DIABETES: Problem(diabetes, "mse"),
}


_linear = partial(Method, "identity", nets.Balanced(_START))
_ADAM = Descent("adam", 0.003, 3_000, _BATCH)
FLOW = "linear, exact flow"
METHODS = {
    FLOW: _linear(ExactFlow(_T1, rtol=1e-9)),
    "linear, SGD momentum": _linear(Descent("momentum", 0.003, 3_000, _BATCH)),
    "linear, Adam": _linear(_ADAM),
    "linear, AdamW": _linear(Descent("adamw", 0.003, 3_000, _BATCH, adamw_decay=0.1)),
    "tanh, Adam": Method("tanh", nets.Gaussian(), _ADAM),
    "ReLU, Adam": Method("relu", nets.Gaussian(), _ADAM),
}
CASES = {f"{problem}: {method}": Case(PROBLEMS[problem], METHODS[method]) for problem in PROBLEMS for method in METHODS}
_QUICK = [f"{problem}: {FLOW}" for problem in PROBLEMS]


def grid(quick: bool) -> Grid:
    """Problems with ways to train × seeds."""
    cases = {name: CASES[name] for name in (_QUICK if quick else CASES)}
    return Grid(case=looped(cases), seed=range(8 if quick else 16))


def one_run(key: PRNGKeyArray, case: Case) -> Trajectory:
    """A network on some of the samples, tested on the others."""
    (load, loss), (activation, init, training) = case
    split_key, net_key, batch_key, null_key = jax.random.split(key, 4)
    data, held_out = split(split_key, load(), _SAMPLES)
    widths = [data.inputs] + [_WIDTH] * (DEPTH - 1) + [data.outputs]
    net = nets.MLP(widths, key=net_key, activation=activation, init=init)
    scores = {
        "loss": eqx.Partial(measure.loss, loss=loss),
        "relative_error": measure.alignment(1 / DEPTH, metric="relative_error"),
        "exponent": measure.fit_exponent,
        "best": measure.best_cosine,
    }
    untrained = nets.MLP(widths, key=null_key, activation=activation)
    null = {name: score(untrained, data) for name, score in scores.items()}
    null["held_out"] = held_out_score(untrained, held_out)
    observe = scores | {
        "law_error": measure.alignment(1 / DEPTH, metric="fixed_scale_error"),
        "held_out": lambda net, data: held_out_score(net, held_out),
        "untrained": lambda net, data: null,
    }
    return training(net, data, batch_key, observe=observe, loss=loss, progress=False)


def split(key: PRNGKeyArray, data: Dataset, samples: int) -> tuple[Dataset, Dataset]:
    """So many samples at random, and the others."""
    order = jax.random.permutation(key, data.samples)
    first, rest = order[:samples], order[samples:]
    return Dataset(data.x[first], data.y[first]), Dataset(data.x[rest], data.y[rest])


def of_problem(dataset: "xarray.Dataset", problem: str) -> "xarray.Dataset":
    """The runs on a problem along the dimension `training`, which always has all of them: each keeps its color."""
    cases = [f"{problem}: {method}" for method in METHODS]
    return dataset.reindex(case=cases).assign_coords(case=list(METHODS)).rename(case="training")


_PANELS = {
    "relative_error": "relative error of NFM $\\propto$ AGOP$^{1/3}$",
    "best.relative_error": "relative error at the best $\\alpha$",
    "exponent.exponent": "fitted exponent $\\hat\\alpha$",
    "loss": "training loss $\\mathcal{L}$",
    "held_out": "accuracy on held-out samples",
}
_R2 = "$R^2$ on held-out samples"


def figure(dataset: "xarray.Dataset") -> "Figure":
    """Error at 1/L and at the best exponent, exponent, loss and held-out score in time, a row for each problem."""
    from matplotlib.lines import Line2D

    sheet, axes = new_figure(len(_PANELS), rows=len(PROBLEMS))
    for row, problem in enumerate(PROBLEMS):
        panels = axes[row * len(_PANELS) : (row + 1) * len(_PANELS)]
        _draw_row(panels, of_problem(dataset, problem), problem)
    entries: dict[str, Any] = {}
    for i, method in enumerate(METHODS):
        if any(case.endswith(f": {method}") for case in dataset["case"].values):
            entries[method] = Line2D([], [], color=color_of(i, len(METHODS)))
    entries["linear, untrained"] = Line2D([], [], color=GRAY, linestyle=":")
    entries["$1/L$"] = Line2D([], [], color="black", linestyle="--")
    title = f"median and 10–90 % over {dataset.sizes['seed']} seeds; dotted in color: before training"
    legend_below(sheet, entries, title)
    return sheet


def _draw_row(axes: "list[Axes]", runs: "xarray.Dataset", problem: str) -> None:
    labels = _PANELS | ({"held_out": _R2} if problem == DIABETES else {})
    for ax, (name, label) in zip(axes, labels.items(), strict=True):
        bands(runs, name, hue="training", ax=ax, label=label, legend=False)
        baseline = untrained(runs.sel(training=FLOW), name)
        if np.isfinite(baseline).any():
            ax.axhline(np.nanmedian(baseline), color=GRAY, linestyle=":", linewidth=1.2, zorder=0)
        ax.set_title(problem)
    if runs["exponent.exponent"].notnull().any():
        axes[2].axhline(1 / DEPTH, color="black", linestyle="--", linewidth=1.2, zorder=5)


def untrained(runs: "xarray.Dataset", name: str) -> np.ndarray:
    """What untrained Gaussian networks of the same kind score, seed by seed."""
    return runs[f"untrained.{name}"].isel(time=0).values


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """That balance keeps the law along the flow on each problem, and what the others score."""
    found = []
    for problem in PROBLEMS:
        runs = of_problem(dataset, problem)
        found.append(_claim_law(runs.sel(training=FLOW), problem))
        if problem == DIABETES:
            found.append(_claim_undefined(runs))
        for method in METHODS:
            if f"{problem}: {method}" in dataset["case"].values:
                found.append(_report(runs.sel(training=method), f"{problem}: {method}"))
    return found


def _claim_law(flow: "xarray.Dataset", problem: str) -> Claim:
    worst = float(flow["law_error"].max())
    loss = f"loss {_median(flow['loss'].isel(time=0))} → {_median(flow['loss_at_end'])} at t = {_T1:g}"
    measured = f"≤ {worst:.1g}; {loss}"
    statement = f"{problem}: balanced, exact flow: NFM^L = AGOP at all times, the constant being 1"
    expected = f"‖NFM − AGOP^{{1/L}}‖ ≤ {EXACT:g} ‖NFM‖"
    return judged(statement, expected, measured, worst <= EXACT, flow, ["law_error"])


def _claim_undefined(runs: "xarray.Dataset") -> Claim:
    linear = runs.sel(training=[name for name in METHODS if name.startswith("linear")])
    linear = linear.isel(training=linear["status"].notnull().all("seed"))  # of those that there are
    defined = int(linear["exponent.exponent"].notnull().sum())
    statement = f"{DIABETES}: a linear network of one output has no fitted exponent"
    expected = "undefined at all times, AGOP having rank one"
    return judged(statement, expected, f"defined {defined} times", defined == 0, linear)


_TOLD = {
    "error at 1/L": "relative_error",
    "at the best α": "best.relative_error",
    "best α": "best.exponent",
    "α̂": "exponent.exponent",
    "loss": "loss",
}


def _report(runs: "xarray.Dataset", what: str) -> Claim:
    told = [
        f"{label} {_median(untrained(runs, name))} → {quantiles(runs[f'{name}_at_end'])}"
        for label, name in _TOLD.items()
        if runs[f"{name}_at_end"].notnull().any()
    ]
    score = "R²" if what.startswith(DIABETES) else "accuracy"
    told.append(f"{score} on held-out samples {quantiles(runs['held_out_at_end'])}")
    return reported(f"{what}: untrained → at the end", "; ".join(told), runs)


def _median(values: "xarray.DataArray | np.ndarray") -> str:
    finite = np.asarray(values)[np.isfinite(values)]
    return f"{np.median(finite):.2g}" if finite.size else "undefined"


REAL_DATA = OldExperiment(
    name="real-data",
    question="What is left of the ansatz on real data, by squared loss and by cross-entropy?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(60, 250),
)
