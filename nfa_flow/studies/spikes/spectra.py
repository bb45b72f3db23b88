"""The spectrum of the features before one step and after steps of four sizes, with predictions."""

from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from ...plot.style import GRAY, PALETTE
from ..axes import batched, seeds
from ..experiment import Experiment
from ..judgments import Judged
from ..panels import THEORY, Axes, Entries
from ..runs import Runs
from .common import ALPHA, SINGULAR_VALUES, after_step, between, listed, samples, with_spikes
from .predictions import bulk_edge, spikes

_AGREES = 0.08


def _predicted(runs: Runs) -> Float[np.ndarray, " s"]:
    return spikes(int(runs["samples"]), "relu", float(runs["alpha"]))


def _spectrum(ax: Axes, dataset: Runs, alpha: float) -> Entries:
    """Histograms of all singular values of all seeds, before and after, and the spikes of each seed."""
    runs, edge = dataset.sel(alpha=alpha).isel(samples=0), bulk_edge("relu")
    before, after = (runs[name].dropna("seed").values for name in ("before_at_end", SINGULAR_VALUES))
    top = np.sqrt(max(after.max(initial=0), 1.5 * edge))
    bins = np.linspace(0, top, 60) ** 2  # finer near zero, for the bulk
    outline: Any = ax.hist(before.ravel(), bins, density=True, histtype="step", color=GRAY)[2]
    filled: Any = ax.hist(after.ravel(), bins, density=True, color=PALETTE[0], alpha=0.5)[2]
    seen = np.concatenate([row[: int(count)] for row, count in zip(after, runs["count"].dropna("seed"), strict=True)])
    marks = ax.plot(seen, np.full(seen.size, 0.02), "|", color=PALETTE[1], transform=ax.get_xaxis_transform())[0]
    line = ax.axvline(edge, color="black", linewidth=1.0)
    entries = {"before the step": outline[0], "after": filled[0], "spikes seen, each seed": marks}
    entries["predicted edge of the bulk"] = line
    for place in _predicted(runs):
        entries["predicted spikes"] = ax.axvline(place, **THEORY)
    ax.set(title=f"$\\alpha = {alpha:g}$", xlabel="singular value / $\\sqrt{n}$", ylabel="density", yscale="log")
    return entries


def _margin(runs: Runs) -> float:
    return 2 * int(runs["samples"][0]) ** (-2 / 3)


def _ends_there(runs: Runs) -> tuple[str, bool]:
    largest = float(runs["before_at_end"].max("before[1]").median())
    return f"{largest:.3f}", abs(largest / bulk_edge("relu") - 1) <= _margin(runs)


def _are_there(runs: Runs) -> tuple[str, bool]:
    expected = _predicted(runs)
    seen = runs[SINGULAR_VALUES].median("seed").values[: len(expected)]
    agrees = bool(np.all(np.abs(seen / expected - 1) <= _AGREES))
    return f"{listed(seen)}; {between(runs['count'])} stand out", agrees


SPECTRA = Experiment(
    "spectra",
    "How does one step change the spectrum of the features, and does theory predict it?",
    axes={
        "samples": samples(2000),
        "alpha": batched([0.1, 0.2, 0.3, 0.42], tiny=[0.2, 0.42], label=ALPHA),
        "seed": seeds(16),
    },
    one_run=partial(after_step, before=True),
    derive=partial(with_spikes, first=1),
    panels=lambda runs: [partial(_spectrum, alpha=alpha) for alpha in runs["alpha"].values.tolist()],
    claims={
        "features before the step: the bulk ends at its predicted edge": Judged(
            lambda runs: f"within 2n^−⅔ = {_margin(runs):.3f} of {bulk_edge('relu'):.3f}",
            _ends_there,
            ["before_at_end"],
        ),
        "relu, n = {samples}, α = {alpha}: spikes where they are predicted": Judged(
            lambda runs: f"{listed(_predicted(runs))}, within {100 * _AGREES:g} %",
            _are_there,
            [SINGULAR_VALUES],
            each=["samples", "alpha"],
        ),
    },
    shown="all singular values",
    note="relu, step $\\eta = n^\\alpha$",
    seconds=(15, 80),
)
