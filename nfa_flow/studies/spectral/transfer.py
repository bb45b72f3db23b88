"""Transfer of the best learning rate from narrow to wide networks: the loss after some steps against rate and width.

If weights and updates satisfy the spectral condition, the best rate transfers. Standard initial weights with one rate
for all layers are unstable at rates above the order 1/n, which shifts the best rate. The neural tangent parametrization
also transfers under gradient descent, although it learns no features in the limit: transfer does not imply features.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ... import Trajectory, gradient_descent, measure, nets
from ...run.status import finished
from ...width import WidthExponent
from ..axes import batched, looped, places, seeds
from ..experiment import Experiment
from ..judgments import Judged, Judgment, Reported
from ..panels import AgainstWidth, AtEnd, Slope
from ..runs import Runs, Values, quantiles
from ..schemes import network
from ..slopes import TOLERANCE, WITHIN, exponent, power_as_text, powers_as_text, verdict
from .common import ADAM, GD, MUON, NORMALIZED, ONE_RATE, ONE_RATE_ADAM, Case, optimizer, shape_of, task

STEPS = 30
# The rates are about the best ones at width 64. Muon and normalized updates compile slowly, so they come last.
CASES = {
    "GD, Spectral": Case(nets.Spectral(), GD, 0.8),
    "GD, SP, one rate": Case(ONE_RATE, GD, 0.2),
    "Adam, Spectral": Case(nets.Spectral("adam"), ADAM, 1.6),
    "Adam, SP, one rate": Case(ONE_RATE_ADAM, ADAM, 0.04),
    "GD, NTP": Case(nets.NTP(), GD, 16.0),
    "normalized": Case(nets.Spectral(), NORMALIZED, 0.2),
    "Muon": Case(nets.Spectral(), MUON, 0.05),
}
# The power of n of the largest stable rate; None if nothing is promised.
POWERS = {name: -1.0 if "one rate" in name else None if name == MUON else 0.0 for name in CASES}


def one_run(key: PRNGKeyArray, width: int, count: int, case: int | Array, octave: float | Array) -> Trajectory:
    """Some full-batch steps of one of the first `count` cases, by its index, at 2^octave times its learning rate."""
    data, cases = task(), list(CASES.values())[:count]
    net, _ = network(key, shape_of(width), "tanh", [each.scheme for each in cases], case)
    rate = jnp.asarray([each.rate for each in cases])[case] * 2.0**octave
    method = optimizer(cases, width, case, rate)
    observe = {"loss": measure.loss}
    options: dict[str, Any] = {"time_per_step": 1.0, "progress": False}  # time counts steps
    return gradient_descent(net, data, method, STEPS, save_at=[0, STEPS], observe=observe, **options)


def losses(dataset: Runs) -> Values:
    """The losses at the end over those at the start; infinite for runs that diverged."""
    ratio = dataset["loss_at_end"] / dataset["loss"].isel(time=0)
    return ratio.where(finished(dataset) & np.isfinite(ratio), np.inf)


def best_rates(runs: Runs, name: str) -> Values:
    """The best learning rate of each network of a case; NaN if it is the lowest or the highest rate of the grid.

    It is the vertex of the parabola through the lowest loss and its two neighbors, all in logarithms.
    """
    values = losses(runs).transpose("width", "seed", "octave")
    octaves = values["octave"].values
    # The size of a loss above the start has no meaning.
    table = np.log(np.clip(values.values, 1e-300, 10.0))
    lowest = table.argmin(axis=-1)
    inner = np.clip(lowest, 1, len(octaves) - 2)
    left, middle, right = (np.take_along_axis(table, (inner + i)[..., None], -1)[..., 0] for i in (-1, 0, 1))
    bend = left - 2 * middle + right
    offset = np.where(bend > 0, (left - right) / (2 * np.where(bend > 0, bend, 1)), 0)
    place = np.where(inner == lowest, octaves[inner] + offset * (octaves[1] - octaves[0]), np.nan)
    return values.isel(octave=0, drop=True).copy(data=CASES[name].rate * 2.0**place)


def _derive(runs: Runs) -> Runs:
    """Add `ratio`: the losses over those at the start; `shown`: the same up to 1000; `best`: the best rates by case."""
    import xarray

    runs = runs.isel(count=0, drop=True)
    ratio = losses(runs)
    best = [best_rates(runs.sel(case=name), name) for name in runs["case"].values]
    return runs.assign(
        {
            "ratio": ratio,
            "shown": np.minimum(ratio, 1e3),
            "untrained.shown": 1.0,
            "best": xarray.concat(best, runs["case"]),
        }
    )


def _panel(name: str) -> AtEnd:
    return AtEnd(
        "shown",
        against="octave",
        hue="width",
        of={"case": name},
        baseline="untrained",
        title=name,
        label=f"loss after {STEPS} steps / at the start",
        axis={"yscale": "log", "ylim": (None, 3.0), "xlabel": f"$\\log_2\\,\\eta / {CASES[name].rate:g}$"},
    )


def _best(name: str) -> Judgment:
    """The claim that the best rate is constant or, if the largest stable rate falls, that it falls too."""
    power, of = POWERS[name], {"case": name}
    if power is None:
        return Reported(lambda runs: _power(runs)[0], of=of)
    law = f"< −{TOLERANCE:g} by two standard errors; the largest stable rate as {powers_as_text([power])}"
    expected = f"0, {WITHIN}" if power == 0 else law
    return Judged(expected, partial(_power, falls=power < 0), of=of, despite="rates above the largest stable one")


def _power(runs: Runs, falls: bool = False) -> tuple[str, bool | None]:
    fit = exponent(runs["best"])
    if np.isnan(fit.exponent):
        return "undefined: some networks do best at the end of the rates tried", None
    return power_as_text(fit), _falls(fit) if falls else verdict([fit], [0.0])


def _falls(fit: WidthExponent) -> bool | None:
    if fit.exponent + 2 * fit.error < -TOLERANCE:
        return True
    return None if fit.exponent - 2 * fit.error <= -TOLERANCE else False


def _costs(runs: Runs) -> str:
    narrow, wide = runs["ratio"].isel(width=0).median("seed").argmin("octave"), runs["ratio"].isel(width=-1)
    own = quantiles(wide.min("octave"))
    return f"loss {quantiles(wide.isel(octave=int(narrow)))} of the start, at its own best rate {own}"


_NAMES = list(CASES)

TRANSFER = Experiment(
    "transfer",
    "Is the best learning rate of a narrow network also the best of a wide one?",
    axes={
        "width": looped([64, 128, 256, 512], quick=[32, 64, 128], tiny=[16, 32, 64], label="width $n$"),
        "count": looped([len(CASES)], quick=[4], tiny=[2]),  # the number of cases that are compiled
        "case": batched(places(CASES), quick=_NAMES[:4], tiny=_NAMES[:2]),
        # Factors 2^octave of the case's own learning rate.
        "octave": batched(
            np.arange(-4.5, 1.6, 0.5).tolist(), quick=np.arange(-2.5, 2.1, 0.5).tolist(), tiny=[-2.0, -1.0, 0.0, 1.0]
        ),
        "seed": seeds(8),
    },
    one_run=one_run,
    derive=_derive,
    panels=[
        [_panel(name) for name in _NAMES[:4]],
        [
            *(_panel(name) for name in _NAMES[4:]),
            AgainstWidth(
                "best",
                hue="case",
                own_legend=True,
                law=Slope(POWERS),
                title="best rates",
                label="learning rate $\\eta$",
            ),
        ],
    ],
    claims={
        **{f"{name}: power of n of the best learning rate": _best(name) for name in CASES},
        **{
            f"{name}: the best rate of n = {{first width}} on n = {{last width}}": Reported(_costs, of={"case": name})
            for name in CASES
        },
    },
    seconds=(15, 500),
)
