"""Balanced deep linear networks: the exponent is 1/L along the flow, and what step-based optimizers make of it."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ... import nets
from ...data import linear_teacher
from ...plot.at_end import at_end
from ...plot.bands import bands
from ...plot.style import GRAY, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, looped
from ..claims import Claim, judged, reported
from ..experiment import Experiment, quantiles
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
_QUICK = ("exact flow", "Adam .001", _UNTRAINED)


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
    """Relative error and cosine through time, relative error and fitted exponent at the end against the depth."""
    is_trained = dataset["training"] != _UNTRAINED
    trained, untrained = dataset.sel(training=is_trained), dataset.sel(training=_UNTRAINED)
    sheet, axes = new_figure(4)
    for ax, name in zip(axes[:2], ("relative_error", "cosine"), strict=True):
        bands(trained.sel(depth=_SHOWN), name, hue="training", ax=ax, legend=False)
        ax.set_title(f"$L = {_SHOWN}$, through time")
    depths = dataset["depth"].values
    for ax, name in zip(axes[2:], ("relative_error", "exponent.exponent"), strict=True):
        at_end(trained, name, against="depth", hue="training", ax=ax).set(title="at the end", xlabel="depth $L$")
        null = untrained[f"{name}_at_end"].median("seed")
        ax.plot(depths, null, color=GRAY, linestyle=(0, (1, 1)), label=_UNTRAINED)
    axes[3].plot(depths, 1 / depths, "k--", linewidth=1.2, zorder=5, label="$1/L$")
    handles, labels = axes[3].get_legend_handles_labels()
    legend_below(sheet, dict(zip(labels, handles, strict=True)), "median and 10–90 % over seeds; dotted: untrained")
    return sheet


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """What balance does for the flow, and what it leaves of it for optimizers."""
    flow = dataset.sel(training="exact flow")
    worst = float(flow["relative_error"].max())
    products = flow["exponent.exponent"] * flow["depth"]
    off = float(np.abs(products - 1).max())
    found = [
        judged(
            "balanced, exact flow: NFM ∝ AGOP^{1/L} at all times",
            f"relative error ≤ {EXACT:g}",
            f"≤ {worst:.1g}",
            worst <= EXACT,
            flow,
            ["relative_error"],
        ),
        judged(
            "balanced, exact flow: fitted exponent is 1/L",
            f"|α̂L − 1| ≤ {EXACT:g}",
            f"≤ {off:.1g}",
            off <= EXACT,
            flow,
            ["exponent.exponent"],
        ),
    ]
    for name in dataset["training"].values:
        if name not in ("exact flow", _UNTRAINED):
            ends = dataset.sel(training=name)
            error, product = ends["relative_error_at_end"], ends["exponent.exponent_at_end"] * ends["depth"]
            measured = f"{quantiles(error)}; α̂L {quantiles(product, '{:.3f}')}"
            found.append(reported(f"balanced, {name}: relative error at the end", measured, ends))
    return found


DEPTH = Experiment(
    name="depth",
    question="Do balanced deep linear networks keep the exponent 1/L, along the flow and under optimizers?",
    one_run=one_run,
    grid=grid,
    figure=figure,
    claims=claims,
    seconds=(30, 150),
)
