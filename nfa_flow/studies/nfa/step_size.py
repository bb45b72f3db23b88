"""Gradient descent approaches the flow in proportion to its step size, and with it the ansatz at 1/L."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from ... import measure, nets
from ...data import Dataset, linear_teacher
from ...descent import gradient_descent
from ...flow import gradient_flow
from ...plot.at_end import at_end
from ...plot.style import GRAY, house_style, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, looped
from ..claims import Claim, judged
from ..experiment import Experiment, quantiles

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DEPTH, _T1 = 3, 10.0
_RATES = (0.04, 0.02, 0.01, 0.005, 0.0025)


def grid(quick: bool) -> Grid:
    """Step sizes, where 0 is the exact flow, × seeds."""
    return Grid(learning_rate=looped([0.0, *(_RATES[1:3] if quick else _RATES)]), seed=range(8 if quick else 16))


def one_run(key: PRNGKeyArray, learning_rate: float) -> Trajectory:
    """A balanced linear network, to the same time with any step size."""
    data_key, net_key, null_key = jax.random.split(key, 3)
    data = linear_teacher(data_key, 200, 10, 5, noise=0.1)
    widths = [10] * _DEPTH + [5]
    net = nets.MLP(widths, key=net_key, init=nets.Balanced(scale=0.3))
    untrained = nets.MLP(widths, key=null_key)
    error = measure.alignment(1 / _DEPTH, metric="relative_error")
    observe = {
        "nfm": measure.nfm,
        "relative_error": error,
        "imbalance": _imbalance,
        "untrained_error": lambda net, data: error(untrained, data),
    }
    if learning_rate == 0:
        return gradient_flow(net, data, _T1, save_at=[0.0, _T1], rtol=1e-9, observe=observe, progress=False)
    steps = round(_T1 / learning_rate)
    return gradient_descent(
        net, data, optax.sgd(learning_rate), steps, save_at=[0, steps], observe=observe, progress=False
    )


def _imbalance(net: nets.MLP, data: Dataset) -> Float[Array, ""]:
    return jnp.sqrt(sum(jnp.sum(D**2) for D in measure.balance(net, data)))


def with_distance(dataset: "xarray.Dataset") -> "xarray.Dataset":
    """The runs of gradient descent, with the distance of their NFM at the end from that of the flow, relative to it."""
    flow, descent = dataset.sel(learning_rate=0.0), dataset.sel(learning_rate=dataset["learning_rate"] > 0)
    axes = [dim for dim in flow["nfm_at_end"].dims if dim != "seed"]
    size = (flow["nfm_at_end"] ** 2).sum(axes) ** 0.5
    apart = ((descent["nfm_at_end"] - flow["nfm_at_end"]) ** 2).sum(axes) ** 0.5 / size
    return descent.assign(distance=apart.transpose(*descent["status"].dims))


def slope(dataset: "xarray.Dataset", name: str) -> "xarray.DataArray":
    """d log(value) / d log(step size) between the two smallest steps, of each seed."""
    smallest, larger = (dataset.sortby("learning_rate").isel(learning_rate=i) for i in (0, 1))
    rise: Any = np.log(larger[name] / smallest[name])
    return rise / np.log(larger["learning_rate"] / smallest["learning_rate"])


_PANELS = {
    "distance": "NFM, relative distance from the flow",
    "relative_error_at_end": "relative error of NFM $\\propto$ AGOP$^{1/3}$",
    "imbalance_at_end": "imbalance $(\\sum_l\\|D_l\\|^2)^{1/2}$",
}


def figure(dataset: "xarray.Dataset") -> "Figure":
    """Distance from the flow, error of the ansatz and loss of balance against the step size."""
    descent = with_distance(dataset)
    sheet, axes = new_figure(3)
    for ax, (name, label) in zip(axes, _PANELS.items(), strict=True):
        at_end(descent, name, against="learning_rate", ax=ax, label=label)
        ax.set_xlabel("step size $\\eta$")
        ax.set_yscale("log")
        _draw_first_order(ax, descent, name)
    null = float(dataset["untrained_error_at_end"].median())
    axes[1].axhline(null, color=GRAY, linestyle=":", linewidth=1, label="untrained, Gaussian")
    with house_style():
        axes[1].legend(fontsize=7.5)
    return sheet


def _draw_first_order(ax: "Axes", descent: "xarray.Dataset", name: str) -> None:
    """The line of slope one through the median at the smallest step."""
    medians = descent[name].median("seed").sortby("learning_rate")
    rates = medians["learning_rate"].values
    ax.plot(rates, medians.values[0] * rates / rates[0], "k--", linewidth=1.2, zorder=5, label="slope 1")


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """All three are of first order in the step size."""
    descent, found = with_distance(dataset), []
    statements = {
        "distance": "GD to the same time: distance of the NFM from the flow's",
        "relative_error_at_end": "GD: error of the ansatz at 1/L",
        "imbalance_at_end": "GD: loss of balance",
    }
    for name, statement in statements.items():
        slopes = slope(descent, name)
        holds = bool(np.abs(slopes.median() - 1) <= 0.1)
        expected, measured = "∝ step size: median slope 1 ± .1 at the smallest", quantiles(slopes, "{:.3f}")
        found.append(judged(statement, expected, measured, holds, descent, [name]))
    return found


STEP_SIZE = Experiment(
    name="step-size",
    question="How fast does gradient descent approach the flow, and the ansatz, as its step shrinks?",
    one_run=one_run,
    grid=grid,
    figure=figure,
    claims=claims,
    seconds=(15, 25),
)
