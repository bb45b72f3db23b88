"""Balanced deep linear networks: the exponent is 1/L along the flow, and what step-based optimisers make of it."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ... import nets
from ...data import linear_teacher
from ...plot.at_end import at_end
from ...plot.bands import bands
from ...plot.style import legend_below, new_figure
from ...sweep import Grid, looped
from ...trajectory import Trajectory
from ..experiment import Claim, Experiment, quantiles
from ..training import Descent, ExactFlow, Untrained
from .common import EXACT, observables

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

_INPUTS, _OUTPUTS, _SAMPLES = 10, 5, 200
_SHOWN = 3  # the depth whose runs are drawn through time
_UNTRAINED = "untrained, Gaussian"

_T1 = 30.0
TRAININGS = {
    "exact flow": ExactFlow(_T1, rtol=1e-9),
    "GD .03": Descent("gd", 0.03, 1_000),
    "GD .01": Descent("gd", 0.01, 3_000),
    "GD .003": Descent("gd", 0.003, 10_000),
    "SGD .01": Descent("gd", 0.01, 3_000, batch_size=32),
    "SGD momentum .001": Descent("momentum", 0.001, 3_000, batch_size=32),
    "Adam .001": Descent("adam", 0.001, 3_000),
    "AdamW .001": Descent("adamw", 0.001, 3_000, adamw_decay=0.1),
    _UNTRAINED: Untrained(),
}
_QUICK = ("exact flow", "GD .03", "Adam .001", _UNTRAINED)


def grid(quick: bool) -> Grid:
    """Depths × ways to train × seeds."""
    trainings = {name: TRAININGS[name] for name in (_QUICK if quick else TRAININGS)}
    return Grid(depth=looped([2, 3] if quick else [2, 3, 4, 5, 6]), training=trainings, seed=range(8 if quick else 16))


def one_run(key: PRNGKeyArray, depth: int, training: Any) -> Trajectory:
    """A linear network of `depth` layers on the data of a linear teacher with label noise."""
    data_key, net_key, batch_key = jax.random.split(key, 3)
    data = linear_teacher(data_key, _SAMPLES, _INPUTS, _OUTPUTS, noise=0.1)
    init = nets.Gaussian() if isinstance(training, Untrained) else nets.Balanced(scale=0.3)
    net = nets.MLP([_INPUTS] * depth + [_OUTPUTS], key=net_key, init=init)
    return training(net, data, batch_key, observe=observables(1 / depth), progress=False)


def figure(dataset: "xarray.Dataset") -> "Figure":
    """Relative error and fitted exponent through time, and both at the end against the depth."""
    trained = dataset.sel(training=dataset["training"] != _UNTRAINED)
    shown = trained.sel(depth=_SHOWN)
    sheet, axes = new_figure(4)
    bands(shown, "relative_error", hue="training", ax=axes[0]).set_title(f"L = {_SHOWN}, through time")
    bands(shown, "cosine", hue="training", ax=axes[1]).set_title(f"L = {_SHOWN}, through time")
    at_end(dataset, "relative_error", against="depth", hue="training", ax=axes[2]).set_title("at the end")
    at_end(dataset, "exponent.exponent", against="depth", hue="training", ax=axes[3]).set_title("at the end")
    depths = dataset["depth"].values
    axes[3].plot(depths, 1 / depths, "k--", linewidth=1.2, label="1/L")
    for ax in axes[:2]:
        ax.get_legend().remove()
    handles, labels = axes[3].get_legend_handles_labels()
    legend_below(sheet, dict(zip(labels, handles, strict=True)), "median and 10–90 % over seeds")
    return sheet


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """What balance does for the flow, and what it leaves of it for optimisers."""
    flow = dataset.sel(training="exact flow")
    worst = float(flow["relative_error"].max())
    products = flow["exponent.exponent"] * flow["depth"]
    off = float(np.abs(products - 1).max())
    found = [
        Claim(
            "balanced, exact flow: NFM ∝ AGOP^{1/L} at all times",
            f"relative error ≤ {EXACT:g}",
            f"≤ {worst:.1g}",
            worst <= EXACT,
        ),
        Claim("balanced, exact flow: fitted exponent is 1/L", f"|α̂L − 1| ≤ {EXACT:g}", f"≤ {off:.1g}", off <= EXACT),
    ]
    for name in dataset["training"].values:
        if name not in ("exact flow", _UNTRAINED):
            ends = dataset.sel(training=name)
            error, product = ends["relative_error_at_end"], ends["exponent.exponent_at_end"] * ends["depth"]
            measured = f"{quantiles(error)}; α̂L {quantiles(product)}"
            found.append(Claim(f"balanced, {name}: relative error at the end", "reported", measured, None))
    return found


DEPTH = Experiment(
    name="depth",
    question="Do balanced deep linear networks keep the exponent 1/L, along the flow and under optimisers?",
    one_run=one_run,
    grid=grid,
    figure=figure,
    claims=claims,
    seconds=(30, 240),
)
