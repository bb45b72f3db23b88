"""Real data: balance keeps NFM^L = AGOP along the flow for all data and losses; and the ansatz after other training.

Digits with squared loss and with cross-entropy, and diabetes. A seed draws the split into training and held-out
samples, the initial weights and the minibatches. If a linear map separates the data, the cross-entropy has no minimum:
the weights grow forever (Soudry et al. 2018), so the results depend on the end time. The AGOP of a linear network with
one output has rank one, and one eigenvalue determines no slope: on diabetes the fitted exponent is undefined, and all
exponents have the same score. There the law with constant 1 says more than any score with a free scale.

Every run has an untrained Gaussian network of the same kind as a baseline, because balanced networks satisfy the ansatz
before any training.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ... import Dataset, Trajectory, measure, nets
from ...data import diabetes, digits
from ...training import Descent, ExactFlow
from ..axes import looped, seeds
from ..experiment import Experiment
from ..held_out import held_out_score, split
from ..judgments import AtMost, Judged, Reported
from ..panels import Panel, Through
from ..runs import Runs, Values, quantiles
from .common import ERROR_AT, EXACT

_SAMPLES, _BATCH, _WIDTH = 300, 30, 16
DEPTH = 3
_START = 0.3
_T1 = 100.0


class Problem(NamedTuple):
    """Real data and the loss function for them; `load` returns all samples."""

    load: Callable[[], Dataset]
    loss: str


class Method(NamedTuple):
    """The activation, the initialization and the training of a network."""

    activation: str
    init: nets.AbstractInitialization
    training: Any


CROSS_ENTROPY, DIABETES = "digits, cross-entropy", "diabetes, squared loss"
PROBLEMS = {
    "digits, squared loss": Problem(digits, "mse"),
    CROSS_ENTROPY: Problem(digits, "cross_entropy"),
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


def one_run(key: PRNGKeyArray, problem: Problem, setup: Method) -> Trajectory:
    """A network on some of the samples, tested on the others."""
    (load, loss), (activation, init, training) = problem, setup
    split_key, net_key, batch_key, null_key = jax.random.split(key, 4)
    whole = load()
    data, held_out = split(whole, _SAMPLES, whole.samples - _SAMPLES, key=split_key)
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


_PANELS = {
    "relative_error": ERROR_AT.format("1/3"),
    "best.relative_error": "relative error at the best $\\alpha$",
    "exponent.exponent": "fitted exponent $\\hat\\alpha$",
    "loss": "training loss $\\mathcal{L}$",
    "held_out": "accuracy on held-out samples",
}


def _row(problem: str) -> list[Panel]:
    """The panels of a problem; on diabetes the panel of the fitted exponent stays empty."""
    labels = _PANELS | ({"held_out": "$R^2$ on held-out samples"} if problem == DIABETES else {})
    law = {"exponent.exponent": {"law": 1 / DEPTH, "theory": "$1/L$"}}
    panel = partial(Through, hue="setup", of={"problem": problem}, baseline="linear, untrained", title=problem)
    return [panel(name, label=label, **law.get(name, {})) for name, label in labels.items()]


def _horizon(runs: Runs) -> str:
    return f"; loss {_median(runs['loss'].isel(time=0))} → {_median(runs['loss_at_end'])} at t = {_T1:g}"


def _undefined(runs: Runs) -> tuple[str, bool]:
    defined = int(runs["exponent.exponent"].notnull().sum())
    return f"defined {defined} times", defined == 0


_SCORES = {
    "error at 1/L": "relative_error",
    "at the best α": "best.relative_error",
    "best α": "best.exponent",
    "α̂": "exponent.exponent",
    "loss": "loss",
}


def _scores(runs: Runs) -> str:
    shown = [
        f"{label} {_median(runs[f'untrained.{name}'].isel(time=0))} → {quantiles(runs[f'{name}_at_end'])}"
        for label, name in _SCORES.items()
        if runs[f"{name}_at_end"].notnull().any()
    ]
    score = "R²" if runs["problem"] == DIABETES else "accuracy"
    return "; ".join([*shown, f"{score} on held-out samples {quantiles(runs['held_out_at_end'])}"])


def _median(values: Values) -> str:
    finite = np.asarray(values)[np.isfinite(values)]
    return f"{np.median(finite):.2g}" if finite.size else "undefined"


def _claims(problem: str) -> dict[str, Any]:
    """Claims: balance keeps the law along the flow. Reports: the scores of all methods."""
    of, expected = {"problem": problem}, "‖NFM − AGOP^{1/L}‖ ≤ {} ‖NFM‖"
    law = AtMost("law_error", EXACT, expected, of=of | {"setup": FLOW}, also=_horizon)
    linear = of | {"setup": lambda setup: [name.startswith("linear") for name in setup.values]}
    undefined = Judged("undefined at all times, AGOP having rank one", _undefined, of=linear)
    return {
        f"{problem}: balanced, exact flow: NFM^L = AGOP at all times, the constant being 1": law,
        **(
            {f"{problem}: a linear network of one output has no fitted exponent": undefined}
            if problem == DIABETES
            else {}
        ),
        f"{problem}: {{setup}}: untrained → at the end": Reported(_scores, of=of, each="setup"),
    }


REAL_DATA = Experiment(
    "real-data",
    "How well does the ansatz hold on real data, with squared loss and with cross-entropy?",
    axes={
        "problem": looped(PROBLEMS, quick=[CROSS_ENTROPY, DIABETES], tiny=list(PROBLEMS)[:2]),
        "setup": looped(METHODS, quick=[FLOW]),
        "seed": seeds(16),
    },
    one_run=one_run,
    panels=[_row(problem) for problem in PROBLEMS],
    claims={statement: judge for problem in PROBLEMS for statement, judge in _claims(problem).items()},
    seconds=(40, 250),
)
