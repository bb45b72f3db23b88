"""Rich features on images: handwritten digits, and CIFAR-10 where there is a copy of it.

The change of features and their independence are those of the first 16 of the training samples. CIFAR-10 is not
downloaded: the environment variable `NFA_FLOW_CIFAR10` names its archive or folder (see `nf.data.cifar10`), without
which the experiment is on digits alone.
"""

import os
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from jaxtyping import Array, PRNGKeyArray

from ... import measure
from ...data import Dataset, cifar10, digits
from ...plot.at_end import at_end
from ...plot.style import GRAY, color_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, batched, looped
from ..claims import Claim, reported
from ..held_out import held_out_score
from ..old_experiment import OldExperiment, quantiles
from ..width_fits import set_widths
from .common import SGD, network, places, widths_of
from .feature_change import FeatureChange
from .features import SAMPLES, claim_change, claim_independence, draw_sizes, report

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

CIFAR10 = "NFA_FLOW_CIFAR10"
_TRAINING, _HELD_OUT = 128, 256
_SGD = SGD(rate=0.1, steps=200, batch_size=16)

# Under SP the first layer moves its features by n^{−3/2} and the second by n^{−½}. With as many inputs as images have,
# what comes from the first still counts in both at these widths.
_EARLY = "the layer below, −1.5, still counts at these widths"


class Images(NamedTuple):
    """What loads a data set."""

    load: Any


def grid(quick: bool) -> Grid:
    """Data sets × widths × parametrizations × seeds."""
    images = {"digits": Images(digits)}
    if path := os.environ.get(CIFAR10):
        images["CIFAR-10"] = Images(partial(cifar10, path))
    return Grid(images=looped(images), width=looped(widths_of(quick)), scheme=batched(places(quick)), seed=range(8))


def one_run(key: PRNGKeyArray, images: Images, width: int, scheme: int | Array) -> Trajectory:
    """A tanh network on some of the images, tested on others."""
    order_key, net_key, batch_key = jax.random.split(key, 3)
    whole = images.load()
    order = jax.random.permutation(order_key, whole.samples)
    chosen = lambda places: Dataset(whole.x[places], whole.y[places])
    data, held_out = chosen(order[:_TRAINING]), chosen(order[_TRAINING : _TRAINING + _HELD_OUT])
    net, mobility = network(net_key, data, width, scheme, "tanh")
    observe = {
        "features": FeatureChange(net, data.x[:SAMPLES]),
        "loss": measure.loss,
        "accuracy": lambda net, data: held_out_score(net, held_out),
    }
    return _SGD(net, data, mobility, batch_key, observe=observe)


def figure(dataset: "xarray.Dataset") -> "Figure":
    """Last hidden layer, and accuracy on held-out samples, against the width, a row for each data set."""
    from matplotlib.lines import Line2D

    sheet, axes = new_figure(5, rows=dataset.sizes["images"])
    for row, name in enumerate(dataset["images"].values):
        panels, runs = axes[5 * row : 5 * row + 5], dataset.sel(images=name)
        draw_sizes(panels, runs, "scheme", f"{name}, SGD")
        at_end(runs, "accuracy", against="width", hue="scheme", ax=panels[-1], label="held-out accuracy")
        set_widths(panels[-1], dataset["width"].values)
        panels[-1].set(yscale="linear", ylim=(0, 1), title=f"{name}, SGD")
        panels[-1].axhline(float(runs["accuracy"].isel(time=0).median()), color=GRAY, linestyle=":", linewidth=1.2)
    schemes = dataset["scheme"].values
    entries: dict[str, Any] = {
        name: Line2D([], [], color=color_of(i, len(schemes)), marker="o", markersize=3.5)
        for i, name in enumerate(schemes)
    }
    entries["untrained"] = Line2D([], [], color=GRAY, linestyle=":")
    entries["promised power of $n$"] = Line2D([], [], color="black", linestyle="--")
    legend_below(sheet, entries, f"median and 10–90 % over {dataset.sizes['seed']} seeds")
    return sheet


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """As for random data, and the accuracy on held-out samples."""
    found = []
    for name in dataset["images"].values:
        runs, what = dataset.sel(images=name), f"{name}, tanh, SGD"
        schemes = [(scheme, runs.sel(scheme=scheme)) for scheme in runs["scheme"].values]
        found += [claim_change(of, what, scheme, _EARLY if scheme == "SP" else "") for scheme, of in schemes]
        found.append(claim_independence(runs.sel(scheme="muP"), what))
        for scheme, of in schemes:
            found.append(report(of, f"{what}, {scheme}"))
            start, end = of["accuracy"].isel(time=0, width=-1), of["accuracy_at_end"].isel(width=-1)
            measured = f"{quantiles(start)} → {quantiles(end)}"
            statement = f"{what}, {scheme}: accuracy on held-out samples at n = {int(of['width'][-1])}"
            found.append(reported(f"{statement}, untrained → at the end", measured, of.isel(width=[-1])))
    return found


RICH_DATA = OldExperiment(
    name="rich-data",
    question="Are features as rich on images: digits, and CIFAR-10 where the variable NFA_FLOW_CIFAR10 says where?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(35, 140),
)
