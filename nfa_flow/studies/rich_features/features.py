"""Rich features against width: their change during training, and whether they stay linearly independent.

Under muP features move by Θ(1) at every width, and in the limit of infinite width stay linearly independent at every
step, for activations such as tanh and SiLU (Chen et al. 2025; their theorem excludes ReLU and the identity, which are
shown for comparison). In the kernel regime, with NTP or with SP at a stable learning rate, features stay independent
because they hardly move: by n^{−½}. Under the mean-field parametrization, hidden features and their singular values are
of size n^{−½} at the start, and training moves them by Θ(1).

Independence decides the training error: the read-out has the mobility 1/n in all four parametrizations, so the flow has

    −dℒ/dt ≥ (1/n)‖∇_{W_L} ℒ‖² ≥ (2/N) λ_min(HHᵀ/n) ℒ

with the features H of the last hidden layer of N samples. So a network at rest with independent features has zero
error. The theorem gives no rate, says nothing about finite width, and does not prove that training converges.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ... import Dataset, Trajectory, measure
from ...training import Descent, ExactFlow
from ..axes import looped, seeds
from ..experiment import Experiment
from ..judgments import Judged, Reported
from ..panels import Panel, Through
from ..runs import Runs, quantiles
from ..schemes import network
from .against_width import RTOL, claims, panels, resolved
from .common import HIDDEN, PLACES, SCHEMES, WIDTHS, shape_of, trained
from .feature_change import FeatureChange

# Two Gram matrices of 16 samples have 32 rows, half of the smallest width. Fewer inputs than samples, so that the
# features of a linear network cannot be independent.
SAMPLES, _INPUTS = 16, 12
_T1 = 100.0
_SGD = Descent("gd", 0.1, 200, batch_size=8)


class Case(NamedTuple):
    """An activation, a training, and whether the theorem covers them."""

    activation: str
    training: Any
    is_covered: bool


FLOW = "tanh, exact flow"
CASES = {
    FLOW: Case("tanh", ExactFlow(_T1, RTOL), True),
    "tanh, SGD": Case("tanh", _SGD, True),
    "SiLU, SGD": Case("silu", _SGD, True),
    "ReLU, SGD": Case("relu", _SGD, False),
    "identity, SGD": Case("identity", _SGD, False),
}


def one_run(key: PRNGKeyArray, case: Case, width: int, scheme: int | Array) -> Trajectory:
    """A network with random targets at Gaussian inputs."""
    x_key, y_key, net_key, batch_key = jax.random.split(key, 4)
    data = Dataset(jax.random.normal(x_key, (SAMPLES, _INPUTS)), jax.random.normal(y_key, (SAMPLES, 1)))
    net, mobility = network(net_key, shape_of(data, width), case.activation, list(SCHEMES.values()), scheme)
    observe = {"features": FeatureChange(net, data.x), "loss": measure.loss}
    return trained(case.training, net, mobility, data, batch_key, observe)


def _derive(runs: Runs) -> Runs:
    """Add `fallen`: log(ℒ(0)/ℒ(T)) over (2/N) min_t λ_min T, with the minimum over times; `left`: ℒ(T)/ℒ(0)."""
    rate = 2 / SAMPLES * runs[f"features.smallest_{HIDDEN}"].min("time")
    start, end = runs["loss"].isel(time=0), runs["loss_at_end"]
    return resolved(runs).assign(fallen=np.log(start / end) / (rate * _T1), left=end / start)


def _rows(runs: Runs) -> list[list[Panel]]:
    """A row of all parametrizations under exact flow, and a row of all cases under muP; losses at the largest width."""
    widest = int(runs["width"][-1])
    loss = partial(Through, "loss", label="training loss $\\mathcal{L}$", title=f"$n = {widest}$")
    flow, mup = {"case": FLOW}, {"scheme": "muP"}
    return [
        [*panels("scheme", flow, FLOW, "above: "), loss(hue="scheme", prefix="above: ", of={**flow, "width": widest})],
        [*panels("case", mup, "muP", "below: "), loss(hue="case", prefix="below: ", of={**mup, "width": widest})],
    ]


def _has_fallen(runs: Runs) -> tuple[str, bool]:
    least = float(runs["fallen"].min())
    return f"{quantiles(runs['fallen'])}, ≥ {least:.2f}", least >= 1


def _outside(name: str) -> dict[str, str]:
    return {} if CASES[name].is_covered else dict.fromkeys(SCHEMES, "outside of the theorem")


FEATURES = Experiment(
    "features",
    "Do features change at every width and stay linearly independent, and which networks reach zero error?",
    axes={"case": looped(CASES, quick=[FLOW]), "width": WIDTHS, "scheme": PLACES, "seed": seeds(8)},
    one_run=one_run,
    derive=_derive,
    panels=_rows,
    claims={
        statement: judgment
        for name in CASES
        for statement, judgment in claims(name, {"case": name}, _outside(name)).items()
    }
    | {
        f"{FLOW}, all parametrizations: ℒ(T) ≤ ℒ(0) exp(−(2/N) min_t λ_min T), H of the last hidden layer": Judged(
            "log(ℒ(0)/ℒ(T)) over that ≥ 1", _has_fallen, [f"features.smallest_{HIDDEN}", "loss"], of={"case": FLOW}
        ),
        f"{FLOW}, muP: what is left of the loss at t = {_T1:g}": Reported(
            lambda runs: f"{quantiles(runs['left'])} of the loss, ≤ {float(runs['left'].max()):.1g}",
            expected="the theorem says zero error if training converges, not that it does",
            of={"case": FLOW, "scheme": "muP"},
        ),
    },
    note="below: muP, where $\\lambda_{\\min}$ of identity is zero",
    seconds=(70, 1100),
)
