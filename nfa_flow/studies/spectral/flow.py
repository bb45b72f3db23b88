"""The exact flow of parametrizations: does its time scale transfer, and what have the weights done at a given loss?

The flow dW_l/dt = −m_l ∇_l ℒ takes the place of gradient descent at a small rate, so nothing here depends on a step.
Networks are compared where their loss has fallen to a given share, which plain flow from the standard start reaches in
a time of the order 1/n; its path is that of `SP`, whose rate η/n is the same for all layers.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ... import measure, nets
from ...data import Dataset
from ...flow import LossBelow, gradient_flow, log_times
from ...plot.style import GRAY, color_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, batched, looped
from ...width import WidthExponent
from ..claims import Claim, judged, reported
from ..old_experiment import OldExperiment
from ..width_fits import WITHIN, exponent, set_widths, told
from .common import (
    GD,
    LAYERS,
    ONE_RATE,
    Case,
    draw_sizes,
    network,
    places,
    powers_as_text,
    shade_of,
    shape_of,
    task,
    verdict,
)
from .layers import LayerNorms
from .norms import powers_of_step

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHARE = 0.3  # of the loss of f = 0
_T0, _T1 = 1e-4, 100.0
PLAIN = "SP, plain flow"
SCHEMES: dict[str, nets.AbstractParametrization] = {
    "Spectral": nets.Spectral(),
    "muP": nets.muP(),
    "NTP": nets.NTP(),
    PLAIN: ONE_RATE,
}
TIME_POWERS = {name: -1.0 if name == PLAIN else 0.0 for name in SCHEMES}


def grid(quick: bool) -> Grid:
    """Widths × parametrizations × seeds."""
    widths = [64, 128, 256] if quick else [64, 128, 256, 512]
    return Grid(width=looped(widths), scheme=batched(places(SCHEMES, list(SCHEMES))), seed=range(8))


class Reached(eqx.Module):
    """An observable that is looked at only where the loss is down to a level, and undefined before: it takes long."""

    observable: LayerNorms
    level: Float[Array, ""]

    def __call__(self, net: nets.MLP, data: Dataset) -> dict[str, Float[Array, " L"]]:
        look = lambda: self.observable(net, data)
        undefined = jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), eqx.filter_eval_shape(look))
        return jax.lax.cond(measure.loss(net, data) <= self.level, look, lambda: undefined)


def one_run(key: PRNGKeyArray, width: int, scheme: int | Array) -> Trajectory:
    """The exact flow of the parametrization at this place, to the share of the loss."""
    data, schemes = task(), list(SCHEMES.values())
    net = network(key, width, schemes, scheme)
    mobility = jnp.asarray([each.effective(shape_of(width)).mobility for each in schemes])[scheme]
    level = SHARE * jnp.mean(jnp.sum(data.y**2, axis=1)) / 2
    return gradient_flow(
        net,
        data,
        _T1,
        mobility=tuple(mobility),
        solver=diffrax.Tsit5(),
        rtol=1e-6,
        save_at=[0.0, *log_times(_T0, _T1, 50)],
        stop=LossBelow(level),
        observe={"loss": measure.loss, "layers": Reached(LayerNorms(net), level), "level": lambda net, data: level},
        progress=False,
    )


def times_to_level(dataset: "xarray.Dataset") -> "xarray.DataArray":
    """When the loss of each run reaches the level, in logarithms between observations; NaN where it never does."""
    losses, ends = dataset["loss"].transpose(..., "time"), dataset["end_time"]
    rows = zip(
        losses.values.reshape(-1, losses.sizes["time"]),
        ends.values.ravel(),
        dataset["loss_at_end"].transpose(*ends.dims).values.ravel(),
        dataset["level_at_end"].transpose(*ends.dims).values.ravel(),
        strict=True,
    )
    times = dataset["time"].values
    found = [_crossing(np.append(times, end), np.append(loss, last), level) for loss, end, last, level in rows]
    return losses.isel(time=0, drop=True).copy(data=np.reshape(found, losses.shape[:-1]))


def _crossing(times: np.ndarray, losses: np.ndarray, level: float) -> float:
    """From a run's observations and its end, which comes last."""
    seen = np.isfinite(losses) & (times > 0)
    t, loss = np.log(times[seen]), np.log(losses[seen])
    if not t.size or loss[-1] > np.log(level):
        return np.nan
    # Loss falls along the flow, and np.interp wants increasing places.
    return float(np.exp(np.interp(-np.log(level), -loss, t)))


def of_layer(runs: "xarray.Dataset", name: str, layer: int) -> "xarray.DataArray":
    """A size of one layer (0 … 2) at the end, where the level is reached."""
    return runs[f"layers.{name}_at_end"].isel({f"layers.{name}[1]": layer})


def powers_at_level(name: str) -> tuple[float, ...]:
    """The powers of n of ‖ΔW_l‖_* over √(fan_out/fan_in) at a given loss, for all layers."""
    return powers_of_step(Case(nets.SP() if name == PLAIN else SCHEMES[name], GD, 1.0))


def figure(dataset: "xarray.Dataset") -> "Figure":
    """Losses through time at all widths for two schemes, the time to the level and the updates there against width."""
    from matplotlib.lines import Line2D

    sheet, axes = new_figure(3, rows=2)
    widths, names = dataset["width"].values, list(dataset["scheme"].values)
    for ax, name in zip(axes, ("Spectral", PLAIN), strict=False):
        _draw_losses(ax, dataset.sel(scheme=name), name)
    when, lines = times_to_level(dataset), {}
    for i, name in enumerate(names):
        color = color_of(i, len(names))
        lines[name] = draw_sizes(axes[2], when.sel(scheme=name), color, TIME_POWERS[name])
        for layer, ax in enumerate(axes[3:]):
            values = of_layer(dataset.sel(scheme=name), "update", layer)
            draw_sizes(ax, values, color, powers_at_level(name)[layer])
    axes[2].set(title=f"time to {SHARE:g} of the loss of $f = 0$", ylabel="$t$")
    for layer, ax in enumerate(axes[3:]):
        ax.set(title=f"{LAYERS[layer]}, at that loss", ylabel="$\\|\\Delta W_l\\|_*/(n_l/n_{l-1})^{1/2}$")
    for ax in axes[2:]:
        set_widths(ax, widths)
    lines["theory"] = Line2D([], [], color="black", linestyle="--", linewidth=0.9)
    legend_below(sheet, lines, f"exact flow; median and 10–90 % over {dataset.sizes['seed']} networks")
    return sheet


def _draw_losses(ax: "Axes", runs: "xarray.Dataset", name: str) -> None:
    """One curve per network, from dark to light with the width."""
    widths = runs["width"].values
    for i, n in enumerate(widths):
        each = runs.sel(width=n)
        for seed in each["seed"].values:
            run = each.sel(seed=seed)
            times, loss = np.append(run["time"], run["end_time"]), np.append(run["loss"], run["loss_at_end"])
            shown = (times > 0) & np.isfinite(loss)
            label = f"$n = {n}$" if seed == each["seed"].values[0] else None
            ax.plot(times[shown], loss[shown], color=shade_of(i, len(widths)), linewidth=0.7, label=label)
    ax.axhline(float(runs["level_at_end"].max()), color=GRAY, linestyle=":", linewidth=1.2)
    ax.set(xscale="log", yscale="log", title=name, xlabel="time $t$", ylabel="loss $\\mathcal{L}$")
    ax.legend(fontsize=7.5, frameon=False)


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """How the time to the level and the updates up to there grow with the width.

    What is promised holds in the limit after a fixed time; for NTP and SP, which get there slowly, it is reported.
    """
    when, found = times_to_level(dataset), []
    for name in dataset["scheme"].values:
        fit, law = exponent(when.sel(scheme=name)), [TIME_POWERS[name]]
        statement = f"{name}: power of n of the time to {SHARE:g} of the loss of f = 0"
        runs = dataset.sel(scheme=name).assign(when=when.sel(scheme=name))
        found.append(_judged(name == "NTP", statement, [fit], law, runs, ["when"]))
    for name in dataset["scheme"].values:
        law = powers_at_level(name)
        fits = [exponent(of_layer(dataset.sel(scheme=name), "update", layer)) for layer in range(3)]
        statement = f"{name}: power of n of ‖ΔW_l‖_*/√(fan_out/fan_in) at that loss, {', '.join(LAYERS)}"
        runs = dataset.sel(scheme=name)
        found.append(_judged(name in ("NTP", PLAIN), statement, fits, law, runs, ["layers.update_at_end"]))
    return found


def _judged(
    is_report: bool,
    statement: str,
    fits: Sequence[WidthExponent],
    law: Sequence[float],
    runs: "xarray.Dataset",
    names: Sequence[str],
) -> Claim:
    expected, measured = powers_as_text(law), ", ".join(map(told, fits))
    if is_report:
        return reported(statement, measured, runs, expected=f"{expected} as n → ∞")
    return judged(statement, f"{expected}, {WITHIN}", measured, verdict(fits, law), runs, names)


FLOW = OldExperiment(
    name="flow",
    question="Does the time scale of the exact flow transfer from narrow to wide networks?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(30, 110),
)
