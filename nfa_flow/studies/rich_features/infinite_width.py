"""Networks of growing width against the infinite one: linear layers under muP, whose limit is known.

A = W_1ᵀW_1/n and P = W_L⋯W_1 of a network deviate from their limits by n^{−½}, the fluctuation of its start, and means
over networks by 1/n. So does what the Neural Feature Ansatz makes of NFM = nA and AGOP = PᵀP with the exponent 1/L that
balanced networks have: an infinitely wide one starts as far from balance as A = I/d, AGOP = 0.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

import diffrax
import jax
import numpy as np
from jaxtyping import Float64, PRNGKeyArray

from ... import measure, nets
from ...data import Dataset, linear_teacher
from ...flow import gradient_flow
from ...plot.at_end import at_end
from ...plot.bands import bands
from ...plot.style import GRAY, color_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, looped
from ...theory import LinearMuP, infinite_deep_linear_mup
from ...width import WidthLimit, width_limit
from ..claims import Claim, judged
from ..old_experiment import OldExperiment
from ..width_fits import WITHIN, draw_slope, exponent, set_widths, told
from .common import holds

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INPUTS, _OUTPUTS, _SAMPLES = 4, 2, 100
_T1, _RTOL = 10.0, 1e-8
_LIMIT_RTOL = 1e-6  # far below the deviations of networks
TIMES = np.concatenate([[0.0], np.geomspace(0.01, _T1, 31)])
_MIDDLE = 20  # the place of t = 1 among them, while the network learns
SCORES = {
    "relative_error": "relative error of NFM $\\propto$ AGOP$^{1/L}$",
    "trace": "tr $A$",
    "loss": "loss $\\mathcal{L}$",
}


def grid(quick: bool) -> Grid:
    """Numbers of layers × widths × seeds."""
    layers, widths = ([2, 3], [64, 128, 256]) if quick else ([2, 3, 4], [64, 128, 256, 512])
    return Grid(layers=looped(layers), width=looped(widths), seed=range(16 if quick else 32))


def _data() -> Dataset:
    """The same for all networks."""
    return linear_teacher(_SAMPLES, _INPUTS, _OUTPUTS, key=jax.random.key(0), noise=0.1)


def one_run(key: PRNGKeyArray, layers: int, width: int) -> Trajectory:
    """A linear network under muP."""
    net = nets.MLP([_INPUTS, *[width] * (layers - 1), _OUTPUTS], key=key, parametrization="muP")
    observe = {"A": lambda net, data: measure.nfm(net) / width, "P": lambda net, data: net.affine()[0]}
    solver = diffrax.Tsit5()  # the problem is not stiff, and this is compiled soonest
    options: Any = {"rtol": _RTOL, "save_at": TIMES, "solver": solver, "progress": False}
    return gradient_flow(net, _data(), _T1, observe=observe, **options)


@cache
def limit(layers: int) -> LinearMuP:
    """The infinitely wide network at `TIMES`."""
    S_xx, S_xy, _ = _moments()
    return infinite_deep_linear_mup(TIMES, S_xx, S_xy.T, depth=layers, rtol=_LIMIT_RTOL)


@cache
def _moments() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = _data()
    return np.asarray(data.S_xx), np.asarray(data.S_xy), np.asarray(data.S_yy)


def scores(
    A: Float64[np.ndarray, "*runs d d"], P: Float64[np.ndarray, "*runs c d"], layers: int
) -> dict[str, np.ndarray]:
    """What depends on A and P alone; the relative error, min_s ‖A − s AGOP^{1/L}‖ / ‖A‖, is undefined at AGOP = 0."""
    _, s, Vt = np.linalg.svd(P, full_matrices=False)
    power = s ** (2 / layers)
    root = np.einsum("...ri,...r,...rj->...ij", Vt, power, Vt)
    with np.errstate(invalid="ignore"):
        cosine = np.sum(A * root, axis=(-2, -1)) / np.sqrt(np.sum(A**2, axis=(-2, -1)) * np.sum(power**2, axis=-1))
    S_xx, S_xy, S_yy = _moments()
    loss = 0.5 * (np.trace(S_yy) + np.sum((P @ S_xx - 2 * S_xy.T) * P, axis=(-2, -1)))
    return {"relative_error": np.sqrt(1 - cosine**2), "trace": np.trace(A, axis1=-2, axis2=-1), "loss": loss}


def exact_scores(layers: int) -> dict[str, np.ndarray]:
    """The scores of the infinitely wide network at `TIMES`."""
    return scores(limit(layers).nfm, limit(layers).end_to_end, layers)


def with_scores(dataset: "xarray.Dataset") -> "xarray.Dataset":
    """The runs with their scores, and with the largest ‖A − A_∞‖_F and ‖P − P_∞‖_F at any of the times."""
    import xarray

    scored = [_scored(dataset.sel(layers=[each])) for each in dataset["layers"].values]
    return xarray.concat(scored, "layers", data_vars="minimal", coords="minimal", compat="override", join="exact")


def _scored(dataset: "xarray.Dataset") -> "xarray.Dataset":
    """Of networks of one number of layers."""
    dims, (layers,) = ("layers", "width", "seed", "time"), dataset["layers"].values.tolist()
    A, P = (dataset[name].transpose(*dims, ...).values for name in ("A", "P"))
    found: dict[str, Any] = {name: (dims, values) for name, values in scores(A, P, layers).items()}
    for name, values, at_infinity in (("A", A, limit(layers).nfm), ("P", P, limit(layers).end_to_end)):
        found[f"distance of {name}"] = (dims[:3], np.linalg.norm(values - at_infinity, axis=(-2, -1)).max(axis=-1))
    return dataset.drop_vars(["A", "P"]).assign(found)


def extrapolated(runs: "xarray.Dataset", name: str) -> WidthLimit:
    """A score at t = 1, extrapolated to infinite width from the means over the networks of each width."""
    values = runs[name].isel(time=_MIDDLE).transpose("width", "seed").values
    return width_limit(runs["width"].values.tolist(), values)


def figure(dataset: "xarray.Dataset") -> "Figure":
    """Distances to the limit against width; scores through time with their limit; means against 1/n."""
    from matplotlib.lines import Line2D

    sheet, axes = new_figure(4, rows=2)
    runs = with_scores(dataset)
    layers = runs["layers"].values.tolist()
    for ax, name in zip((axes[0], axes[4]), ("A", "P"), strict=True):
        distance, label = f"distance of {name}", f"largest $\\|{name} - {name}_\\infty\\|_F$ in time"
        at_end(runs, distance, against="width", hue="layers", ax=ax, label=label)
        for each in layers:
            draw_slope(ax, runs[distance].sel(layers=each), -0.5)
        set_widths(ax, runs["width"].values)
    for ax, name in zip(axes[1:4], SCORES, strict=True):
        bands(runs.isel(width=0), name, hue="layers", ax=ax, label=SCORES[name], legend=False)
        for each in layers:
            ax.plot(TIMES[1:], exact_scores(each)[name][1:], "k--", linewidth=1.0, zorder=5)
    for ax, name in zip(axes[5:], SCORES, strict=True):
        for i, each in enumerate(layers):
            _draw_means(ax, runs.sel(layers=each), name, exact_scores(each)[name][_MIDDLE], color_of(i, len(layers)))
        ax.set(xlabel="$1/n$", ylabel=SCORES[name], title="at $t = 1$")
    mean = "mean over seeds ± standard error at $t=1$, and $v_\\infty + c/n$"
    colors = {f"$L = {each}$": Line2D([], [], color=color_of(i, len(layers))) for i, each in enumerate(layers)}
    entries: dict[str, Any] = colors | {
        "infinite width (left: $n^{-1/2}$)": Line2D([], [], color="black", linestyle="--"),
        "untrained": Line2D([], [], color=GRAY, linestyle=":"),
        mean: Line2D([], [], color=GRAY, marker="o", markersize=3.5),
    }
    narrowest, seeds = int(runs["width"].values[0]), dataset.sizes["seed"]
    legend_below(sheet, entries, f"bands: $n = {narrowest}$; median and 10–90 % over {seeds} seeds unless said")
    return sheet


def _draw_means(ax: "Axes", runs: "xarray.Dataset", name: str, exact: float, color: str) -> None:
    """Means of the networks against 1/n, the line through them, and the limit."""
    values, fit, inverse = runs[name].isel(time=_MIDDLE), extrapolated(runs, name), 1 / runs["width"].values
    error = values.std("seed", ddof=1) / runs.sizes["seed"] ** 0.5
    points: Any = {"marker": "o", "markersize": 3.5, "linewidth": 0, "elinewidth": 1.2, "capsize": 2}
    ax.errorbar(inverse, values.mean("seed"), yerr=error, color=color, **points)
    line = np.array([0.0, inverse.max()])
    ax.plot(line, fit.limit + fit.slope * line, color=color)
    ax.axhline(exact, color="black", linestyle="--", linewidth=1.0, zorder=5)


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """The power of the width of the distance to the limit, and limits by extrapolation against those of the theory."""
    runs = with_scores(dataset)
    return [claim for each in runs["layers"].values.tolist() for claim in _claims(runs.sel(layers=each), each)]


def _claims(runs: "xarray.Dataset", layers: int) -> list[Claim]:
    """Of networks of one number of layers."""
    found, what = [], f"{layers} linear layers, muP, exact flow"
    for name in ("A", "P"):
        fit = exponent(runs[f"distance of {name}"])
        statement = f"{what}: largest ‖{name} − {name}_∞‖ in time ∝ n^p, p"
        agrees, names = holds(fit, -0.5), [f"distance of {name}"]
        found.append(judged(statement, f"−0.5, {WITHIN}", told(fit), agrees, runs, names))
    labels = {"relative_error": f"error of NFM ∝ AGOP^{{1/{layers}}}", "trace": "tr A", "loss": "loss"}
    for name, label in labels.items():
        fit, value = extrapolated(runs, name), float(exact_scores(layers)[name][_MIDDLE])
        off = abs(fit.limit - value)
        measured = f"{fit.limit:.5g} ± {fit.error:.1g}, off by {off / fit.error:.1f} standard errors"
        statement = f"{what}: {label} at t = 1, v_∞ of means over seeds = v_∞ + c/n"
        expected, agrees = f"{value:.5g} within 3 standard errors", bool(off <= 3 * fit.error)
        found.append(judged(statement, expected, measured, agrees, runs.isel(time=[_MIDDLE]), [name]))
    return found


INFINITE_WIDTH = OldExperiment(
    name="infinite-width",
    question="How fast do linear networks under muP approach the infinite one, and its deviation from the ansatz?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(45, 350),
)
