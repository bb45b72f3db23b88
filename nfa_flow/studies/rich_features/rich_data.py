"""Rich features on images: handwritten digits, and CIFAR-10 if there is a local copy.

Change and independence of features are measured on the first 16 training samples. CIFAR-10 is not downloaded: the
environment variable `NFA_FLOW_CIFAR10` must name its archive or folder (see `nf.data.cifar10`); without it the
experiment uses only digits.
"""

import os
from functools import partial
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, PRNGKeyArray

from ... import Trajectory, measure
from ...data import cifar10, digits
from ...sweep import looped
from ...training import Descent
from ..axes import SIZES, Axis, seeds
from ..experiment import Experiment
from ..held_out import held_out_score, split
from ..judgments import Reported
from ..panels import AgainstWidth, Panel
from ..runs import Runs, quantiles
from ..schemes import network
from .against_width import claims, panels, resolved
from .common import PLACES, SCHEMES, WIDTHS, shape_of, trained
from .feature_change import FeatureChange
from .features import SAMPLES

CIFAR10 = "NFA_FLOW_CIFAR10"
_TRAINING, _HELD_OUT = 128, 256
_SGD = Descent("gd", 0.1, 200, batch_size=16)

# Under SP the first layer moves its features by n^{−3/2} and the second by n^{−½}. Images have so many inputs that the
# contribution of the first layer still counts in both at these widths.
_EARLY = "the layer below, −1.5, still counts at these widths"


class Images(NamedTuple):
    """The function that loads a dataset."""

    load: Any


def one_run(key: PRNGKeyArray, images: Images, width: int, scheme: int | Array) -> Trajectory:
    """A tanh network trained on some of the images and tested on others."""
    order_key, net_key, batch_key = jax.random.split(key, 3)
    data, held_out = split(images.load(), _TRAINING, _HELD_OUT, key=order_key)
    net, mobility = network(net_key, shape_of(data, width), "tanh", list(SCHEMES.values()), scheme)
    observe = {
        "features": FeatureChange(net, data.x[:SAMPLES]),
        "loss": measure.loss,
        "accuracy": lambda net, data: held_out_score(net, held_out),
    }
    return trained(_SGD, net, mobility, data, batch_key, observe)


def _available(names: tuple[str, ...]) -> Any:
    """The axis of those among these datasets that are available when the grid is built."""
    path = os.environ.get(CIFAR10)
    here = {"digits": Images(digits)} | ({"CIFAR-10": Images(partial(cifar10, path))} if path else {})
    return looped({name: here[name] for name in names if name in here})


_NAMES = ("digits", "CIFAR-10")
_IMAGES = Axis(dict.fromkeys(SIZES, _NAMES), _available)


def _rows(runs: Runs) -> list[list[Panel]]:
    """A row for each dataset: the last hidden layer, and the accuracy on held-out samples."""
    linear = {"yscale": "linear", "ylim": (0, 1)}
    accuracy = partial(AgainstWidth, "accuracy", hue="scheme", label="held-out accuracy", starts=True, axis=linear)
    return [
        [*panels("scheme", {"images": name}, f"{name}, SGD"), accuracy(of={"images": name}, title=f"{name}, SGD")]
        for name in runs["images"].values.tolist()
    ]


def _accuracy(runs: Runs) -> str:
    return f"{quantiles(runs['accuracy'].isel(time=0))} → {quantiles(runs['accuracy_at_end'])}"


_WIDEST = Reported(_accuracy, of={"width": lambda width: width == width.max()})

RICH_DATA = Experiment(
    "rich-data",
    "Are features as rich on images: digits, and CIFAR-10 if the variable NFA_FLOW_CIFAR10 names its folder?",
    axes={"images": _IMAGES, "width": WIDTHS, "scheme": PLACES, "seed": seeds(8)},
    one_run=one_run,
    derive=resolved,
    panels=_rows,
    claims={
        statement: judgment
        for name in _NAMES
        for statement, judgment in claims(
            f"{name}, tanh, SGD",
            {"images": name},
            {"SP": _EARLY},
            {": accuracy on held-out samples at n = {last width}, untrained → at the end": _WIDEST},
        ).items()
    },
    seconds=(35, 140),
)
