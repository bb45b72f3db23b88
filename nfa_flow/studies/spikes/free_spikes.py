"""The limits of the losses of ridge regression with no, one and two free spikes, against simulations as n grows.

A free spike is an infinitely large one: a direction of the features that costs no penalty. Means over draws are off
their limit by a multiple of 1/n, so they are extrapolated. Losses are over the mean square of the targets of the draw,
whose spread would hide all else.
"""

from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ...data import Dataset
from ...nets import MLP
from ...one_step import cancel_output, features, gradient_vector, powers, ridge_fit
from ...plot.style import color_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, looped
from ...theory import ridge_losses
from ...width import WidthLimit, width_limit
from ..claims import Claim, judged
from ..old_experiment import OldExperiment
from ..training import Untrained
from .common import NOISE, PENALTY, PHI, PSI, TEACHER, draw, energy, expansion

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACTIVATION = "relu"
_ORDERS = {"no spike": (), "one free spike": (1,), "two free spikes": (1, 2)}
_LOSSES = ("train", "test")


def grid(quick: bool) -> Grid:
    """Numbers of samples × seeds."""
    return Grid(samples=looped([150, 300, 600] if quick else [375, 750, 1500, 3000]), seed=range(16 if quick else 64))


def one_run(key: PRNGKeyArray, samples: int) -> Trajectory:
    """Random features with the powers of X̃β for free, β from targets without the network's output, as in the paper."""
    drawn = draw(key, samples, _ACTIVATION, TEACHER)
    beta = gradient_vector(drawn.net, cancel_output(drawn.net, drawn.batch))[:, 0]
    observe = {"losses": eqx.Partial(losses, beta=beta, samples=samples)}
    return Untrained()(drawn.net, drawn.fresh, key, observe=observe, progress=False)


def losses(net: MLP, data: Dataset, beta: Float[Array, " d"], samples: int) -> Float[Array, "spikes 2"]:
    """(train, test) over the mean square of the targets, for each number of free spikes; an observable."""
    F, (x, y) = features(net, data.x), (data.x, data.y[:, 0])
    fitted, tested = slice(None, samples), slice(samples, None)
    over = jnp.stack([jnp.mean(y[part] ** 2) for part in (fitted, tested)])
    pairs = []
    for orders in _ORDERS.values():
        U = powers(x, beta, orders) if orders else jnp.zeros((len(x), 0), x.dtype)
        fit = ridge_fit(F[fitted], y[fitted], PENALTY, free=U[fitted])
        pairs.append(jnp.stack([fit.train, fit.test(F[tested], y[tested], free=U[tested])]) / over)
    return jnp.stack(pairs)


def limits() -> Float[np.ndarray, "spikes 2"]:
    """(train, test) of the theory over E[y²], for each number of free spikes."""
    given = PENALTY, PHI, PSI, expansion(_ACTIVATION), expansion(TEACHER)
    return np.array([ridge_losses(*given, noise=NOISE, orders=each) for each in _ORDERS.values()]) / energy(TEACHER)


def extrapolated(dataset: "xarray.Dataset") -> list[list[tuple[np.ndarray, WidthLimit]]]:
    """For each number of free spikes and each loss: the values (samples, seeds), and the limit of their means."""
    values = dataset["losses"].isel(time=-1).transpose(..., "samples", "seed").values
    counts = dataset["samples"].values.tolist()
    return [[(each, width_limit(counts, each)) for each in pair] for pair in values]


def figure(dataset: "xarray.Dataset") -> "Figure":
    """Mean losses against 1/n with the line through them, and the limits of the theory."""
    sheet, axes = new_figure(len(_LOSSES))
    found, expected, entries = extrapolated(dataset), limits(), {}
    for i, label in enumerate(_ORDERS):
        for j, ax in enumerate(axes):
            entries |= _draw(ax, 1 / dataset["samples"].values, *found[i][j], color_of(i, len(_ORDERS)), label)
            entries["limit, theory"] = ax.plot(0, expected[i, j], "kx", zorder=5, clip_on=False)[0]
    for ax, name in zip(axes, _LOSSES, strict=True):
        ax.set(title=f"{name} loss / mean $y^2$", xlabel="$1/n$")
        ax.set_xlim(0)
    seeds = dataset.sizes["seed"]
    title = f"{_ACTIVATION}; mean ± standard error over {seeds} seeds, and $v_\\infty + c/n$"
    legend_below(sheet, entries, title)
    return sheet


def _draw(
    ax: "Axes", inverse: np.ndarray, values: np.ndarray, fit: WidthLimit, color: str, label: str
) -> dict[str, Any]:
    error = values.std(axis=1, ddof=1) / values.shape[1] ** 0.5
    ax.errorbar(inverse, values.mean(axis=1), error, color=color, marker="o", markersize=3.5, linestyle="", capsize=2)
    line = np.array([0.0, inverse.max()])
    return {label: ax.plot(line, fit.limit + fit.slope * line, color=color)[0]}


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """The limits by extrapolation against those of the theory, beside what the largest n gives by itself."""
    largest, found = int(dataset["samples"].values[-1]), []
    for orders, pair, expected in zip(_ORDERS, extrapolated(dataset), limits(), strict=True):
        for name, (values, fit), limit in zip(_LOSSES, pair, expected, strict=True):
            off = abs(fit.limit - limit) / fit.error
            at_largest = values[-1].mean(), values[-1].std(ddof=1) / values.shape[1] ** 0.5
            measured = (
                f"{fit.limit:.4f} ± {fit.error:.1g}, off by {off:.1f} standard errors; "
                f"at n = {largest}: {at_largest[0]:.4f} ± {at_largest[1]:.1g}"
            )
            statement = f"{orders}: {name} loss / mean y², v_∞ of means over seeds = v_∞ + c/n"
            expected = f"{limit:.4f} within 2 standard errors"
            found.append(judged(statement, expected, measured, bool(off <= 2), dataset, ["losses_at_end"]))
    return found


FREE_SPIKES = OldExperiment(
    name="free-spikes",
    question="Do the losses with free spikes tend to their limits?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(20, 240),
)
