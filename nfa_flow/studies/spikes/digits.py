"""The same step on handwritten digits: spikes in the features of real data, without a theory.

Half of the 1797 images are for the step, the others for the features. With ten outputs the first gradient has nearly
rank ten. Inputs are neither independent nor normal, so there are spikes before the step too.
"""

from functools import partial

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from ... import Dataset, Trajectory
from ...data import digits as load_digits
from ...nets import MLP
from ...one_step import feature_spectrum, features, gradient_vector, one_step, spike_overlap, two_layer_net
from ...plot.style import GRAY
from ...training import Untrained
from ..axes import batched, seeds
from ..experiment import Experiment
from ..held_out import split
from ..judgments import Reported
from ..panels import AtEnd, Axes, Entries
from ..runs import Runs
from .common import between, listed, samples, with_spikes

_WIDTH, _ACTIVATION = 400, "relu"
_SHOWN, _COLORED = 10, 3  # spikes


def features_of(net: MLP, data: Dataset, beta: Float[Array, "d c"]) -> dict[str, Float[Array, "..."]]:
    """All `singular_values` over √n, and the `overlap` of the first left singular vectors with the columns of X̃β."""
    spectrum = feature_spectrum(features(net, data.x), vectors=_SHOWN)
    return {"singular_values": spectrum.singular_values, "overlap": spike_overlap(spectrum.left, data.x @ beta)}


def one_run(key: PRNGKeyArray, samples: int, eta: float | Array) -> Trajectory:
    """A step on half of the images, and the features of the other half."""
    net_key, split_key = jax.random.split(key)
    data = load_digits()
    batch, fresh = split(data, samples // 2, samples - samples // 2, key=split_key)
    net = two_layer_net(data.inputs, _WIDTH, _ACTIVATION, key=net_key, outputs=data.outputs)
    observe = {"features": eqx.Partial(features_of, beta=gradient_vector(net, batch))}
    return Untrained()(one_step(net, batch, eta), fresh, key, observe=observe, progress=False)


def _derive(runs: Runs) -> Runs:
    """Add the spikes, and the `overlap` of each spike."""
    overlap = runs["features.overlap_at_end"].rename({"features.overlap[1]": "spike"})
    return with_spikes(runs, _SHOWN).assign(overlap=overlap)


def _spikes(ax: Axes, runs: Runs, name: str, label: str, yscale: str) -> Entries:
    """One number for each of the first spikes in color, and the medians for the others in gray."""
    others = runs[name].isel(samples=0, spike=slice(_COLORED, None)).median("seed").transpose("eta", "spike")
    line = ax.plot(runs["eta"], others, color=GRAY, linewidth=0.8)[0]
    panel = AtEnd(name, against="eta", hue="spike", label=label, axis={"xscale": "log", "yscale": yscale})
    return panel(ax, runs.isel(spike=slice(_COLORED))) | {f"$s_{{{_COLORED + 1}}} … s_{{{_SHOWN}}}$": line}


def _found(runs: Runs) -> str:
    first, share = (listed(runs[name].median("seed")[:_COLORED]) for name in ("size", "overlap"))
    return f"{between(runs['count'])} stand out; first {first}; cos² with X̃β {share}"


DIGITS = Experiment(
    "digits",
    "Which spikes does a step cause in the features of real data?",
    axes={
        "samples": samples(1797, quick=300),
        "eta": batched(
            [1e-2, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0],
            quick=[1e-2, 1.0, 10.0, 100.0],
            tiny=[1e-2, 10.0],
            label="step $\\eta$",
        ),
        "seed": seeds(8),
    },
    one_run=one_run,
    derive=_derive,
    panels=[
        partial(_spikes, name="size", label="singular value / $\\sqrt{n}$", yscale="log"),
        AtEnd("count", against="eta", label="spikes that stand out", axis={"xscale": "log"}),
        partial(_spikes, name="overlap", label="cos² with the ten columns of $\\tilde X\\beta$", yscale="linear"),
    ],
    claims={
        "digits, η = {eta}: spikes": Reported(
            _found, of={"eta": lambda eta: eta.isin(eta[[0, eta.size // 2, -1]])}, each=["samples", "eta"]
        )
    },
    note=f"digits, {_ACTIVATION}",
    seconds=(15, 15),
)
