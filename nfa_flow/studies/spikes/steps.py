"""The same time η in one step, in several, or along the exact flow of the first layer: is one large step special?

Small steps stop when the first layer has fitted the batch; one large step goes far beyond that, so its spikes are
larger. This extends the paper; there is no theory to compare with.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from ...one_step import flow_step, one_step
from ..axes import batched, looped, seeds
from ..experiment import Experiment
from ..judgments import Reported
from ..panels import AtEnd
from ..runs import Runs
from .common import after_step, between, listed, samples, with_spikes

_ACTIVATION = "softplus"
_ONE, _FLOW = "1 step", "exact flow"
WAYS: dict[str, Callable[..., Any]] = {
    _ONE: one_step,
    "2 steps": partial(one_step, steps=2),
    "10 steps": partial(one_step, steps=10),
    _FLOW: flow_step,
}


def _ends(runs: Runs) -> str:
    first, test = listed(runs["size"].median("seed")), float(runs["features.test_at_end"].median())
    return f"{first}; {between(runs['count'])} stand out; test loss {test:.3f}"


def _apart(runs: Runs) -> str:
    first = runs["size"].isel(spike=0)
    return f"off by {100 * float(abs(first.sel(way=_FLOW) / first.sel(way=_ONE) - 1).median()):.1f} %"


_panel = partial(AtEnd, against="alpha", hue="way")

STEPS = Experiment(
    "steps",
    "Does one large step have the same effect as many small steps, or the flow, in the same time?",
    axes={
        "samples": samples(1000, quick=300),
        "way": looped(WAYS, quick=[_ONE, _FLOW]),
        "alpha": batched(
            [0.0, 0.1, 0.2, 0.3, 0.36, 0.42],
            quick=[0.1, 0.25, 0.42],
            tiny=[0.1, 0.42],
            label="time $\\eta = n^\\alpha$, exponent $\\alpha$",
        ),
        "seed": seeds(8),
    },
    one_run=partial(after_step, activation=_ACTIVATION),
    derive=partial(with_spikes, first=2),
    panels=[
        _panel("size", of={"spike": "$s_{1}$"}, label="first singular value / $\\sqrt{n}$"),
        _panel("size", of={"spike": "$s_{2}$"}, label="second singular value / $\\sqrt{n}$"),
        _panel("features.train", label="training loss / mean $y^2$"),
        _panel("features.test", label="test loss / mean $y^2$"),
    ],
    claims={
        "{way}, α = {alpha}: first singular values": Reported(
            _ends, of={"alpha": lambda alpha: alpha == alpha.max()}, each=["samples", "way", "alpha"]
        ),
        f"α = {{alpha}}: the first singular value after one step beside that of the {_FLOW}": Reported(
            _apart, of={"way": [_ONE, _FLOW], "alpha": lambda alpha: alpha == alpha.min()}, each=["samples", "alpha"]
        ),
    },
    note=_ACTIVATION,
    seconds=(30, 210),
)
