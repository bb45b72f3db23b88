"""The exact flow of parametrizations: transfer of its time scale across widths, and the updates at a given loss.

The flow dW_l/dt = −m_l ∇_l ℒ takes the place of gradient descent at a small rate, so nothing here depends on a step.
Networks are compared at the time when their loss has fallen to a given fraction. Plain flow from the standard initial
weights reaches it in a time of order 1/n; its path is that of `SP`, whose rate η/n is the same for all layers.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ... import Dataset, LossBelow, Trajectory, gradient_flow, log_times, measure, nets
from ..axes import batched, looped, places, seeds
from ..experiment import Experiment
from ..judgments import WidthPowers
from ..panels import AgainstWidth, Slope, Through
from ..runs import Runs
from ..schemes import network
from .common import GD, LAYERS, ONE_RATE, Case, shape_of, task
from .layers import LayerNorms
from .norms import powers_of_step

SHARE = 0.3  # fraction of the loss of f = 0
_T0, _T1 = 1e-4, 100.0
_ROUNDING = 1 + 1e-9  # a flow that stops at a level has a loss that is this level up to rounding
PLAIN = "SP, plain flow"
SCHEMES: dict[str, nets.AbstractParametrization] = {
    "Spectral": nets.Spectral(),
    "muP": nets.muP(),
    "NTP": nets.NTP(),
    PLAIN: ONE_RATE,
}
TIME_POWERS = {name: -1.0 if name == PLAIN else 0.0 for name in SCHEMES}


class Reached(eqx.Module):
    """An expensive observable, evaluated only if the loss is down to a level, up to rounding; NaN otherwise."""

    observable: LayerNorms
    level: Float[Array, ""]

    def __call__(self, net: nets.MLP, data: Dataset) -> dict[str, Float[Array, " L"]]:
        evaluate = lambda: self.observable(net, data)
        undefined = jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), eqx.filter_eval_shape(evaluate))
        return jax.lax.cond(measure.loss(net, data) <= _ROUNDING * self.level, evaluate, lambda: undefined)


def one_run(key: PRNGKeyArray, width: int, scheme: int | Array) -> Trajectory:
    """The exact flow of the parametrization at this index, until the loss has fallen to the level."""
    data, schemes = task(), list(SCHEMES.values())
    net, mobility = network(key, shape_of(width), "tanh", schemes, scheme)
    level = SHARE * jnp.mean(jnp.sum(data.y**2, axis=1)) / 2
    return gradient_flow(
        net,
        data,
        _T1,
        mobility=mobility,
        solver=diffrax.Tsit5(),
        rtol=1e-6,
        save_at=[0.0, *log_times(_T0, _T1, 50)],
        stop=LossBelow(level),
        observe={"loss": measure.loss, "layers": Reached(LayerNorms(net), level)},
        progress=False,
    )


def powers_at_level(name: str) -> tuple[float, ...]:
    """The powers of n of ‖ΔW_l‖_* over √(fan_out/fan_in) at a given loss, for all layers."""
    return powers_of_step(Case(nets.SP() if name == PLAIN else SCHEMES[name], GD, 1.0))


def _derive(runs: Runs) -> Runs:
    """Add `when`: the time to the level, NaN if a run never reached it; and the updates of each layer at that time."""
    updates = runs["layers.update_at_end"]
    layers = {f"update {name}": updates.isel({"layers.update[1]": i}) for i, name in enumerate(LAYERS)}
    return runs.assign(layers | {"when": runs["end_time"].where(runs["status"] == "stopped")})


def _through(name: str) -> Through:
    return Through("loss", hue="width", of={"scheme": name}, own_legend=True, title=name, axis={"yscale": "log"})


def _claims(name: str) -> dict[str, Any]:
    """The powers of the width in the time to the level, and in the updates at that time.

    The promised powers hold in the limit at a fixed time; for NTP and SP, which approach it slowly, they are reported.
    """
    of, law, slowly = {"scheme": name}, powers_at_level(name), " as n → ∞"
    when, what = f"{name}: power of n of the time to {SHARE:g} of the loss of f = 0", ", ".join(LAYERS)
    updates = f"{name}: power of n of ‖ΔW_l‖_*/√(fan_out/fan_in) at that loss, {what}"
    of_layers = [f"update {layer}" for layer in LAYERS]
    return {
        when: WidthPowers(["when"], [TIME_POWERS[name]], of=of, unclaimed=slowly if name == "NTP" else ""),
        updates: WidthPowers(of_layers, law, of=of, unclaimed=slowly if name in ("NTP", PLAIN) else ""),
    }


_every = [list(_claims(name).items()) for name in SCHEMES]

FLOW = Experiment(
    "flow",
    "Does the time scale of the exact flow transfer from narrow to wide networks?",
    axes={
        "width": looped([64, 128, 256, 512], quick=[64, 96, 160], tiny=[16, 32, 64], label="width $n$"),
        "scheme": batched(places(SCHEMES), tiny=list(SCHEMES)),
        "seed": seeds(8),
    },
    one_run=one_run,
    derive=_derive,
    panels=[
        [
            _through("Spectral"),
            _through(PLAIN),
            AgainstWidth(
                "when",
                hue="scheme",
                law=Slope(TIME_POWERS),
                title=f"time to {SHARE:g} of the loss of $f = 0$",
                label="$t$",
            ),
        ],
        [
            AgainstWidth(
                f"update {layer}",
                hue="scheme",
                law=Slope({name: powers_at_level(name)[i] for name in SCHEMES}),
                title=f"{layer}, at that loss",
                label="$\\|\\Delta W_l\\|_*/(n_l/n_{l-1})^{1/2}$",
            )
            for i, layer in enumerate(LAYERS)
        ],
    ],
    claims=dict([times for times, _ in _every] + [updates for _, updates in _every]),
    note="exact flow",
    seconds=(20, 110),
)
