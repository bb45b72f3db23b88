"""Unbalanced linear networks: weight decay λ shrinks imbalance and error of the ansatz ∝ e^{−2λt}.

NFM = AGOP^{1/L} if all balance matrices D_l vanish, and D_l(t) = e^{−2λt} D_l(0). So the relative error of the ansatz
is of first order in D, and late in the run ∝ e^{−2λt}, unless all weights vanish: a mode σ of the data survives only a
decay λ < σ (L = 2) or λ < max_s s^{1/3}(σ − s) = .47 σ^{4/3} (L = 3). If nothing survives, two layers vanish ∝
e^{−(λ − σ)t}, slower than D, so that the error falls until the ansatz is 0/0; three layers vanish as fast as D.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ... import Trajectory, gradient_flow, nets
from ..axes import batched, looped, places, seeds
from ..experiment import Experiment
from ..judgments import AtMost, Judged
from ..panels import AtEnd, Axes, Entries, Through
from ..runs import Runs, Values, chosen, quantiles
from .common import EXACT, OneOf, imbalance, observables, teacher, widths

INITS = {
    "Gaussian": nets.Gaussian(),
    "orthogonal": nets.Orthogonal(),
    "λ-balanced": nets.LambdaBalanced(-0.5),
    "PyTorch default": nets.FanInUniform(),
}
COLLAPSE = 3.0  # far above the singular values of the data, so that no mode survives
_DECAYS = [0.0, 0.01, 0.03, 0.1, 0.3, COLLAPSE]
_FRACTIONS = np.concatenate([[0.0], np.geomspace(1e-4, 1, 60)])  # times of observation, as fractions of the end time


def horizon(weight_decay: float) -> float:
    """The end time: 2λt = 14, where e^{−2λt} is a millionth; 126 for collapse, until the weights are below rounding."""
    if weight_decay == COLLAPSE:
        return 63 / weight_decay
    return 7 / weight_decay if weight_decay else 700.0


def one_run(
    key: PRNGKeyArray, depth: int, init: int | Array, weight_decay: float | Array, t1: float | Array
) -> Trajectory:
    """A linear network of `depth` layers on the data of a linear teacher with label noise."""
    data_key, net_key = jax.random.split(key)
    net = nets.MLP(widths(depth), key=net_key, init=OneOf(tuple(INITS.values()), init))
    options = {"save_at": t1 * jnp.asarray(_FRACTIONS), "rtol": 1e-9, "progress": False}
    observe = observables(1 / depth) | {"imbalance": imbalance}
    return gradient_flow(net, teacher(data_key), t1, weight_decay=weight_decay, observe=observe, **options)


def decay_rate(values: Values, times: Values, use: Values) -> Values:
    """−d log(value)/dt by least squares over the times to use; NaN for fewer than two times."""
    use = use & (values > 0)
    t, log = times.where(use), np.log(values.where(use))
    t = t - t.mean("time")
    squares = (t**2).sum("time")
    return -(t * log).sum("time") / squares.where(squares > 0)


def _derive(runs: Runs) -> Runs:
    """Add `left`: imbalance over that at t = 0; `off`: error of its rate 2λ in percent; `late`: rate of the error."""
    decay, times = runs["weight_decay"].where(runs["weight_decay"] > 0), runs["times"]
    left, error = runs["imbalance"] / runs["imbalance"].isel(time=0), runs["relative_error"]
    # Errors from the flow's tolerance are far below 1e-5 of the initial imbalance.
    rate = decay_rate(left, times, left > 1e-5) / (2 * decay)
    # From 2λt = 6 on, terms of the error of higher order in D are at most e^{−6} = .2 % of it.
    late = decay_rate(error, times, 2 * decay * times >= 6) / (2 * decay)
    late = late.where(runs["relative_error_at_end"].notnull())
    return runs.assign(left=left.where(decay > 0), change=abs(left - 1), off=100 * abs(rate - 1), late=late)


_GAUSSIAN: dict[str, Any] = {"of": {"depth": 3, "init": "Gaussian"}, "hue": "weight_decay", "own_legend": True}


def _left(ax: Axes, runs: Runs) -> Entries:
    label = "imbalance $(\\sum_l\\|D_l\\|^2)^{1/2}$ / at $t=0$"
    title = "Gaussian, $L = 3$, $\\lambda > 0$"
    return _in_units_of_decay(ax, runs, "left", 1.0, **_GAUSSIAN, title=title, label=label)


def _errors(ax: Axes, runs: Runs) -> Entries:
    of = {"depth": 3, "weight_decay": 0.03}
    gaussian = chosen(runs, of | {"init": "Gaussian"})
    end = np.nan if gaussian is None else float(gaussian["relative_error_at_end"].median())
    start = end * np.exp(2 * 0.03 * horizon(0.03))
    return _in_units_of_decay(ax, runs, "relative_error", start, of=of, hue="init", title="$\\lambda = 0.03$, $L = 3$")


def _in_units_of_decay(ax: Axes, runs: Runs, name: str, start: float, of: dict[str, Any], **options: Any) -> Entries:
    """An observable against 2λt, with the law start · e^{−2λt}."""
    shown = chosen(runs, of)
    phase = 2 * runs["weight_decay"] * runs["times"]
    end = 1.0 if shown is None else float((2 * shown["weight_decay"] * shown["times"]).max())
    axis = {"xscale": "linear", "xlim": (0, end), "xlabel": "time in units of the decay, $2\\lambda t$"}
    law = {"law": lambda phase: start * np.exp(-phase), "theory": "$\\propto e^{-2\\lambda t}$"}
    return Through(name, of=of, axis=axis, **law, **options)(ax, runs.assign(times=phase))


def _decays(runs: Runs) -> tuple[str, bool]:
    rates, within = runs["late"], float((abs(runs["late"] - 1) <= 0.01).mean())
    ends = f"; error at the end {quantiles(runs['relative_error_at_end'])}"
    return f"rate / 2λ {quantiles(rates, '{:.4f}')}, {100 * within:.0f} % of runs within 1 %{ends}", within >= 0.9


def _stays(runs: Runs) -> tuple[str, bool]:
    ends, start = runs["relative_error_at_end"], runs["relative_error"].sel(weight_decay=0.0).isel(time=0)
    kept, rest = ends.sel(weight_decay=0.0), ends.sel(weight_decay=runs["weight_decay"] > 0)
    measured = f"{quantiles(kept)} at the end, {quantiles(start)} at the start"
    return measured, bool((kept > rest.max("weight_decay")).all())


def _collapses(runs: Runs) -> tuple[str, bool]:
    ends, lowest = runs["relative_error_at_end"], runs["relative_error"].min("time")
    count = int(ends.isnull().sum())
    before = "; ".join(f"L = {depth}: {quantiles(lowest.sel(depth=depth))}" for depth in lowest["depth"].values)
    return f"undefined in {count} of {ends.size} runs; lowest relative error before, {before}", count == ends.size


_any_decay = {"weight_decay": lambda decay: decay > 0}

WEIGHT_DECAY = Experiment(
    "weight-decay",
    "Does weight decay bring unbalanced linear networks to the ansatz, and how fast?",
    axes={
        "depth": looped([2, 3], quick=[3], tiny=[3], label="depth $L$"),
        "init": batched(places(INITS), quick=["Gaussian", "λ-balanced"], tiny=["Gaussian", "orthogonal"]),
        "weight_decay": batched(
            _DECAYS, [0.0, 0.03, 0.3, COLLAPSE], [0.0, 0.03, COLLAPSE], label="weight decay $\\lambda$"
        ),
        "seed": seeds(16),
        "t1": horizon,
    },
    one_run=one_run,
    derive=_derive,
    panels=[
        _left,
        Through("relative_error", **_GAUSSIAN, title="Gaussian, $L = 3$"),
        _errors,
        AtEnd(
            "relative_error",
            against="weight_decay",
            hue="init",
            of={"depth": 3},
            starts=True,
            title="at the end, $L = 3$",
        ),
    ],
    claims={
        "unbalanced, weight decay λ: D_l ∝ e^{−2λt}": AtMost(
            "off", 1.0, "rate 2λ within 1 %", of=_any_decay, measured="off by ≤ {} %"
        ),
        "unbalanced, no decay: D_l is conserved": AtMost(
            "change", EXACT, "changes by ≤ {}", of={"weight_decay": 0.0}, measured="changes by ≤ {}"
        ),
        "unbalanced, weight decay λ: error of the ansatz ∝ e^{−2λt}, late": Judged(
            "rate 2λ within 1 % in ≥ 90 % of runs",
            _decays,
            ["late"],
            of={"weight_decay": lambda decay: (decay > 0) & (decay < COLLAPSE)},
        ),
        "unbalanced, no decay: the ansatz stays off": Judged(
            "error above that with any decay",
            _stays,
            ["relative_error_at_end"],
            of={"weight_decay": lambda decay: decay < COLLAPSE},
        ),
        f"unbalanced, λ = {COLLAPSE:g}: all weights vanish, and the ansatz is 0/0": Judged(
            "undefined in all runs", _collapses, of={"weight_decay": COLLAPSE}
        ),
    },
    seconds=(15, 60),
)
