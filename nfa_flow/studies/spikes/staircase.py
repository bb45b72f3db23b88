"""Losses after one step against α as n grows: a staircase in the limit, but smooth at practical sizes.

A spike of order k is larger than the bulk by n^{kα − (k−1)/2} only, so the stairs are smooth at every practical n.
"""

from functools import partial

import numpy as np

from ...plot.style import color_of, swatch
from ...theory import spike_boundaries, spike_orders
from ..axes import batched, looped, seeds
from ..experiment import Experiment
from ..judgments import ForEach, Reported
from ..panels import THEORY, Axes, Entries, draw_means, legend_text
from ..runs import Runs, tabulated, together
from .common import ALPHA, LOSSES, after_step
from .predictions import Losses, expansion, limits, losses


def stairs(alpha: float) -> Losses:
    """The limits of training and test loss at α, which must not be a boundary."""
    return limits(spike_orders(alpha, expansion("relu")), "relu")


def _derive(runs: Runs) -> Runs:
    """Add both `losses`, their theory with spikes of actual size (`theory`), and their limits."""
    return runs.assign(
        losses=together(runs, LOSSES, "loss"),
        theory=tabulated(lambda n, alpha: losses(n, "relu", alpha), runs, ["samples", "alpha"], "loss"),
        limit=tabulated(stairs, runs, ["alpha"], "loss"),
    )


def _staircase(ax: Axes, dataset: Runs, loss: str) -> Entries:
    """A loss against α for each n, with the theory at that n and the limit."""
    runs, alphas, entries = dataset.sel(loss=loss), dataset["alpha"].values, {}
    for i, n in enumerate(runs["samples"].values.tolist()):
        color, of_size = color_of(i, runs.sizes["samples"]), runs.sel(samples=n)
        draw_means(ax, alphas, of_size["losses"], color)
        ax.plot(alphas, of_size["theory"], **THEORY | {"color": color})
        entries[legend_text(runs, "samples", n)] = swatch(color, marker="o", markersize=3.5)
    fine = np.setdiff1d(np.linspace(alphas[0], alphas[-1], 400), spike_boundaries(12))
    line = ax.plot(fine, [stairs(alpha)[list(LOSSES.values()).index(loss)] for alpha in fine.tolist()], color="black")[
        0
    ]
    ax.set(title=f"{loss} loss / mean $y^2$", xlabel=ALPHA)
    return entries | {"spikes of this size, theory": swatch(**THEORY), "limit $n \\to \\infty$": line}


def _distances(runs: Runs, expected: str) -> str:
    off = ((runs["losses"].mean("seed") / runs[expected] - 1) ** 2).mean("alpha") ** 0.5
    return ", ".join(f"{100 * float(each):.1f} % (n = {int(each['samples'])})" for each in off)


STAIRCASE = Experiment(
    "staircase",
    "Is there a staircase in alpha at practical sizes?",
    axes={
        "samples": looped([250, 500, 1000, 2000, 4000], quick=[200, 500], tiny=[40, 80], label="samples $n$"),
        "alpha": batched(
            [0.02, 0.08, 0.14, 0.2, 0.26, 0.32, 0.38, 0.44], quick=[0.05, 0.2, 0.3, 0.42], tiny=[0.2, 0.42]
        ),
        "seed": seeds(8),
    },
    one_run=after_step,
    derive=_derive,
    panels=[partial(_staircase, loss=loss) for loss in LOSSES.values()],
    claims={
        "{loss} loss: rms distance from the theory with": ForEach(
            "loss",
            {
                " spikes of their size": Reported(partial(_distances, expected="theory")),
                " the limit": Reported(partial(_distances, expected="limit")),
            },
        )
    },
    shown="mean and standard error",
    note="relu, step $\\eta = n^\\alpha$",
    seconds=(15, 530),
)
