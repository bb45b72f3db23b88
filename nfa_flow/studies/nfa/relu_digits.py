"""NFM and AGOP of ReLU networks on the digits, along the exact flow across hundreds of kinks.

Every run certifies itself (see `certificate`). Along the way samples come to lie on kinks, where the network has no
gradient; the score is the better one of both sides, and how far apart they are is measured too.
"""

from functools import partial

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ... import Trajectory, gradient_flow, log_times, measure, nets
from ...data import digits
from ..axes import batched, looped, seeds
from ..experiment import Experiment
from ..held_out import split
from ..judgments import Reported
from ..panels import Through
from ..runs import Runs, quantiles
from .common import best_of_both_sides, certificate

_WIDTH, _T1 = 16, 5.0


def one_run(key: PRNGKeyArray, samples: int, scale: float | Array) -> Trajectory:
    """A two-layer network on some of the digits, with Gaussian weights of standard deviation scale/√fan_in."""
    data_key, net_key = jax.random.split(key)
    data, _ = split(digits(), samples, 1, key=data_key)
    net = nets.MLP([data.inputs, _WIDTH, data.outputs], key=net_key, activation="relu", init=nets.Gaussian(scale))
    observe = {"loss": measure.loss, "best": best_of_both_sides}
    times = np.concatenate([[0.0], log_times(1e-2, _T1, 25)])
    return gradient_flow(net, data, _T1, observe=observe, save_at=times, certify=True, progress=False)


def _through_training(name: str, runs: Runs) -> str:
    return f"{quantiles(runs[name].isel(time=0))} → {quantiles(runs[f'{name}_at_end'])}"


def _events(runs: Runs) -> str:
    return quantiles((runs["crossings"] + runs["slides"]) / (runs["samples"] * _WIDTH))


_panel = partial(Through, hue="scale")
_REPORTS = {
    "relative error at the best exponent": "best.relative_error",
    "best exponent": "best.exponent",
    "difference of that error by both sides of the kinks": "best.apart",
    "loss": "loss",
}

RELU_DIGITS = Experiment(
    "relu-digits",
    "How are NFM and AGOP of a ReLU network related along its exact flow on real data?",
    axes={
        "samples": looped([100], quick=[30], tiny=[20], label="samples $n$"),
        "scale": batched([0.3, 1.0], quick=[1.0], label="scale of the start $s$"),
        "seed": seeds(8),
    },
    one_run=one_run,
    panels=[
        _panel("loss", title="fit"),
        _panel("best.relative_error", label="error at the best $\\alpha$", title="NFM $\\propto$ AGOP$^\\alpha$"),
        _panel("best.exponent", law=0.5, theory="$1/2$", label="best exponent $\\alpha$", title="its exponent"),
        _panel("best.apart", label="difference of errors", title="both sides of the kinks"),
    ],
    claims=certificate(1e-5)
    | {"crossings and slides on the way, for each kink": Reported(_events)}
    | {
        f"scale {{scale}}: {what}, untrained → at the end": Reported(partial(_through_training, name), each="scale")
        for what, name in _REPORTS.items()
    },
    seconds=(45, 90),
)
