"""The same step on handwritten digits: spikes in the features of real data, where no theory says what to expect.

Half of the 1797 images are for the step, the others for the features. There are ten outputs, so that the first gradient
is nearly of rank ten; inputs are neither independent nor normal, and spikes are there before the step too.
"""

from typing import TYPE_CHECKING, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ...data import Dataset
from ...data import digits as load_digits
from ...nets import MLP
from ...one_step import (
    feature_spectrum,
    features,
    gradient_vector,
    observed_spikes,
    one_step,
    spike_overlap,
    two_layer_net,
)
from ...plot.style import GRAY, PALETTE, entries_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, looped
from ..claims import Claim, reported
from ..old_experiment import OldExperiment
from ..training import Untrained
from .common import middle

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

_WIDTH, _ACTIVATION = 400, "relu"
_SHOWN, _COLORED = 10, 3  # spikes


class Spikes(NamedTuple):
    """All `singular_values` over √n; `overlap` of the first left singular vectors with the ten columns of X̃β."""

    singular_values: Float[Array, " r"]
    overlap: Float[Array, " s"]


def spikes_of(net: MLP, data: Dataset, beta: Float[Array, "d c"]) -> Spikes:
    """Of the features on fresh images; an observable."""
    spectrum = feature_spectrum(features(net, data.x), vectors=_SHOWN)
    return Spikes(spectrum.singular_values, spike_overlap(spectrum.left, data.x @ beta))


def grid(quick: bool) -> Grid:
    """Sizes of the step × seeds, which draw the network and the halves."""
    return Grid(
        samples=looped([300 if quick else 1797]),
        eta=[1e-2, 1.0, 10.0, 100.0] if quick else [1e-2, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0],
        seed=range(8),
    )


def one_run(key: PRNGKeyArray, samples: int, eta: float | Array) -> Trajectory:
    """A step on half of the images, looked at on the other half."""
    net_key, split_key = jax.random.split(key)
    data = load_digits()
    order = jax.random.permutation(split_key, data.samples)[:samples]
    batch, fresh = (Dataset(data.x[part], data.y[part]) for part in jnp.split(order, [samples // 2]))
    net = two_layer_net(data.inputs, _WIDTH, _ACTIVATION, key=net_key, outputs=data.outputs)
    observe = {"spikes": eqx.Partial(spikes_of, beta=gradient_vector(net, batch))}
    return Untrained()(one_step(net, batch, eta), fresh, key, observe=observe, progress=False)


def figure(dataset: "xarray.Dataset") -> "Figure":
    """The first singular values, how many stand out, and what they consist of, against η."""
    runs, etas = dataset.isel(samples=0), dataset["eta"].values
    sheet, axes = new_figure(3)
    values = runs["spikes.singular_values_at_end"].transpose("spikes.singular_values[1]", "eta", "seed").values
    overlap = runs["spikes.overlap_at_end"].transpose("spikes.overlap[1]", "eta", "seed").values
    for k, (column, share) in enumerate(zip(values[:_SHOWN], overlap, strict=False)):
        for ax, each in zip(axes[::2], (column, share), strict=True):
            low, median, high = middle(each)
            if k < _COLORED:
                ax.plot(etas, median, color=PALETTE[k], zorder=3, label=f"$s_{k + 1}$")
                ax.fill_between(etas, low, high, color=PALETTE[k], alpha=0.2, linewidth=0)
            else:
                ax.plot(etas, median, color=GRAY, linewidth=0.8, label=f"$s_{_COLORED + 1} … s_{{{_SHOWN}}}$")
    low, median, high = middle(_counts(runs))
    axes[1].plot(etas, median, color=PALETTE[5], marker="o", markersize=3)
    axes[1].fill_between(etas, low, high, color=PALETTE[5], alpha=0.2, linewidth=0)
    titles = "singular value / $\\sqrt{n}$", "spikes that stand out", "cos² with the ten columns of $\\tilde X\\beta$"
    for ax, title in zip(axes, titles, strict=True):
        ax.set(title=title, xlabel="step $\\eta$", xscale="log")
    axes[0].set_yscale("log")
    seeds = dataset.sizes["seed"]
    legend_below(sheet, entries_of(axes[0]), f"digits, {_ACTIVATION}; median and 10–90 % over {seeds} seeds")
    return sheet


def _counts(runs: "xarray.Dataset") -> np.ndarray:
    """How many spikes stand out, η × seed."""
    values = runs["spikes.singular_values_at_end"].transpose("eta", "seed", ...).values
    return np.array([[observed_spikes(row) for row in rows] for rows in values])


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """What stands out before, as the first step is next to none, and after."""
    runs, etas = dataset.isel(samples=0), dataset["eta"].values
    counts, found = _counts(runs), []
    values = runs["spikes.singular_values_at_end"].transpose("eta", "seed", ...).values
    overlap = runs["spikes.overlap_at_end"].transpose("eta", "seed", ...).values
    for i in (0, len(etas) // 2, len(etas) - 1):
        first = ", ".join(f"{each:.2f}" for each in np.median(values[i], axis=0)[:3])
        share = ", ".join(f"{each:.2f}" for each in np.median(overlap[i], axis=0)[:3])
        measured = f"{counts[i].min()}–{counts[i].max()} stand out; first {first}; cos² with X̃β {share}"
        found.append(reported(f"digits, η = {etas[i]:g}: spikes", measured, runs.isel(eta=[i])))
    return found


DIGITS = OldExperiment(
    name="digits",
    question="What spikes does a step leave in the features of real data?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(15, 15),
)
