"""Balanced deep linear networks: the exponent is 1/L along the flow, and changes under optimizers with steps."""

from functools import partial
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from ... import Trajectory, nets
from ...training import Descent, ExactFlow, Untrained
from ..axes import looped, seeds
from ..experiment import Experiment
from ..judgments import AtMost, Reported
from ..panels import AtEnd, Through
from ..runs import Runs, quantiles, untrained_apart
from .common import EXACT, observables, teacher, widths

_SHOWN = 3  # the depth whose runs are drawn over time
_FLOW, _UNTRAINED = "exact flow", "untrained, Gaussian"

_T1 = 30.0
TRAININGS = {
    _FLOW: ExactFlow(_T1, rtol=1e-9),
    "GD .03": Descent("gd", 0.03, 1_000),
    "GD .01": Descent("gd", 0.01, 3_000),
    "GD .003": Descent("gd", 0.003, 10_000),
    "SGD .01": Descent("gd", 0.01, 3_000, batch_size=32),
    "SGD momentum .001": Descent("momentum", 0.001, 3_000, batch_size=32),
    "Adam .001": Descent("adam", 0.001, 3_000),
    "AdamW .001": Descent("adamw", 0.001, 3_000, adamw_decay=0.1),
    _UNTRAINED: Untrained(),
}


def one_run(key: PRNGKeyArray, depth: int, training: Any) -> Trajectory:
    """A linear network of `depth` layers on the data of a linear teacher with label noise."""
    data_key, net_key, batch_key = jax.random.split(key, 3)
    init = nets.Gaussian() if isinstance(training, Untrained) else nets.Balanced(scale=0.3)
    net = nets.MLP(widths(depth), key=net_key, init=init)
    return training(net, teacher(data_key), batch_key, observe=observables(1 / depth), progress=False)


def _derive(runs: Runs) -> Runs:
    runs = runs.assign(off=abs(runs["exponent.exponent"] * runs["depth"] - 1))
    return untrained_apart(runs, "training", _UNTRAINED)


def _ends(runs: Runs) -> str:
    error, product = runs["relative_error_at_end"], runs["exponent.exponent_at_end"] * runs["depth"]
    return f"{quantiles(error)}; α̂L {quantiles(product, '{:.3f}')}"


_through = partial(Through, hue="training", of={"depth": _SHOWN}, title=f"$L = {_SHOWN}$, through time")
_at_end = partial(AtEnd, against="depth", hue="training", baseline=_UNTRAINED, title="at the end")

DEPTH = Experiment(
    "depth",
    "Do balanced deep linear networks keep the exponent 1/L, along the flow and under optimizers?",
    axes={
        "depth": looped([2, 3, 4, 5, 6], quick=[2, 3], tiny=[3], label="depth $L$"),
        "training": looped(TRAININGS, quick=[_FLOW, "Adam .001", _UNTRAINED], tiny=[_FLOW, _UNTRAINED]),
        "seed": seeds(16),
    },
    one_run=one_run,
    derive=_derive,
    panels=[
        _through("relative_error"),
        _through("cosine"),
        _at_end("relative_error"),
        _at_end("exponent.exponent", law=lambda depth: 1 / depth, theory="$1/L$"),
    ],
    claims={
        "balanced, exact flow: NFM ∝ AGOP^{1/L} at all times": AtMost("relative_error", EXACT, of={"training": _FLOW}),
        "balanced, exact flow: fitted exponent is 1/L": AtMost("off", EXACT, "|α̂L − 1| ≤ {}", of={"training": _FLOW}),
        "balanced, {training}: relative error at the end": Reported(
            _ends, of={"training": lambda training: training != _FLOW}, each="training"
        ),
    },
    seconds=(30, 150),
)
