"""The coordinate check of Adam in continuous time: its flow with the learning rates of parametrizations.

Nothing in the flow depends on the length of a step. So what grows with the width is due to the parametrization and to
the equation that Adam follows. The same networks are trained by Adam itself, for comparison.
"""

from functools import partial
from typing import Any

from jaxtyping import Array, PRNGKeyArray

from ... import Trajectory, nets
from ...training import Descent, FlowOf
from ..axes import batched, looped, places, seeds
from ..experiment import Experiment
from ..judgments import AtMost, WidthPowers
from ..panels import AgainstWidth, Slope
from ..runs import Runs
from ..schemes import network
from .common import LAYERS, ONE_RATE_ADAM, shape_of, task
from .layers import LayerNorms

_ADAM = Descent("adam", rate=0.05, steps=20)
FLOW, STEPS = "flow of Adam", "Adam"
TRAININGS = {FLOW: FlowOf(_ADAM), STEPS: _ADAM}
ONE_RATE = "SP, one rate"
SCHEMES: dict[str, nets.AbstractParametrization] = {
    "Spectral": nets.Spectral("adam"),
    "muP": nets.muP("adam"),
    ONE_RATE: ONE_RATE_ADAM,
}
_STABLE = [name for name in SCHEMES if name != ONE_RATE]
_UPDATES, _CHANGES = ([f"{what} {layer}" for layer in LAYERS] for what in ("update", "change"))


def one_run(key: PRNGKeyArray, width: int, scheme: int | Array, training: FlowOf | Descent) -> Trajectory:
    """A network with the parametrization at this index, trained by Adam or by its flow."""
    data, schemes = task(), list(SCHEMES.values())
    net, mobility = network(key, shape_of(width), "tanh", schemes, scheme)
    save_at = [0, _ADAM.steps] if isinstance(training, Descent) else [0.0, _ADAM.steps * _ADAM.time_per_step]
    observe = {"layers": LayerNorms(net)}
    return training(net, data, key, mobility=mobility, observe=observe, save_at=save_at, progress=False)


def _derive(runs: Runs) -> Runs:
    """Add sizes by layer, and how far the updates in the flow are from those of Adam."""
    of_layer = lambda name, i: runs[f"layers.{name}_at_end"].isel({f"layers.{name}[1]": i})
    sizes = {f"{name} {layer}": of_layer(name, i) for name in ("update", "change") for i, layer in enumerate(LAYERS)}
    updates = runs["layers.update_at_end"]
    off = abs(updates.sel(training=FLOW) / updates.sel(training=STEPS) - 1).max("layers.update[1]")
    return runs.assign(sizes | {"off": off})


def _powers(sizes: list[str], scheme: str, powers: list[float], **options: Any) -> WidthPowers:
    return WidthPowers(sizes, powers, of={"scheme": scheme, "training": FLOW}, **options)


_NORM = "‖ΔW_l‖_*/√(fan_out/fan_in)"
_WHAT = {_NORM: _UPDATES, "change of features, rms": _CHANGES}
_panel = partial(
    AgainstWidth,
    hue="scheme",
    law=Slope({name: 0.0 for name in _STABLE} | {ONE_RATE: None}),
    label="$\\|\\Delta W_l\\|_*/(n_l/n_{l-1})^{1/2}$",
)

ADAM_FLOW = Experiment(
    "adam-flow",
    "Are the powers of the width under Adam those of its flow, in which no step has a length?",
    axes={
        "width": looped([64, 128, 256, 512], [32, 64, 128], [16, 32, 64], label="width $n$"),
        "scheme": batched(places(SCHEMES)),
        "training": looped(TRAININGS),
        "seed": seeds(8),
    },
    one_run=one_run,
    derive=_derive,
    panels=[
        [
            _panel(
                name,
                of={"training": training},
                title=f"{layer}, {training}",
                label="$\\|\\Delta W_l\\|_*/(n_l/n_{l-1})^{1/2}$",
            )
            for name, layer in zip(_UPDATES, LAYERS, strict=True)
        ]
        for training in TRAININGS
    ],
    claims={
        **{
            f"{FLOW}, {name}: power of n of {what}, {', '.join(LAYERS)}": _powers(sizes, name, [0.0] * 3)
            for name in _STABLE
            for what, sizes in _WHAT.items()
        },
        f"{FLOW}, {ONE_RATE}: power of n of {_NORM}, {', '.join(LAYERS)}": _powers(
            _UPDATES, ONE_RATE, [0.0, 1.0, 0.5], unclaimed=" after one step"
        ),
        "{scheme}: ‖ΔW_l‖_* in the flow against Adam, all layers and widths": AtMost(
            "off", 0.05, "within {} of Adam", of={"scheme": _STABLE}, each="scheme"
        ),
    },
    note="20 steps of .05",
    seconds=(40, 200),
)
