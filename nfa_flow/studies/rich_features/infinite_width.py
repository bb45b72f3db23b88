"""Networks of growing width against infinite width: linear layers under muP, whose limit is known.

A = W_1ᵀW_1/n and P = W_L⋯W_1 of a network deviate from their limits by n^{−½}, the fluctuation of the initial weights;
means over networks deviate by 1/n. The same holds for the error of the Neural Feature Ansatz, with NFM = nA,
AGOP = PᵀP and the exponent 1/L of balanced networks. An infinitely wide network starts far from balance: A = I/d,
AGOP = 0.
"""

from functools import cache, partial
from typing import Any

import diffrax
import jax
import numpy as np
from jaxtyping import Float64, PRNGKeyArray

from ... import Dataset, Trajectory, gradient_flow, measure, nets
from ...data import linear_teacher
from ...theory import LinearMuP, infinite_deep_linear_mup
from ..axes import looped, seeds
from ..experiment import Experiment
from ..judgments import ForEach, Tends, WidthPowers
from ..panels import AgainstWidth, Extrapolated, Slope, Through
from ..runs import Runs

_INPUTS, _OUTPUTS, _SAMPLES = 4, 2, 100
_T1, _RTOL = 10.0, 1e-8
_LIMIT_RTOL = 1e-6  # far below the deviations of finite networks
TIMES = np.concatenate([[0.0], np.geomspace(0.01, _T1, 31)])
_NARROWEST, _LAYERS = 64, [2, 3, 4]
_LIMIT = "at t = 1, v_∞ of means over seeds = v_∞ + c/n"
_MIDDLE = 20  # the index of t = 1, when the network is learning
SCORES = {
    "relative_error": "relative error of NFM $\\propto$ AGOP$^{1/L}$",
    "trace": "tr $A$",
    "loss": "loss $\\mathcal{L}$",
}


def _data() -> Dataset:
    """The data, the same for all networks."""
    return linear_teacher(_SAMPLES, _INPUTS, _OUTPUTS, key=jax.random.key(0), noise=0.1)


def one_run(key: PRNGKeyArray, layers: int, width: int) -> Trajectory:
    """A linear network under muP."""
    net = nets.MLP([_INPUTS, *[width] * (layers - 1), _OUTPUTS], key=key, parametrization="muP")
    observe = {"A": lambda net, data: measure.nfm(net) / width, "P": lambda net, data: net.affine()[0]}
    solver = diffrax.Tsit5()  # the problem is not stiff, and this solver compiles fastest
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
    A: Float64[np.ndarray, "*runs d d"], P: Float64[np.ndarray, "*runs c d"], layers: Any
) -> dict[str, np.ndarray]:
    """The scores, which depend on A, P and the number of layers only.

    The relative error, min_s ‖A − s AGOP^{1/L}‖ / ‖A‖, is undefined at AGOP = 0.
    """
    _, s, Vt = np.linalg.svd(np.nan_to_num(P), full_matrices=False)  # NaN of failed runs would raise an error
    power = s ** (2 / np.asarray(layers)[..., None])
    root = np.einsum("...ri,...r,...rj->...ij", Vt, power, Vt)
    with np.errstate(invalid="ignore"):
        cosine = np.sum(A * root, axis=(-2, -1)) / np.sqrt(np.sum(A**2, axis=(-2, -1)) * np.sum(power**2, axis=-1))
    S_xx, S_xy, S_yy = _moments()
    loss = 0.5 * (np.trace(S_yy) + np.sum((P @ S_xx - 2 * S_xy.T) * P, axis=(-2, -1)))
    return {"relative_error": np.sqrt(1 - cosine**2), "trace": np.trace(A, axis1=-2, axis2=-1), "loss": loss}


def _derive(runs: Runs) -> Runs:
    """Add the scores over time and at t = 1, those of infinite width, and the distances from infinite width.

    The distances are the largest ‖A − A_∞‖_F and ‖P − P_∞‖_F over all times.
    """
    dims, layers = ("layers", "width", "seed", "time"), runs["layers"].values
    A, P = (runs[name].transpose(*dims, ...).values for name in ("A", "P"))
    limits = [limit(each) for each in layers.tolist()]
    A_limit, P_limit = np.stack([each.nfm for each in limits]), np.stack([each.end_to_end for each in limits])
    found, exact = scores(A, P, layers[:, None, None, None]), scores(A_limit, P_limit, layers[:, None])
    variables: dict[str, Any] = {}
    for name in SCORES:
        variables[name], variables[f"{name} at 1"] = (dims, found[name]), (dims[:3], found[name][..., _MIDDLE])
        variables[f"{name}, exact"] = (("layers", "time"), exact[name])
        variables[f"{name} at 1, exact"] = ("layers", exact[name][:, _MIDDLE])
    for name, values, at_infinity in (("A", A, A_limit), ("P", P, P_limit)):
        apart = np.linalg.norm(values - at_infinity[:, None, None], axis=(-2, -1))
        variables[f"distance of {name}"] = (dims[:3], apart.max(axis=-1))
    return runs.drop_vars(["A", "P"]).assign(variables)


def _distance(name: str) -> AgainstWidth:
    label, law = f"largest $\\|{name} - {name}_\\infty\\|_F$ in time", Slope(dict.fromkeys(_LAYERS, -0.5))
    return AgainstWidth(f"distance of {name}", hue="layers", label=label, law=law, theory="$\\propto n^{-1/2}$")


def _tends(name: str) -> Tends:
    return Tends(f"{name} at 1", "width", lambda runs: float(runs[f"{name} at 1, exact"]), within=3.0)


_through = partial(Through, hue="layers", of={"width": _NARROWEST}, title=f"$n = {_NARROWEST}$")
_at_1 = partial(Extrapolated, against="width", hue="layers", title="at $t = 1$: mean ± standard error")

INFINITE_WIDTH = Experiment(
    "infinite-width",
    "How fast do linear networks under muP approach infinite width, and its deviation from the ansatz?",
    axes={
        "layers": looped(_LAYERS, quick=[3], tiny=[2], label="layers $L$"),
        "width": looped([64, 128, 256, 512], quick=[64, 128, 256], tiny=[64, 80, 96], label="width $n$"),
        "seed": seeds(32, quick=16),
    },
    one_run=one_run,
    derive=_derive,
    panels=[
        [_distance("A"), *(_through(name, law=f"{name}, exact", label=label) for name, label in SCORES.items())],
        [
            _distance("P"),
            *(_at_1(f"{name} at 1", law=f"{name} at 1, exact", label=label) for name, label in SCORES.items()),
        ],
    ],
    claims={
        "{layers} linear layers, muP, exact flow: ": ForEach(
            "layers",
            {
                "largest ‖A − A_∞‖ in time ∝ n^p, p": WidthPowers(["distance of A"], [-0.5]),
                "largest ‖P − P_∞‖ in time ∝ n^p, p": WidthPowers(["distance of P"], [-0.5]),
                f"error of NFM ∝ AGOP^{{1/{{layers}}}} {_LIMIT}": _tends("relative_error"),
                f"tr A {_LIMIT}": _tends("trace"),
                f"loss {_LIMIT}": _tends("loss"),
            },
        )
    },
    note="theory: infinite width; lines at $t = 1$: $v_\\infty + c/n$",
    seconds=(25, 350),
)
