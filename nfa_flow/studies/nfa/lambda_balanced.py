"""λ-balanced two-layer linear networks without weight decay: a closed form replaces the ansatz.

With W_2ᵀW_2 − W_1W_1ᵀ = bI, which the flow conserves, NFM = (−bI + (b²I + 4 AGOP)^{1/2})/2 at all times, on the row
space of W_1. In a log-log plot of eigenvalues this is a curve of slope (1 + b/(b² + 4s²)^{1/2})/2 at the eigenvalue s²
of AGOP: 1/2 for b = 0 and where s ≫ |b|, 1 for b ≫ s, and 0 for b ≪ −s. The fitted exponent is an average of these
slopes. An end-to-end matrix can be factorized with any b, so the same function has every exponent between 0 and 1.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ... import Trajectory, log_times, measure, nets, theory
from ...plot.style import GRAY, color_of
from ...training import ExactFlow
from ..axes import batched, seeds
from ..experiment import Experiment
from ..judgments import AtMost, Judged, Reported
from ..panels import THEORY, AtEnd, Axes, Entries, Through
from ..runs import Runs, Values, quantiles
from .common import EXACT, INPUTS, OUTPUTS, observables, teacher

# As wide as the rank of the end-to-end matrix, so that b can have either sign.
_HIDDEN = 5
_T1 = 1e4
_FLOW = ExactFlow(_T1, rtol=1e-9)
_TIMES = np.concatenate([[0.0], log_times(1e-2, _T1, 36)])


def one_run(key: PRNGKeyArray, b: float | Array) -> Trajectory:
    """Two linear layers on the data of a linear teacher with label noise; at t = 0 the function is equal for all b."""
    data_key, net_key, basis_key, null_key = jax.random.split(key, 4)
    data = teacher(data_key)
    untrained = nets.MLP([INPUTS, _HIDDEN, OUTPUTS], key=null_key)
    P = 0.3 * jax.random.normal(net_key, (OUTPUTS, INPUTS)) / INPUTS**0.5
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


def predicted_nfm(dataset: Runs) -> np.ndarray:
    """The NFM from the closed form and the end-to-end matrix of each network, over (b, seed, time, input, input)."""
    P = _values(dataset, "end_to_end")
    nfm = [
        [[theory.lambda_balanced_nfm(each, b, width=_HIDDEN) for each in run] for run in runs]
        for b, runs in zip(dataset["b"].values, P, strict=True)
    ]
    return np.array(nfm)


def predicted_exponent(dataset: Runs) -> np.ndarray:
    """The slope of a straight line through the eigenvalues of the closed form, over (b, seed, time)."""
    _, s, Vt = np.linalg.svd(_values(dataset, "end_to_end"), full_matrices=False)
    x = np.log(s**2)
    y = np.log(np.sum((Vt @ predicted_nfm(dataset)) * Vt, axis=-1))
    x = x - x.mean(axis=-1, keepdims=True)
    return np.sum(x * y, axis=-1) / np.sum(x**2, axis=-1)


def _values(runs: Runs, name: str) -> np.ndarray:
    return runs[name].transpose("b", "seed", "time", ...).to_numpy()


def _derive(runs: Runs) -> Runs:
    """Add the distances of runs from the closed form, from its exponent, from 1/2 and from the function of b = 0."""
    whole = runs.isel(seed=(runs["status"] == "completed").all("b").values)  # NaN in the others
    norm = lambda matrices: np.linalg.norm(matrices, axis=(-2, -1))
    exponent = whole["exponent.exponent"].transpose("b", "seed", "time")
    nfm, P, expected = _values(whole, "nfm"), _values(whole, "end_to_end"), predicted_nfm(whole)
    predicted = exponent.copy(data=predicted_exponent(whole))
    return runs.assign(
        off=exponent.copy(data=norm(nfm - expected) / norm(expected)),
        predicted=predicted,
        predicted_at_end=predicted.isel(time=-1, drop=True),
        off_exponent=abs(exponent - predicted),
        off_half=abs(runs["exponent.exponent"] - 0.5),
        apart=exponent.copy(data=norm(P - P[whole["b"].values == 0]) / norm(P)).isel(time=-1, drop=True),
    )


def _draw_eigenvalues(ax: Axes, runs: Runs) -> Entries:
    """All networks at every fifth time, the closed form for each b, and lines of slope 1/2 and 1."""
    spectra = runs.isel(time=slice(None, None, 5))
    agop, nfm = (_values(spectra, f"spectrum.{name}") for name in ("agop", "nfm_along_agop"))
    ends = np.nanquantile(agop, 0.02), 1.3 * np.nanmax(agop)
    s = np.sqrt(np.geomspace(*ends, 50))
    for i, b in enumerate(runs["b"].values):
        ax.scatter(agop[i], nfm[i], color=color_of(i, runs.sizes["b"]), s=6, linewidth=0, alpha=0.6)
        ax.plot(s**2, np.diag(theory.lambda_balanced_nfm(np.diag(s), b, width=s.size)), **THEORY)
    null = runs.isel(b=0, time=0)
    points = (null[f"untrained.spectrum.{name}"].to_numpy() for name in ("agop", "nfm_along_agop"))
    crosses = ax.scatter(*points, color=GRAY, marker="x", s=8, linewidth=0.6)
    for slope in (0.5, 1.0):
        ax.plot([0.1, 1], [6e-4, 6e-4 * 10**slope], color=GRAY, linewidth=1)
        ax.text(1, 6e-4 * 10**slope, f" slope {slope:g}", color=GRAY, fontsize=7.5, va="center")
    ax.set(xscale="log", yscale="log", xlabel="eigenvalue of AGOP", ylabel="$v^\\top$ NFM $v$", xlim=ends)
    ax.set_title("eigenvalues, at all times")
    return {"untrained, eigenvalues": crosses}


def _bound(runs: Runs) -> Values:
    """The largest distance of α̂ from its limit for large |b|: that of the slope at the largest eigenvalue of AGOP."""
    b, largest = float(runs["b"]), runs["spectrum.agop_at_end"].isel({"spectrum.agop[1]": 0})
    return (1 - abs(b) / (b**2 + 4 * largest) ** 0.5) / 2


def _limits(runs: Runs) -> str:
    bound = f"{float(_bound(runs).max()):.2g}"
    return f"1 − {bound} ≤ α̂ ≤ 1" if runs["b"] > 0 else f"0 ≤ α̂ ≤ {bound}"


def _within_limits(runs: Runs) -> tuple[str, bool]:
    exponent = runs["exponent.exponent_at_end"]
    away = 1 - exponent if runs["b"] > 0 else exponent
    return _scores(runs), bool(((away >= 0) & (away <= _bound(runs))).all())


def _scores(runs: Runs, prefix: str = "") -> str:
    exponent, error = (runs[f"{prefix}{name}_at_end"] for name in ("exponent.exponent", "relative_error"))
    return f"α̂ {quantiles(exponent, '{:.3f}')}; error {quantiles(error)}"


_linear: dict[str, Any] = {"yscale": "linear", "ylim": (-0.05, 1.05)}
_at_end = partial(AtEnd, against="b", baseline="untrained, Gaussian")

LAMBDA_BALANCED = Experiment(
    "lambda-balanced",
    "What replaces the ansatz if the balance of a linear network is bI instead of zero?",
    axes={
        "b": batched(
            [-10.0, -2.0, -0.5, 0.0, 0.5, 2.0, 10.0],
            quick=[-10.0, -2.0, 0.0, 2.0, 10.0],
            tiny=[-2.0, 0.0, 2.0],
            label="balance $b$",
        ),
        "seed": seeds(32),
    },
    one_run=one_run,
    derive=_derive,
    panels=[
        _draw_eigenvalues,
        Through("exponent.exponent", hue="b", law="predicted", title="through time", axis=_linear),
        _at_end("exponent.exponent", law="predicted", title="at the end", axis=_linear),
        _at_end("relative_error", title="at the end, $\\alpha = 1/2$", axis={"yscale": "log"}),
    ],
    claims={
        "two layers, W_2ᵀW_2 − W_1W_1ᵀ = bI: NFM = (−bI + (b²I + 4 AGOP)^{1/2})/2 at all times": AtMost("off", EXACT),
        "and the fitted exponent is that of the identity": AtMost("off_exponent", EXACT, "off by ≤ {}"),
        "b = 0: α̂ = 1/2 at all times": AtMost("off_half", EXACT, "off by ≤ {}", of={"b": [0.0]}),
        "b = {b}: α̂ and error at 1/2, at the end": Judged(
            _limits, _within_limits, ["exponent.exponent_at_end"], of={"b": lambda b: b != 0}, each="b"
        ),
        "yet the networks of all b start and end as one function": AtMost("apart", EXACT, "off by ≤ {}"),
        "untrained, Gaussian: α̂ and error at 1/2": Reported(
            lambda runs: _scores(runs, "untrained."), of={"b": lambda b: b == b[0]}
        ),
    },
    seconds=(15, 20),
)
