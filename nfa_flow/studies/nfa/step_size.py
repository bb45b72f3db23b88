"""The distance of gradient descent from the flow, and from the ansatz at 1/L, is proportional to its step size."""

from functools import partial

import jax
from jaxtyping import PRNGKeyArray

from ... import Trajectory, measure, nets
from ...training import Descent, ExactFlow
from ..axes import looped, seeds
from ..experiment import Experiment
from ..judgments import PowerLaw
from ..panels import AtEnd, Slope
from ..runs import Runs
from .common import ERROR_AT, imbalance, teacher, widths

_DEPTH, _T1 = 3, 10.0


def one_run(key: PRNGKeyArray, learning_rate: float) -> Trajectory:
    """A balanced linear network trained to the same time with any step size; 0 means the exact flow."""
    data_key, net_key, null_key = jax.random.split(key, 3)
    data = teacher(data_key)
    net = nets.MLP(widths(_DEPTH), key=net_key, init=nets.Balanced(scale=0.3))
    untrained = nets.MLP(widths(_DEPTH), key=null_key)
    error = measure.alignment(1 / _DEPTH, metric="relative_error")
    observe = {
        "nfm": measure.nfm,
        "relative_error": error,
        "imbalance": imbalance,
        "untrained": lambda net, data: {"relative_error": error(untrained, data)},
    }
    options = {"observe": observe, "progress": False}
    if learning_rate == 0:
        return ExactFlow(_T1, rtol=1e-9)(net, data, key, save_at=[0.0, _T1], **options)
    steps = round(_T1 / learning_rate)
    return Descent("gd", learning_rate, steps)(net, data, key, save_at=[0, steps], **options)


def with_distance(dataset: Runs) -> Runs:
    """The runs of gradient descent, with the relative distance of their final NFM from that of the flow."""
    flow, descent = dataset.sel(learning_rate=0.0), dataset.sel(learning_rate=dataset["learning_rate"] > 0)
    axes = [dim for dim in flow["nfm_at_end"].dims if dim != "seed"]
    size = (flow["nfm_at_end"] ** 2).sum(axes, skipna=False) ** 0.5
    apart = ((descent["nfm_at_end"] - flow["nfm_at_end"]) ** 2).sum(axes, skipna=False) ** 0.5 / size
    return descent.assign(distance=apart.transpose(*descent["status"].dims))


_panel = partial(AtEnd, against="learning_rate", law=Slope(1.0), theory="slope 1", axis={"yscale": "log"})
_first_order = partial(
    PowerLaw,
    against="learning_rate",
    power=1.0,
    within=0.1,
    expected="∝ step size: median slope 1 ± .1 at the smallest",
)

STEP_SIZE = Experiment(
    "step-size",
    "How fast does gradient descent approach the flow, and the ansatz, as its step shrinks?",
    axes={
        "learning_rate": looped(
            [0.0, 0.04, 0.02, 0.01, 0.005, 0.0025], [0.0, 0.02, 0.01], [0.0, 0.04, 0.02], label="step size $\\eta$"
        ),
        "seed": seeds(16),
    },
    one_run=one_run,
    derive=with_distance,
    panels=[
        _panel("distance", label="NFM, relative distance from the flow"),
        _panel("relative_error", label=ERROR_AT.format("1/3"), baseline="untrained, Gaussian"),
        _panel("imbalance", label="imbalance $(\\sum_l\\|D_l\\|^2)^{1/2}$"),
    ],
    claims={
        "GD to the same time: distance of the NFM from the flow's": _first_order("distance"),
        "GD: error of the ansatz at 1/L": _first_order("relative_error_at_end"),
        "GD: loss of balance": _first_order("imbalance_at_end"),
    },
    seconds=(15, 25),
)
