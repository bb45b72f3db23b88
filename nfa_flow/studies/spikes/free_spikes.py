"""The losses of ridge regression with zero, one and two free spikes: limits against simulations as n grows.

A free spike is an infinitely large spike: a direction of the features without a penalty. Means over draws differ from
their limit by a multiple of 1/n, so they are extrapolated. Losses are divided by the mean square of the targets of the
draw, whose spread would hide everything else.
"""

from functools import partial

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ... import Dataset, Trajectory
from ...nets import MLP
from ...one_step import cancel_output, features, gradient_vector, powers, ridge_fit
from ...training import Untrained
from ..axes import looped, seeds
from ..experiment import Experiment
from ..judgments import ForEach, Tends
from ..panels import Extrapolated
from ..runs import Runs
from .common import PENALTY, draw
from .predictions import limits

_ORDERS = {"no spike": (), "one free spike": (1,), "two free spikes": (1, 2)}
_LOSSES = ("train", "test")


def one_run(key: PRNGKeyArray, samples: int) -> Trajectory:
    """Random features and the powers of X̃β without a penalty; β from targets without the network's output (paper)."""
    drawn = draw(key, samples)
    beta = gradient_vector(drawn.net, cancel_output(drawn.net, drawn.batch))[:, 0]
    observe = {"losses": eqx.Partial(losses, beta=beta, samples=samples)}
    return Untrained()(drawn.net, drawn.fresh, key, observe=observe, progress=False)


def losses(net: MLP, data: Dataset, beta: Float[Array, " d"], samples: int) -> dict[str, Float[Array, " spikes"]]:
    """An observable: `train` and `test` loss over the mean square of the targets, for each number of free spikes."""
    F, (x, y) = features(net, data.x), (data.x, data.y[:, 0])
    fitted, tested = slice(None, samples), slice(samples, None)
    train, test = [], []
    for orders in _ORDERS.values():
        U = powers(x, beta, orders) if orders else jnp.zeros((len(x), 0), x.dtype)
        fit = ridge_fit(F[fitted], y[fitted], PENALTY, free=U[fitted])
        train.append(fit.train / jnp.mean(y[fitted] ** 2))
        test.append(fit.test(F[tested], y[tested], free=U[tested]) / jnp.mean(y[tested] ** 2))
    return {"train": jnp.stack(train), "test": jnp.stack(test)}


def _derive(runs: Runs) -> Runs:
    """Add both losses for each number of free spikes, and their limits."""
    expected = np.array([limits(orders, "relu", own_output=False) for orders in _ORDERS.values()])
    for i, name in enumerate(_LOSSES):
        found = runs[f"losses.{name}_at_end"].rename({f"losses.{name}[1]": "spikes"})
        runs = runs.assign({name: found, f"{name}_limit": ("spikes", expected[:, i])})
    return runs.assign_coords(spikes=list(_ORDERS))


def _at_largest(runs: Runs, name: str) -> str:
    last = runs[name].isel(samples=-1)
    error = float(last.std(ddof=1)) / last.size**0.5
    return f"; at n = {int(last['samples'])}: {float(last.mean()):.4f} ± {error:.1g}"


def _claim(name: str) -> Tends:
    limit = lambda runs: float(runs[f"{name}_limit"])
    return Tends(name, "samples", limit, within=2.0, form=".4f", also=partial(_at_largest, name=name))


FREE_SPIKES = Experiment(
    "free-spikes",
    "Do the losses with free spikes approach their limits?",
    axes={
        "samples": looped([375, 750, 1500, 3000], quick=[150, 300, 600], tiny=[40, 80, 160], label="samples $n$"),
        "seed": seeds(64, quick=16),
    },
    one_run=one_run,
    derive=_derive,
    panels=[
        Extrapolated(name, against="samples", hue="spikes", law=f"{name}_limit", label=f"{name} loss / mean $y^2$")
        for name in _LOSSES
    ],
    claims={
        "{spikes}": ForEach(
            "spikes",
            {f": {name} loss / mean y², v_∞ of means over seeds = v_∞ + c/n": _claim(name) for name in _LOSSES},
        )
    },
    shown="mean ± standard error",
    note="relu; lines: $v_\\infty + c/n$",
    seconds=(20, 240),
)
