"""Rich features against width: how far training moves them, and whether they stay linearly independent.

Under muP features move by Θ(1) at every width, and in the limit of infinite width stay linearly independent at every
step, for activations such as tanh and SiLU (Chen et al. 2025; ReLU and the identity are outside of their theorem, and
are shown beside). In the kernel regime, of NTP and of SP with a stable learning rate, they stay independent because
they do not move: by n^{−½}. Under the mean-field parametrization hidden features are n^{−½} at the start and so are
their singular values, though training moves them by Θ(1).

Independence decides training error: as the read-out has the mobility 1/n in all four, the flow obeys

    −dℒ/dt ≥ (1/n)‖∇_{W_L} ℒ‖² ≥ (2/N) λ_min(HHᵀ/n) ℒ

with the features H of the last hidden layer of N samples, so that a network at rest with independent features is at
zero error. The theorem has no rate, and nothing of finite width; neither does it say that training converges.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ... import measure
from ...data import Dataset
from ...nets.promised_exponents import promised_exponents
from ...plot.at_end import at_end
from ...plot.bands import bands
from ...plot.style import GRAY, color_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, batched, looped
from ...width import width_limit
from ..claims import Claim, judged, reported
from ..old_experiment import OldExperiment, quantiles
from ..width_fits import WITHIN, draw_slope, exponent, set_widths, told
from .common import HIDDEN, SCHEMES, SGD, Flow, holds, network, places, widths_of
from .feature_change import FeatureChange

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Two Gram matrices of 16 samples have 32 rows, half of the smallest width. Fewer inputs than samples, so that the
# features of a linear network cannot be independent.
SAMPLES, _INPUTS = 16, 12
_T1 = 100.0
# Features count as linearly independent if σ_min > 1e-4 σ_max: what the flow may be off by, with a margin of ten.
RTOL, RESOLUTION = 1e-5, 1e-4


class Case(NamedTuple):
    """An activation and a way to train; whether the theorem speaks of it."""

    activation: str
    training: Any
    is_covered: bool


_SGD = SGD(rate=0.1, steps=200, batch_size=8)
FLOW = "tanh, exact flow"
CASES = {
    FLOW: Case("tanh", Flow(_T1, RTOL), True),
    "tanh, SGD": Case("tanh", _SGD, True),
    "SiLU, SGD": Case("silu", _SGD, True),
    "ReLU, SGD": Case("relu", _SGD, False),
    "identity, SGD": Case("identity", _SGD, False),
}
_QUICK = (FLOW,)


def grid(quick: bool) -> Grid:
    """Activations with ways to train × widths × parametrizations × seeds."""
    cases = {name: CASES[name] for name in (_QUICK if quick else CASES)}
    return Grid(case=looped(cases), width=looped(widths_of(quick)), scheme=batched(places(quick)), seed=range(8))


def one_run(key: PRNGKeyArray, case: Case, width: int, scheme: int | Array) -> Trajectory:
    """A network with random targets at Gaussian inputs."""
    x_key, y_key, net_key, batch_key = jax.random.split(key, 4)
    data = Dataset(jax.random.normal(x_key, (SAMPLES, _INPUTS)), jax.random.normal(y_key, (SAMPLES, 1)))
    net, mobility = network(net_key, data, width, scheme, case.activation)
    observe = {"features": FeatureChange(net, data.x), "loss": measure.loss}
    return case.training(net, data, mobility, batch_key, observe=observe)


_LAST = HIDDEN
_ROUNDING = 1e-9  # dependent features have a λ_min of rounding errors, far below, which would flatten the others
_PANELS = {
    f"change_{_LAST}": "change of features, rms",
    f"relative_{_LAST}": "relative change of features",
    f"smallest_{_LAST}": "$\\lambda_{\\min}(HH^\\top/n)$",
    f"joint_{_LAST}": "$\\lambda_{\\min}$ of $[H^0; H]$, over $n$",
}


def figure(dataset: "xarray.Dataset") -> "Figure":
    """Last hidden layer against width: all parametrizations by exact flow; muP in all cases; training loss."""
    from matplotlib.lines import Line2D

    sheet, axes = new_figure(len(_PANELS) + 1, rows=2)
    top, bottom = axes[: len(_PANELS) + 1], axes[len(_PANELS) + 1 :]
    flow, mup = dataset.sel(case=FLOW), dataset.sel(scheme="muP")
    draw_sizes(top, flow, "scheme", FLOW)
    draw_sizes(bottom, mup, "case", "muP")
    widest = dataset.isel(width=-1)
    for ax, runs, hue in ((top[-1], widest.sel(case=FLOW), "scheme"), (bottom[-1], widest.sel(scheme="muP"), "case")):
        bands(runs, "loss", hue=hue, ax=ax, label="training loss $\\mathcal{L}$", legend=False)
        ax.set_title(f"$n = {int(widest['width'])}$")
    entries: dict[str, Any] = {}
    for dim in ("scheme", "case"):
        count = dataset.sizes[dim]
        for i, name in enumerate(dataset[dim].values):
            style: Any = {"color": color_of(i, count), "marker": "o", "markersize": 3.5}
            entries[f"{'above' if dim == 'scheme' else 'below'}: {name}"] = Line2D([], [], **style)
    entries["untrained"] = Line2D([], [], color=GRAY, linestyle=":")
    entries["promised power of $n$"] = Line2D([], [], color="black", linestyle="--")
    shown = f"median and 10–90 % over {dataset.sizes['seed']} seeds"
    legend_below(sheet, entries, f"{shown}; above: {FLOW}; below: muP, where $\\lambda_{{\\min}}$ of identity is zero")
    return sheet


def draw_sizes(axes: "list[Axes]", runs: "xarray.Dataset", hue: str, title: str) -> None:
    """Sizes in the last hidden layer at the end against the width; dotted at the start, where they are not zero."""
    for ax, (name, label) in zip(axes, _PANELS.items(), strict=False):
        at_end(runs, f"features.{name}", against="width", hue=hue, ax=ax, label=label).set_title(title)
        for i, each in enumerate(runs[hue].values):
            of = runs[f"features.{name}"].sel({hue: each})
            start = of.isel(time=0).median("seed")
            if name.startswith("smallest"):
                ax.plot(runs["width"], start, color=color_of(i, runs.sizes[hue]), linestyle=":", linewidth=1.2)
            power = promised(each) if hue == "scheme" else promised("muP")
            if name.startswith("change") and power is not None and (hue == "scheme" or i == 0):
                draw_slope(ax, runs[f"features.{name}_at_end"].sel({hue: each}), power)
        set_widths(ax, runs["width"].values)
        if name.startswith(("smallest", "joint")):
            ax.set_ylim(bottom=max(ax.get_ylim()[0], _ROUNDING))


def promised(scheme: str, layer: int = _LAST) -> float | None:
    """The power of n by which features of this layer change; None for what is not stable."""
    return promised_exponents(SCHEMES[scheme], HIDDEN + 1)[f"change {layer}"]


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """The powers of the width, independence where the theorem has it, what it does to the error; and all the rest."""
    found = []
    for name in dataset["case"].values:
        runs, outside = dataset.sel(case=name), "" if CASES[name].is_covered else "outside of the theorem"
        found += [claim_change(runs.sel(scheme=scheme), name, scheme, outside) for scheme in runs["scheme"].values]
        found.append(claim_independence(runs.sel(scheme="muP"), name, outside))
        found += [report(runs.sel(scheme=scheme), f"{name}, {scheme}") for scheme in runs["scheme"].values]
    return [*found, _claim_error(dataset.sel(case=FLOW)), _report_zero(dataset.sel(case=FLOW, scheme="muP"))]


def claim_change(runs: "xarray.Dataset", what: str, scheme: str, outside: str = "") -> Claim:
    """That features of each layer change by the promised power of the width; `outside`: why that is not claimed."""
    fits = {l: exponent(runs[f"features.change_{l}_at_end"]) for l in range(1, HIDDEN + 1)}
    statement, measured = f"{what}, {scheme}: change of h_l ∝ n^p, p", ", ".join(told(fit) for fit in fits.values())
    powers = {l: power for l in fits if (power := promised(scheme, l)) is not None}
    if not powers:
        return reported(statement, measured, runs, expected="not stable as n grows")
    expected = ", ".join(f"{power + 0.0:g}".replace("-", "−") for power in powers.values())
    if outside:
        return reported(statement, measured, runs, expected=f"{expected} as n → ∞; {outside}")
    agrees = all(holds(fits[l], power) for l, power in powers.items())
    names = [f"features.change_{l}_at_end" for l in powers]
    return judged(statement, f"{expected}, {WITHIN}", measured, agrees, runs, names)


def claim_independence(mup: "xarray.Dataset", what: str, outside: str = "") -> Claim:
    """Under muP features stay independent in every run at every time, and do in the limit of infinite width."""
    layers = range(1, HIDDEN + 1)
    least = min(float(mup[f"features.independence_{l}"].min()) for l in layers)
    limits = [_limit(mup[f"features.smallest_{l}_at_end"]) for l in layers]
    measured = f"σ_min/σ_max ≥ {least:.1e}; λ_min → {', '.join(f'{v:.2g} ± {e:.1g}' for v, e in limits)}"
    statement = f"{what}, muP: features of every layer stay linearly independent"
    if outside:
        return reported(statement, measured, mup, expected=outside)
    agrees = least > RESOLUTION and all(value > 2 * error for value, error in limits)
    expected = f"σ_min/σ_max > {RESOLUTION:g} in all runs; limit of λ_min > 0 by 2 standard errors"
    return judged(statement, expected, measured, bool(agrees), mup, [f"features.independence_{l}" for l in layers])


def _limit(values: "xarray.DataArray") -> tuple[float, float]:
    fit = width_limit(values["width"].values.tolist(), values.transpose("width", "seed").values)
    return fit.limit, fit.error


def report(runs: "xarray.Dataset", what: str) -> Claim:
    """Powers of the width of the eigenvalues of the last layer, and what there is at the largest width."""
    widest = runs.isel(width=-1)
    of = lambda name: runs[f"features.{name}_{_LAST}_at_end"]
    at = lambda name: quantiles(of(name).isel(width=-1))
    resolved = int((of("joint_independence").isel(width=-1) > RESOLUTION).sum())
    measured = (
        f"relative change {at('relative')}; λ_min {at('smallest')} ∝ n^{told(exponent(of('smallest')))}; joint λ_min "
        f"{at('joint')} ∝ n^{told(exponent(of('joint')))}, [H⁰; H] independent in {resolved} of "
        f"{widest.sizes['seed']}; loss {quantiles(widest['loss_at_end'])}"
    )
    return reported(f"{what}: last hidden layer at n = {int(widest['width'])}", measured, runs)


def _claim_error(flow: "xarray.Dataset") -> Claim:
    """With the least λ_min at any of the times that were looked at."""
    rate = 2 / SAMPLES * flow[f"features.smallest_{_LAST}"].min("time")
    fallen = np.log(flow["loss"].isel(time=0) / flow["loss_at_end"])
    ratio = fallen / (rate * _T1)
    statement = f"{FLOW}, all parametrizations: ℒ(T) ≤ ℒ(0) exp(−(2/N) min_t λ_min T), H of the last hidden layer"
    return judged(
        statement,
        "log(ℒ(0)/ℒ(T)) over that ≥ 1",
        f"{quantiles(ratio)}, ≥ {float(ratio.min()):.2f}",
        bool(ratio.min() >= 1),
        flow,
        [f"features.smallest_{_LAST}", "loss"],
    )


def _report_zero(mup: "xarray.Dataset") -> Claim:
    left = mup["loss_at_end"] / mup["loss"].isel(time=0)
    measured = f"{quantiles(left)} of the loss, ≤ {float(left.max()):.1g}"
    expected = "the theorem says zero error if training converges, not that it does"
    return reported(f"{FLOW}, muP: what is left of the loss at t = {_T1:g}", measured, mup, expected=expected)


FEATURES = OldExperiment(
    name="features",
    question="Do features move at every width, and stay linearly independent, and who learns to zero error?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(70, 1100),
)
