"""Small starts of a two-layer ReLU network on orthonormal inputs: neurons turn, then grow, and fit sign by sign.

While f ≈ 0, each neuron turns as `nf.theory.early_alignment` says, in a time that does not depend on the scale s of the
start. Neurons of positive output that are active on all samples of positive target turn to D_+ = Σ_{y_i > 0} y_i x_i/n
and grow as e^{‖D_+‖t}. Here y_+ = (1, 1), and those that are active on one of both samples grow at 1/√2 of that rate,
so that their share in the fit is of order s^{2 − √2}. The same holds for D_−. As s → 0 the network becomes one of two
neurons, whose norm Σ_j |a_j|‖w_j‖ = ‖y_+‖ + ‖y_−‖ is the least of all networks that fit, and

    NFM = ‖y_+‖ u_+u_+ᵀ + ‖y_−‖ u_−u_−ᵀ,   AGOP = (n_+‖y_+‖² u_+u_+ᵀ + n_−‖y_−‖² u_−u_−ᵀ)/n,   u_± = D_±/‖D_±‖,

where n_± samples have targets of either sign. The ansatz then holds, but with the exponent 1/2 for n_+ = n_− only.

Source: Maennel, Bousquet & Gelly 2018, Phuong & Lampert 2021 (alignment); Boursier, Pillaud-Vivien & Flammarion 2022
(the flow and its limit). Shares and exponent follow from these.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ... import Dataset, Trajectory, gradient_flow, measure, nets, theory
from ..axes import batched, seeds
from ..experiment import Experiment
from ..judgments import Judged, PowerLaw, Reported
from ..panels import Through
from ..runs import Runs, quantiles
from .common import on_one_side

TARGETS = np.array([1.0, 1.0, -0.7])
_SIGNS = np.array([1.0, -1.0] * 8)  # of the output weights
_TIMES = np.concatenate([np.linspace(0, 10, 21), np.linspace(12, 100, 45), [200.0]])
_EARLY = 5.0  # when the neurons have turned, and f is still of the order of the scale squared

_norms = np.array([np.linalg.norm(TARGETS[TARGETS > 0]), np.linalg.norm(TARGETS[TARGETS < 0])])
_counts = np.array([np.sum(TARGETS > 0), np.sum(TARGETS < 0)])
NORM = float(_norms.sum())
EXPONENT = float(np.diff(np.log(_norms))[0] / np.diff(np.log(_counts * _norms**2))[0])


def one_run(key: PRNGKeyArray, scale: float | Array) -> Trajectory:
    """The exact flow of balanced neurons with weights of standard deviation `scale`.

    The first of either sign is active on all samples, as the theory requires one to be.
    """
    x_key, w_key = jax.random.split(key)
    samples = TARGETS.size
    x = jnp.linalg.qr(jax.random.normal(x_key, (samples, samples)))[0]
    data = Dataset(x, jnp.asarray(TARGETS)[:, None])
    along = jax.random.normal(w_key, (_SIGNS.size, samples))
    along = scale * along.at[:2].set(abs(along[:2]))
    a = _SIGNS * jnp.linalg.norm(along, axis=1)
    net = nets.MLP([samples, _SIGNS.size, 1], key=key, activation="relu").with_weights([along @ x, a[None]])
    observe = {
        "loss": measure.loss,
        "along": lambda net, data: net.weights[0] @ data.x.T,
        "norm": lambda net, data: jnp.linalg.norm(net.weights[0], axis=1) @ abs(net.weights[1][0]),
        "best": lambda net, data: measure.best_cosine(on_one_side(net, active=False), data),
    }
    return gradient_flow(net, data, _TIMES[-1], observe=observe, save_at=_TIMES, rtol=1e-8, progress=False)


def _derive(runs: Runs) -> Runs:
    """Add `turned`: the mean cosine between neurons and the vectors D to which they turn; and both in theory.

    `off`: the distance of all neurons from theory at t = 5, relative to their size; `excess`: of the norm at the end.
    """
    import xarray

    dims = "along[1]", "along[2]"  # neurons, and their coordinates
    w = runs["along"] / runs["scale"]
    start, early = w.isel(time=0), runs["time"][runs["time"] <= _EARLY]
    pulls = xarray.DataArray(_SIGNS[:, None] * TARGETS, dims=dims)
    extremal = pulls.where((start > 0) & (pulls > 0), 0.0)
    solve, cores = partial(_turning, early.values), {"input_core_dims": [dims], "output_core_dims": [["time", *dims]]}
    exact = xarray.apply_ufunc(solve, start, vectorize=True, **cores).assign_coords(time=early)
    length = lambda values, *over: np.sqrt((values**2).sum(over, skipna=False))
    cosine = lambda w: (w * extremal).sum(dims[1]) / (length(w, dims[1]) * length(extremal, dims[1]))
    turned = lambda w: cosine(w).mean(dims[0])
    off = (length(w - exact, *dims) / length(exact, *dims)).isel(time=-1, drop=True)
    found = {"turned": turned(w), "theory.turned": turned(exact), "off": off, "excess": runs["norm_at_end"] / NORM - 1}
    return runs.assign(found)


def _turning(times: np.ndarray, start: np.ndarray) -> np.ndarray:
    if not np.isfinite(start).all():  # NaN for a run that failed before its first observation
        return np.full((times.size, *start.shape), np.nan)
    return theory.early_alignment(times, start, _SIGNS, TARGETS)


def _by_scale(name: str) -> Callable[[Runs], str]:
    return lambda runs: "; ".join(
        f"{float(s):g}: {quantiles(runs[name].sel(scale=s), '{:.3g}')}" for s in runs["scale"]
    )


def _ends(name: str, expected: float, within: float) -> Callable[[Runs], tuple[str, bool]]:
    """Whether the smallest starts end at the value of theory, and where all starts end."""

    def find(runs: Runs) -> tuple[str, bool]:
        smallest = runs[name].sel(scale=runs["scale"].min())
        return _by_scale(name)(runs), bool(abs(smallest / expected - 1).max() <= within)

    return find


_LINEAR = {"xscale": "linear", "yscale": "linear", "xlim": (0, 100)}
_through = partial(Through, hue="scale", axis=_LINEAR)

EARLY_ALIGNMENT = Experiment(
    "early-alignment",
    "How do the neurons of a ReLU network turn from a small start, and where does that leave the ansatz?",
    axes={
        "scale": batched([1e-2, 1e-3, 1e-4, 1e-5], tiny=[1e-3, 1e-4], label="scale of the start $s$"),
        "seed": seeds(32),
    },
    one_run=one_run,
    derive=_derive,
    panels=[
        _through(
            "turned",
            law="theory.turned",
            theory="closed form, $f = 0$",
            label="cosine of neuron and $D$, mean",
            title="neurons turn",
            axis=_LINEAR | {"xlim": (0, 10), "ylim": (0, 1.03)},
        ),
        _through("loss", title="then fit, sign by sign"),
        _through("norm", law=NORM, theory="least norm", label="$\\sum_j|a_j|\\|w_j\\|$", title="with the least norm"),
        _through(
            "best.exponent",
            law=EXPONENT,
            theory="of two neurons",
            label="best exponent $\\alpha$",
            title="NFM $\\propto$ AGOP$^\\alpha$",
        ),
    ],
    claims={
        f"until t = {_EARLY:g} neurons turn as in closed form, up to the scale squared": PowerLaw(
            "off", "scale", 2.0, 0.02, between=(1e-4, 1e-3), also=lambda runs: f"; off by {_by_scale('off')(runs)}"
        ),
        "small starts fit with the least norm Σ|a|‖w‖ = ‖y_+‖ + ‖y_−‖": Judged(
            f"{NORM:.4f} within 1 % from the smallest start", _ends("norm_at_end", NORM, 0.01), ["norm_at_end"]
        ),
        "and what is left of other neurons vanishes as s^{2 − √2}": PowerLaw("excess", "scale", 2 - 2**0.5, 0.05),
        "small starts end at the exponent that the counts of both signs set": Judged(
            f"{EXPONENT:.3f} within 3 % from the smallest start",
            _ends("best.exponent_at_end", EXPONENT, 0.03),
            ["best.exponent_at_end"],
        ),
        "relative error at the best exponent, at the end": Reported(_by_scale("best.relative_error_at_end")),
    },
    seconds=(25, 50),
)
