"""λ-balanced two-layer linear networks without weight decay: a closed form tells how the ansatz bends.

With W_2ᵀW_2 − W_1W_1ᵀ = bI, which the flow conserves, NFM = (−bI + (b²I + 4 AGOP)^{1/2})/2 at all times, on the row
space of W_1. In a log-log plot of eigenvalues that is a curve of slope (1 + b/(b² + 4s²)^{1/2})/2 at the eigenvalue s²
of AGOP: 1/2 for b = 0 and where s ≫ |b|, 1 for b ≫ s, and 0 for b ≪ −s. The fitted exponent is an average of these
slopes. One end-to-end matrix can be split at any b, so the same function has every exponent between 0 and 1.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ... import measure, nets, theory
from ...data import linear_teacher
from ...flow import log_times
from ...plot.at_end import at_end
from ...plot.bands import bands
from ...plot.style import AT_START, GRAY, color_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid
from ..claims import Claim, judged, reported
from ..old_experiment import OldExperiment, quantiles
from ..training import ExactFlow
from .common import EXACT, observables

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A hidden layer of the rank of the end-to-end matrix, so that it can have a balance of either sign.
_INPUTS, _HIDDEN, _OUTPUTS, _SAMPLES = 10, 5, 5, 200
_T1 = 1e4
_FLOW = ExactFlow(_T1, rtol=1e-9)
_TIMES = np.concatenate([[0.0], log_times(1e-2, _T1, 36)])
_BALANCES = (-10.0, -2.0, -0.5, 0.0, 0.5, 2.0, 10.0)


def grid(quick: bool) -> Grid:
    """Balances of both signs × seeds."""
    return Grid(b=_BALANCES, seed=range(8 if quick else 32))


def one_run(key: PRNGKeyArray, b: float | Array) -> Trajectory:
    """Two linear layers on the data of a linear teacher with label noise; for all b the same function at t = 0."""
    data_key, net_key, basis_key, null_key = jax.random.split(key, 4)
    data = linear_teacher(_SAMPLES, _INPUTS, _OUTPUTS, key=data_key, noise=0.1)
    untrained = nets.MLP([_INPUTS, _HIDDEN, _OUTPUTS], key=null_key)
    P = 0.3 * jax.random.normal(net_key, (_OUTPUTS, _INPUTS)) / _INPUTS**0.5
    net = untrained.with_weights(split(P, b, jax.random.orthogonal(basis_key, _HIDDEN)))
    every = observables(1 / 2) | {"spectrum": measure.spectrum}
    null = {name: every[name](untrained, data) for name in ("relative_error", "exponent", "spectrum")}
    observe = every | {
        "nfm": measure.nfm,
        "end_to_end": lambda net, data: net.weights[1] @ net.weights[0],
        "untrained": lambda net, data: null,
    }
    return _FLOW(net, data, key, observe=observe, save_at=_TIMES, progress=False)


def split(
    P: Float[Array, "c d"], b: float | Float[Array, ""], Q: Float[Array, "h h"]
) -> tuple[Float[Array, "h d"], Float[Array, "c h"]]:
    """(W_1, W_2) with W_2W_1 = P and W_2ᵀW_2 − W_1W_1ᵀ = bI, of singular values √s e^{−θ} and √s e^θ, 2s sinh 2θ = b.

    **Arguments:** `P`: of h singular values s > 0; `b`: the balance, of either sign; `Q`: orthogonal, the basis of the
    hidden layer.
    """
    U, s, Vt = jnp.linalg.svd(P, full_matrices=False)
    tilt = jnp.exp(jnp.arcsinh(b / (2 * s)) / 2)
    return (Q * (jnp.sqrt(s) / tilt)) @ Vt, (U * (jnp.sqrt(s) * tilt)) @ Q.T


def predicted_nfm(dataset: "xarray.Dataset") -> np.ndarray:
    """What the identity makes of the end-to-end matrix of each network, over b, seed, time and two axes of inputs."""
    P = _values(dataset, "end_to_end")
    nfm = [
        [[theory.lambda_balanced_nfm(each, b, width=_HIDDEN) for each in run] for run in runs]
        for b, runs in zip(dataset["b"].values, P, strict=True)
    ]
    return np.array(nfm)


def predicted_exponent(dataset: "xarray.Dataset") -> np.ndarray:
    """The slope that a straight line through the identity's eigenvalues has, over b, seed and time."""
    _, s, Vt = np.linalg.svd(_values(dataset, "end_to_end"), full_matrices=False)
    x = np.log(s**2)
    y = np.log(np.sum((Vt @ predicted_nfm(dataset)) * Vt, axis=-1))
    x = x - x.mean(axis=-1, keepdims=True)
    return np.sum(x * y, axis=-1) / np.sum(x**2, axis=-1)


def without_failures(dataset: "xarray.Dataset") -> "xarray.Dataset":
    """The seeds of which all runs were completed."""
    return dataset.isel(seed=(dataset["status"] == "completed").all("b").values)


def _values(dataset: "xarray.Dataset", name: str) -> np.ndarray:
    return dataset[name].transpose("b", "seed", "time", ...).to_numpy()


def figure(dataset: "xarray.Dataset") -> "Figure":
    """NFM against AGOP by eigenvalue, the fitted exponent through time and at the end, the error at 1/2 at the end."""
    from matplotlib.lines import Line2D

    dataset = without_failures(dataset)
    sheet, axes = new_figure(4)
    _draw_eigenvalues(axes[0], dataset)
    predicted = predicted_exponent(dataset)
    bands(dataset, "exponent.exponent", hue="b", ax=axes[1], legend=False)
    axes[1].plot(_TIMES[1:], np.median(predicted, axis=1)[:, 1:].T, **_THEORY)
    axes[1].set(title="through time", yscale="linear", ylim=(-0.05, 1.05))
    for ax, name in zip(axes[2:], ("exponent.exponent", "relative_error"), strict=True):
        at_end(dataset, name, against="b", ax=ax).set(title="at the end", xlabel="balance $b$")
        ax.axhline(float(dataset[f"untrained.{name}_at_end"].median()), color=GRAY, linestyle=(0, (1, 1)))
    axes[2].plot(np.arange(len(predicted)), np.median(predicted[:, :, -1], axis=1), **_THEORY)
    axes[2].set(yscale="linear", ylim=(-0.05, 1.05))
    axes[3].set(yscale="log", title="at the end, $\\alpha = 1/2$")
    entries: dict[str, Any] = {
        f"$b = {b:g}$": Line2D([], [], color=color_of(i, dataset.sizes["b"])) for i, b in enumerate(dataset["b"].values)
    }
    entries["the identity"] = Line2D([], [], **_THEORY)
    entries["untrained, Gaussian"] = Line2D([], [], color=GRAY, linestyle=(0, (1, 1)), marker="x", markersize=3)
    entries[AT_START] = Line2D([], [], color=GRAY, linestyle=":", linewidth=1)
    legend_below(sheet, entries, f"median and 10–90 % over {dataset.sizes['seed']} seeds")
    return sheet


_THEORY: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 0.9, "zorder": 5}


def _draw_eigenvalues(ax: "Axes", dataset: "xarray.Dataset") -> None:
    """All networks at every fifth time, the closed form for each b, and what slopes 1/2 and 1 look like."""
    spectra = dataset.isel(time=slice(None, None, 5))
    agop, nfm = (_values(spectra, f"spectrum.{name}") for name in ("agop", "nfm_along_agop"))
    ends = np.quantile(agop, 0.02), 1.3 * agop.max()
    s = np.sqrt(np.geomspace(*ends, 50))
    for i, b in enumerate(dataset["b"].values):
        ax.scatter(agop[i], nfm[i], color=color_of(i, dataset.sizes["b"]), s=6, linewidth=0, alpha=0.6)
        ax.plot(s**2, np.diag(theory.lambda_balanced_nfm(np.diag(s), b, width=s.size)), **_THEORY)
    null = dataset.isel(b=0, time=0)
    points = (null[f"untrained.spectrum.{name}"].to_numpy() for name in ("agop", "nfm_along_agop"))
    ax.scatter(*points, color=GRAY, marker="x", s=8, linewidth=0.6)
    for slope in (0.5, 1.0):
        ax.plot([0.1, 1], [6e-4, 6e-4 * 10**slope], color=GRAY, linewidth=1)
        ax.text(1, 6e-4 * 10**slope, f" slope {slope:g}", color=GRAY, fontsize=7.5, va="center")
    ax.set(xscale="log", yscale="log", xlabel="eigenvalue of AGOP", ylabel="$v^\\top$ NFM $v$", xlim=ends)
    ax.set_title("eigenvalues, at all times")


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """The identity along the flow, and the exponent and the error that it leaves."""
    runs, dataset = dataset, without_failures(dataset)
    norm = lambda matrices: np.linalg.norm(matrices, axis=(-2, -1))
    balanced = dataset["b"].values == 0
    nfm, P, exponent = (_values(dataset, name) for name in ("nfm", "end_to_end", "exponent.exponent"))
    expected = predicted_nfm(dataset)
    error = float(np.max(norm(nfm - expected) / norm(expected)))
    off = float(np.abs(exponent - predicted_exponent(dataset)).max())
    half = float(np.abs(exponent[balanced] - 0.5).max())
    apart = float((norm(P - P[balanced]) / norm(P))[..., -1].max())
    within, exponents = f"off by ≤ {EXACT:g}", ["exponent.exponent"]
    return [
        judged(
            "two layers, W_2ᵀW_2 − W_1W_1ᵀ = bI: NFM = (−bI + (b²I + 4 AGOP)^{1/2})/2 at all times",
            f"relative error ≤ {EXACT:g}",
            f"≤ {error:.1g}",
            error <= EXACT,
            runs,
            ["nfm"],
        ),
        judged(
            "and the fitted exponent is that of the identity", within, f"≤ {off:.1g}", off <= EXACT, runs, exponents
        ),
        judged("b = 0: α̂ = 1/2 at all times", within, f"≤ {half:.1g}", half <= EXACT, runs.sel(b=[0.0]), exponents),
        *(_claim_limit(runs.sel(b=b)) for b in runs["b"].values if b != 0),
        judged(
            "yet the networks of all b start and end as one function",
            within,
            f"≤ {apart:.1g}",
            apart <= EXACT,
            runs,
            ["end_to_end"],
        ),
        reported("untrained, Gaussian: α̂ and error at 1/2", _scores(runs.isel(b=0), "untrained."), runs.isel(b=0)),
    ]


def _claim_limit(runs: "xarray.Dataset") -> Claim:
    """α̂ averages slopes, of which the one at AGOP's largest eigenvalue is the farthest from the limit for large |b|."""
    b, largest = float(runs["b"]), runs["spectrum.agop_at_end"].isel({"spectrum.agop[1]": 0})
    bound = (1 - abs(b) / np.sqrt(b**2 + 4 * largest)) / 2
    exponent = runs["exponent.exponent_at_end"]
    away = 1 - exponent if b > 0 else exponent
    holds = bool(((away >= 0) & (away <= bound)).all())
    expected = f"1 − {float(bound.max()):.2g} ≤ α̂ ≤ 1" if b > 0 else f"0 ≤ α̂ ≤ {float(bound.max()):.2g}"
    statement, names = f"b = {b:g}: α̂ and error at 1/2, at the end", ["exponent.exponent_at_end"]
    return judged(statement, expected, _scores(runs), holds, runs, names)


def _scores(runs: "xarray.Dataset", prefix: str = "") -> str:
    exponent, error = (runs[f"{prefix}{name}_at_end"] for name in ("exponent.exponent", "relative_error"))
    return f"α̂ {quantiles(exponent, '{:.3f}')}; error {quantiles(error)}"


LAMBDA_BALANCED = OldExperiment(
    name="lambda-balanced",
    question="How does the ansatz bend where the balance of a linear network is not zero but bI?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(15, 20),
)
