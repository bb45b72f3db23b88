"""Number, size and direction of the spikes after one step, against the size n^α of the step."""

from functools import partial

import numpy as np

from ...one_step import sizes
from ...plot.style import GRAY, color_of
from ...theory import spike_boundaries, spike_orders, spike_sizes
from ..axes import batched, looped, seeds
from ..claims import Claim
from ..experiment import Experiment
from ..judgments import ForEach, Judged, Reported
from ..panels import AtEnd, Axes, Entries
from ..runs import Runs, Where, filled, tabulated
from .common import ALPHA, PHI, PSI, SINGULAR_VALUES, after_step, between, listed, samples, with_spikes
from .predictions import bulk_edge, direction_of, expansion, spikes

_SHOWN = 3  # number of spikes
_AGREES = 0.08
_CLEAR = 1.2  # times the edge of the bulk: larger spikes are visible


def _derive(runs: Runs) -> Runs:
    """Add the first `predicted` spikes; NaN if there are fewer."""

    def first(n: int, activation: str, alpha: float) -> np.ndarray:
        found = spikes(n, activation, alpha)[:_SHOWN]
        return np.pad(found, (0, _SHOWN - len(found)), constant_values=np.nan)

    predicted = tabulated(first, runs, ["samples", "activation", "alpha"], "spike")
    return with_spikes(runs, _SHOWN).assign(predicted=predicted)


def _sizes(ax: Axes, runs: Runs, activation: str) -> Entries:
    """The first singular values against α, with predictions for all orders together and for each order alone."""
    of: Where = {"activation": activation}
    entries = AtEnd("size", against="alpha", hue="spike", of=of, law="predicted", title=activation)(ax, runs)
    n, alphas, function = int(runs["samples"][0]), _fine(runs), expansion(activation)
    norm, width, edge = float(direction_of(activation).norm), sizes(n, PHI, PSI).width, bulk_edge(activation)
    orders = [k for k in (1, 2, 3) if function.has(k)]
    alone = [spike_sizes(n**alpha, function, norm, width, orders) for alpha in alphas]
    entries["each order alone (source)"] = ax.plot(alphas, alone, color="black", linestyle=":", linewidth=1.2)[0]
    entries["predicted edge of the bulk"] = ax.axhline(edge, color="black", linewidth=0.8)
    top = float(runs["size"].sel(of).max())
    ax.set(ylabel="singular value / $\\sqrt{n}$", yscale="log", ylim=(0.7 * edge, 1.3 * top))
    return _with_boundaries(ax, runs, entries)


def _counts(ax: Axes, runs: Runs) -> Entries:
    """The number of spikes against α, observed and in the limit; activations are shifted a little to stay visible."""
    names = runs["activation"].values.tolist()
    shift = 0.04 * np.arange(len(names))
    panel = AtEnd("count", against="alpha", hue="activation", own_legend=True, title="how many; dotted: in the limit")
    entries = panel(ax, runs.assign(count=runs["count"].transpose(..., "activation") + shift))
    for i, activation in enumerate(names):
        limit = [len(spike_orders(alpha, expansion(activation))) + shift[i] for alpha in _fine(runs)]
        ax.plot(_fine(runs), limit, color=color_of(i, len(names)), linestyle=":", linewidth=1.0)
    ax.set(ylabel="spikes", yticks=range(6))
    return _with_boundaries(ax, runs, entries)


def _with_boundaries(ax: Axes, runs: Runs, entries: Entries) -> Entries:
    for boundary in spike_boundaries(8)[1:]:
        if runs["alpha"][0] < boundary < runs["alpha"][-1]:
            ax.axvline(boundary, color=GRAY, linewidth=0.5, zorder=0)
    ax.set(xscale="linear")
    ax.autoscale(axis="x")
    return entries


def _fine(runs: Runs) -> list[float]:
    """A fine grid of α that avoids the boundaries."""
    alphas = runs["alpha"].values
    return np.setdiff1d(np.linspace(alphas[0], alphas[-1], 200), spike_boundaries(12)).tolist()


def _agree(runs: Runs) -> tuple[str, bool]:
    clear = runs["predicted"].where(runs["predicted"] > _CLEAR * bulk_edge(runs["activation"].item()))
    off = abs(runs["size"].median("seed") / clear - 1).values
    off = off[np.isfinite(off)]
    return f"≤ {100 * off.max():.1f} %, median {100 * np.median(off):.1f} %, of {off.size}", bool(off.max() <= _AGREES)


def _as_many(statement: str, runs: Runs) -> list[Claim]:
    orders = spike_orders(0.36, expansion(runs["activation"].item()))
    agree = lambda runs: (between(runs["count"]), bool(runs["count"].max() <= len(orders)))
    judge = Judged(f"≤ {len(orders)}", agree, [SINGULAR_VALUES], of={"alpha": lambda a: (a > 1 / 3) & (a < 3 / 8)})
    return judge(filled(statement, {"orders": ", ".join(map(str, orders))}, runs), runs)


SPIKES = Experiment(
    "spikes",
    "How many spikes does a step cause, how large are they, and what is their direction?",
    axes={
        "samples": samples(2000),
        "activation": looped(["relu", "softplus", "tanh"], quick=["relu", "tanh"], tiny=["relu"]),
        "alpha": batched(
            np.round(np.arange(0.04, 0.48, 0.03), 2).tolist(),
            quick=[0.05, 0.15, 0.22, 0.3, 0.36, 0.42],
            tiny=[0.36, 0.42],
            label=ALPHA,
        ),
        "seed": seeds(8),
    },
    one_run=after_step,
    derive=_derive,
    panels=lambda runs: [*(partial(_sizes, activation=each) for each in runs["activation"].values.tolist()), _counts],
    claims={
        "{activation}": ForEach(
            ["samples", "activation"],
            {
                f", n = {{samples}}: spikes more than {100 * (_CLEAR - 1):.0f} % above the bulk, predicted": Judged(
                    f"off by ≤ {100 * _AGREES:g} % at each α", _agree, [SINGULAR_VALUES]
                ),
                ": spikes for 1/3 < α < 3/8, where c_k ≠ 0 for k = {orders}": _as_many,
                ", α = {alpha}: cos² of the spikes with the span of X̃β and (X̃β)²": Reported(
                    lambda runs: listed(runs["features.overlap_at_end"].median("seed"), ".3f"),
                    of={"alpha": lambda alpha: alpha == alpha.max()},
                    each="alpha",
                ),
            },
        )
    },
    note="step $\\eta = n^\\alpha$; theory: all orders together; thin lines: boundaries of $\\alpha$",
    seconds=(25, 640),
)
