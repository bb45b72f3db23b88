"""Scale and shape of the initial weights: small networks end nearly balanced, large ones keep their imbalance.

Without weight decay the balance matrices D_l are conserved. They are of the order of scale², while the weights that fit
the data are of order one, so that the error of the ansatz at the end is of first order in D: ∝ scale². The cost is the
saddle at zero: three layers need a time ∝ 1/scale to leave it, because s' = 3 s^{4/3} (σ − s) from s ∝ scale³.

Layers of low rank: range(W_l) ⊂ U_l = range(W_l(0)) + range(W_{l+1}(0)ᵀ) at all times, and range(W_{l+1}ᵀ) too, because
W_l' = −W_{l+1}ᵀ(…) and W_{l+1}'ᵀ = −W_l(…). So layers that start with rank r have rank 2r at most, and the network can
at best become the best linear map of that rank. The subspace is unstable: rounding errors may grow out of it.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from ... import Dataset, Trajectory, log_times, measure, nets
from ...nets.initialization import Weights
from ...training import ExactFlow
from ..axes import batched, places, seeds
from ..experiment import Experiment
from ..judgments import AtMost, Judged, PowerLaw, Reported
from ..panels import AtEnd, Points, Slope, Through
from ..runs import Runs, Values, quantiles, where_first
from ..slopes import slope
from .common import EXACT, OneOf, imbalance, observables, teacher, widths

_DEPTH, _RANK = 3, 2
_T1 = 1e5
_FLOW = ExactFlow(_T1, rtol=1e-9)
_TIMES = np.concatenate([[0.0], log_times(1e-2, _T1, 64)])  # 9 in each decade, so that t and 10 t are both among them
_SMALL = (1e-3, 1e-2)  # the slopes are between these two scales
_WITHIN = 0.02  # tolerance of a slope
_SHOWN = (1e-6, 1e-3, 1e-2, 0.1, 1.0)  # the scales whose runs are drawn over time


class LowRank(nets.AbstractInitialization):
    """Products of Gaussian fan_out × rank and rank × fan_in matrices; entries of standard deviation scale / √fan_in."""

    scale: float | Float[Array, ""] = 1.0
    rank: int = eqx.field(static=True, default=_RANK)

    def __call__(self, key: PRNGKeyArray, widths: tuple[int, ...], dtype: DTypeLike) -> Weights:
        keys = jax.random.split(key, (len(widths) - 1, 2))
        draw = lambda key, *shape: jax.random.normal(key, shape, dtype)
        return tuple(
            (draw(left, fan_out, self.rank) @ draw(right, self.rank, fan_in))
            * (self.scale / (self.rank * fan_in) ** 0.5)
            for (left, right), fan_out, fan_in in zip(keys, widths[1:], widths[:-1], strict=True)
        )


class MeanField(nets.AbstractInitialization):
    """Gaussian entries of standard deviation scale / √inputs in the first layer and scale / fan_in in the others."""

    scale: float | Float[Array, ""] = 1.0

    def __call__(self, key: PRNGKeyArray, widths: tuple[int, ...], dtype: DTypeLike) -> Weights:
        first, *others = nets.Gaussian(self.scale)(key, widths, dtype)
        return (first, *(W / W.shape[1] ** 0.5 for W in others))


_LOW_RANK = f"rank {_RANK}"
INITS = {
    "Gaussian": nets.Gaussian,
    "orthogonal": nets.Orthogonal,
    "PyTorch default": nets.FanInUniform,
    "mean-field": MeanField,
    _LOW_RANK: LowRank,
}


def one_run(key: PRNGKeyArray, init: int | Array, scale: float | Array) -> Trajectory:
    """Three linear layers on the data of a linear teacher with label noise."""
    data_key, net_key = jax.random.split(key)
    data, inits = teacher(data_key), tuple(make(scale) for make in INITS.values())
    net = nets.MLP(widths(_DEPTH), key=net_key, init=OneOf(inits, init))
    least = least_unlearnt(data)
    observe = observables(1 / _DEPTH) | {
        "imbalance": imbalance,
        "nfm_norm": lambda net, data: jnp.linalg.norm(measure.nfm(net)),
        "unlearnt": unlearnt,
        "least_unlearnt": lambda net, data: least,
        "rank_left": rank_left,
    }
    return _FLOW(net, data, net_key, observe=observe, save_at=_TIMES, progress=False)


def unlearnt(net: nets.MLP, data: Dataset) -> Float[Array, ""]:
    """The remaining fraction of the loss that a linear map can learn: 1 for f = 0. Computed without cancellation."""
    root, best = _whitened(data)
    return jnp.sum((root.T @ net.affine()[0].T - best) ** 2) / jnp.sum(best**2)


def least_unlearnt(data: Dataset) -> Float[Array, ""]:
    """The fraction that remains for the best linear map of rank 2r (reduced-rank regression, Izenman 1975)."""
    s = jnp.linalg.svd(_whitened(data)[1], compute_uv=False)
    return jnp.sum(s[2 * _RANK :] ** 2) / jnp.sum(s**2)


def _whitened(data: Dataset) -> tuple[Float[Array, "d d"], Float[Array, "d c"]]:
    """R with S_xx = RRᵀ, and RᵀAᵀ = R⁻¹S_xy of the least-squares map A."""
    root = jnp.linalg.cholesky(data.S_xx)
    return root, jax.scipy.linalg.solve_triangular(root, data.S_xy, lower=True)


def rank_left(net: nets.MLP, data: Dataset) -> Float[Array, ""]:
    """Singular value 2r + 1 of W_1 relative to the largest: zero for layers that started with rank r."""
    s = jnp.linalg.svd(net.weights[0], compute_uv=False)
    return s[2 * _RANK] / s[0]


def departure(dataset: Runs) -> Values:
    """The time at which half of the learnable loss is learned, interpolated between observations; NaN if never."""
    later = dataset.isel(time=slice(1, None))  # t = 0 has no logarithm
    logarithms: Any = np.log(later["time"])
    found: Any = where_first(later["unlearnt"], 0.5, logarithms)
    return np.exp(found)


def _derive(runs: Runs) -> Runs:
    """Add `imbalanced`: the conserved (Σ_l ‖D_l‖²)^{1/2} at the start over ‖NFM‖ at the end."""
    return runs.assign(
        departure=departure(runs),
        imbalanced=runs["imbalance"].isel(time=0) / runs["nfm_norm_at_end"],
        highest=runs["rank_left"].max("time"),
        off=abs(runs["unlearnt_at_end"] - runs["least_unlearnt_at_end"]),
    )


def _against_imbalance(runs: Runs) -> tuple[str, bool]:
    error, imbalanced = runs["relative_error_at_end"], runs["imbalanced"]
    slopes = slope(error, "scale", _SMALL) / slope(imbalanced, "scale", _SMALL)
    off = float(abs(slopes.median("seed") - 1).max())
    return f"{quantiles(slopes, '{:.3f}')}; {quantiles(error / imbalanced)} of it", off <= _WITHIN


def _stays(runs: Runs) -> tuple[str, bool]:
    least = float(runs["unlearnt_at_end"].min())
    return f"≥ {least:.4f}; {_ends(runs)}", least >= 0.99


def _ends(runs: Runs) -> str:
    """The error at the start and at the end, and how often it is undefined, as text."""
    start, end = runs["relative_error"].isel(time=0), runs["relative_error_at_end"]
    missing = int(end.isnull().sum())
    left_out = f"; failed or undefined in {missing} of {end.size} runs" if missing else ""
    return f"error {quantiles(end)}, {quantiles(start)} at the start{left_out}"


def _lost(runs: Runs) -> str:
    return f"rank above {2 * _RANK} in {int((runs['highest'] > EXACT).sum())} of {runs['highest'].size} runs"


_ANCHOR = {"init": "Gaussian", "scale": _SMALL[0]}
_best: Any = {"law": "least_unlearnt", "theory": f"best of rank {2 * _RANK}"}
_small, _low_rank, _LEFT = {"scale": list(_SMALL)}, {"init": _LOW_RANK}, "share of the loss left to learn"
_law = partial(PowerLaw, against="scale", within=_WITHIN, between=_SMALL, of=_small)
_panel = partial(AtEnd, against="scale", hue="init")


def _power(power: float, of: str) -> dict[str, Any]:
    return {"law": Slope(power, _ANCHOR), "theory": f"$\\propto$ {of}"}


INITIALIZATION = Experiment(
    "initialization",
    "How do scale and shape of the initial weights change the ansatz, without weight decay?",
    axes={
        "init": batched(places(INITS), quick=["Gaussian", "mean-field", _LOW_RANK], tiny=[_LOW_RANK, "Gaussian"]),
        "scale": batched(
            [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 3.0], quick=[1e-6, 1e-3, 1e-2, 0.1, 1.0, 3.0], tiny=[1e-3, 1e-2]
        ),
        "seed": seeds(16),
    },
    one_run=one_run,
    derive=_derive,
    panels=[
        [
            _panel("relative_error", starts=True, title="at the end", **_power(2.0, "scale$^2$")),
            Points(
                "relative_error",
                against="imbalanced",
                xlabel="imbalance $(\\sum_l\\|D_l\\|^2)^{1/2}$ / $\\|$NFM$\\|$ at the end",
                hue="init",
                title="at the end, each run",
                **_power(1.0, "imbalance"),
            ),
            Through(
                "relative_error",
                hue="scale",
                own_legend=True,
                of={"init": "Gaussian", "scale": lambda scale: scale.isin(_SHOWN)},
                title="Gaussian, through time",
            ),
        ],
        [
            _panel(
                "departure", title="from the saddle", label="time when half is learned", **_power(-1.0, "scale$^{-1}$")
            ),
            _panel("unlearnt", title="at the end", label=_LEFT, axis={"yscale": "linear"}, **_best),
            _panel("highest", title="rank", label=f"$s_{2 * _RANK + 1}\\,/\\,s_1$ of $W_1$, highest ever"),
        ],
    ],
    claims={
        "small starts of any shape: error of the ansatz at the end ∝ scale²": _law("relative_error_at_end", power=2.0),
        "and ∝ the imbalance (Σ‖D_l‖²)^{1/2} of the start over ‖NFM‖ at the end": Judged(
            f"median slope 1 ± {_WITHIN:g}", _against_imbalance, ["relative_error_at_end", "imbalanced"], of=_small
        ),
        "they leave the saddle at zero after a time ∝ 1/scale": _law("departure", power=-1.0),
        "full rank, scale .001 to 1: the flow without decay has fitted the data by the horizon": AtMost(
            "unlearnt_at_end",
            EXACT,
            f"{_LEFT} ≤ {{}}",
            of={"scale": [1e-3, 1e-2, 0.1, 1.0], "init": lambda init: init != _LOW_RANK},
        ),
        "scale {scale}, any shape: still at the saddle at the horizon, and the ansatz as bad as at the start": Judged(
            f"{_LEFT} ≥ .99", _stays, ["unlearnt_at_end"], of={"scale": [1e-6]}, each="scale"
        ),
        "{init}, scale 1: the ansatz at the end": Reported(_ends, of={"scale": 1.0}, each="init"),
        "scale {scale}, any shape: the ansatz at the end": Reported(_ends, of={"scale": [3.0]}, each="scale"),
        f"layers of rank {_RANK}, small starts: rank {2 * _RANK} at most, at all times": AtMost(
            "rank_left",
            EXACT,
            f"singular value {2 * _RANK + 1} of W_1 ≤ {{}} of the largest",
            of=_low_rank | {"scale": lambda scale: scale <= _SMALL[1]},
        ),
        f"and they become the best linear map of rank {2 * _RANK}": AtMost(
            "off",
            EXACT,
            f"{_LEFT} off by ≤ {{}}",
            of=_low_rank | _small,
            also=lambda runs: f"; the share is {quantiles(runs['least_unlearnt_at_end'])}",
        ),
        f"layers of rank {_RANK}, scales above {_SMALL[1]:g}: rounding grows along the unstable rank": Reported(
            _lost, of=_low_rank | {"scale": lambda scale: scale > _SMALL[1]}
        ),
    },
    seconds=(13, 50),
)
