"""Linear layers in front of a nonlinear head: balance keeps NFM = (MᵀM)^{1/k}, and the head bends the ansatz.

f(x) = g(Mx) with M = W_k … W_1 has AGOP = MᵀBM, B = E[J_gᵀJ_g]. Between consecutive linear layers the balance is
conserved whatever comes after them, so balanced ones have NFM = (MᵀM)^{1/k} at all times, and the exponent is 1/k
exactly where B is a multiple of the identity on the range of M.

Otherwise let B have eigenvalues β₋ … β₊ there, κ = β₊/β₋. Then β₋ MᵀM ≤ AGOP ≤ β₊ MᵀM, and since t^{1/k} is operator
monotone (Löwner 1934, Heinz 1951), β₋^{1/k} NFM ≤ AGOP^{1/k} ≤ β₊^{1/k} NFM. So X = AGOP^{1/k} − c NFM, with c the mean
of β₋^{1/k} and β₊^{1/k} and δ half their difference, is N^{1/2} Y N^{1/2} with N = NFM and ‖Y‖ ≤ δ, whence
‖X‖_F² = tr(YNYN) ≤ ‖YN‖_F² ≤ δ²‖N‖_F²: the relative error at 1/k and the best scale is at most δ/c =
(κ^{1/k} − 1)/(κ^{1/k} + 1). Diagonal M and B attain it for every κ and k, so κ alone allows no better one.

More linear layers lessen the error in two ways. The root alone does, as it brings both matrices nearer to a projector:
at t = 0, M and B have the same law for every k, and the error falls all the same. What training adds is told by α̂k,
which is 1 for B ∝ I, and which the root alone hardly changes.
"""

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ... import Dataset, Trajectory, measure, nets
from ...data import multi_index
from ...training import Descent, ExactFlow
from ..axes import looped, seeds
from ..experiment import Experiment
from ..judgments import AtMost, Judged, Reported
from ..panels import AtEnd, Points
from ..runs import Runs, Values, quantiles
from .common import ERROR_AT, EXACT, observables

_INPUTS, _WIDTH, _SAMPLES = 10, 32, 200
_KINKED = "relu"
HEADS = ("tanh", "gelu", _KINKED)
FLOW = "exact flow"
TRAININGS = {FLOW: ExactFlow(100.0, rtol=1e-9), "Adam .003": Descent("adam", 0.003, 3_000)}
# Across kinks a tight tolerance takes tiny steps, and certifies nothing.
_FLOW_WITH_KINKS = ExactFlow(100.0, rtol=1e-3)
UNTRAINED = "untrained, Gaussian"
_NULL = ("relative_error", "exponent", "kappa", "anisotropy")  # what is told of networks before training


def one_run(key: PRNGKeyArray, head: str, k: int, training: str) -> Trajectory:
    """k balanced linear layers, a nonlinear layer and a read-out, on noisy data of two directions."""
    data_key, linear_key, read_out_key, null_key, batch_key = jax.random.split(key, 5)
    data = multi_index(_SAMPLES, _INPUTS, rank=2, key=data_key, link="relu_sum", noise=0.1)
    widths = [_INPUTS] * k + [_WIDTH, 1]
    untrained = nets.MLP(widths, key=null_key, activation=["identity"] * (k - 1) + [head])
    dtype = data.x.dtype
    linear = nets.Balanced()(linear_key, tuple(widths[:-1]), dtype)
    net = untrained.with_weights([*linear, *nets.Gaussian()(read_out_key, tuple(widths[-2:]), dtype)])
    every = observables(1 / k) | {"best": measure.best_cosine}
    of_head = {"kappa": kappa, "anisotropy": measure.head_anisotropy}
    null = {name: (every | of_head)[name](untrained, data) for name in _NULL}
    observe = every | of_head | {"identity_error": identity_error, "untrained": lambda net, data: null}
    method = _FLOW_WITH_KINKS if (head, training) == (_KINKED, FLOW) else TRAININGS[training]
    return method(net, data, batch_key, observe=observe, progress=False)


def identity_error(net: nets.MLP, data: Dataset) -> Float[Array, ""]:
    """‖NFM − (MᵀM)^{1/k}‖ / ‖NFM‖, with roots from the singular values of M."""
    k, nfm = measure.leading_linear_layers(net), measure.nfm(net)
    _, s, Vt = jnp.linalg.svd(_product(net), full_matrices=False)
    return jnp.linalg.norm(nfm - (Vt.T * s ** (2 / k)) @ Vt) / jnp.linalg.norm(nfm)


def kappa(net: nets.MLP, data: Dataset) -> Float[Array, ""]:
    """The condition number of B on the range of M, which is to have full rank."""
    U, _, _ = jnp.linalg.svd(_product(net), full_matrices=False)
    beta = jnp.linalg.eigvalsh(U.T @ measure.head_matrix(net, data) @ U)
    return beta[-1] / beta[0]


def _product(net: nets.MLP) -> Float[Array, "m d"]:
    return reduce(lambda M, W: W @ M, net.weights[: measure.leading_linear_layers(net)])


def bound(root: Any) -> Any:
    """What the relative error at 1/k is at most, for κ^{1/k}."""
    return (root - 1) / (root + 1)


def _derive(runs: Runs) -> Runs:
    """`root`: κ^{1/k}; `used`: the share of the bound that the relative error is; `over`: by how much it is above."""
    roots = {f"{name}root_at_end": runs[f"{name}kappa_at_end"] ** (1 / runs["k"]) for name in ("", "untrained.")}
    most = bound(runs["kappa"] ** (1 / runs["k"]))
    return runs.assign(roots | {"used": runs["relative_error"] / most, "over": runs["relative_error"] - most})


def _below_bound(runs: Runs) -> tuple[str, bool]:
    # An NFM that is off by EXACT turns by as much, and the relative error is the sine of its angle to AGOP^{1/k}.
    used = runs["used"]
    return f"{quantiles(used)} of the bound, ≤ {float(used.max()):.2f}", float(runs["over"].max()) <= EXACT


def _claims(head: str, training: str) -> dict[str, Reported]:
    """Whether more linear layers make the ansatz truer, and all that is measured."""
    note = ", not certified across kinks" if (head, training) == (_KINKED, FLOW) else ""
    what, of = f"{head} head, {training}{note}", {"head": head, "training": training}
    expected = "falls at t = 0 too, α̂k does not; α̂k = 1 iff B ∝ I"
    return {
        f"{what}: error at 1/k, from k = {{first k}} to {{last k}}": Reported(_trend, of=of, expected=expected),
        f"{what}, k = {{every k}}": _told(_medians, of=of),
    }


def _trend(runs: Runs) -> str:
    """From the fewest linear layers to the most, seed by seed."""
    ends = runs.isel(k=[0, -1])
    start, errors, k = ends.isel(time=0), ends["relative_error_at_end"], ends["k"]
    fewer, more = errors.isel(k=0), errors.isel(k=1)
    return (
        f"{_change(errors)}, smaller in {int((more < fewer).sum())} of {more.size} seeds, "
        f"at t = 0 {_change(start['relative_error'])}; "
        f"α̂k {_change(ends['exponent.exponent_at_end'] * k)}, at t = 0 {_change(start['exponent.exponent'] * k)}; "
        f"κ^{{1/k}} {_change(ends['root_at_end'])}"
    )


def _change(values: Values) -> str:
    """From the first k to the second."""
    return " → ".join(quantiles(values.isel(k=i)) for i in (0, 1))


_MEASURED = {
    "relative_error_at_end": "error at 1/k",
    "best.relative_error_at_end": "error at the best α",
    "exponent.exponent_at_end": "α̂",
    "kappa_at_end": "κ",
    "anisotropy_at_end": "anisotropy of B",
    "identity_error_at_end": "NFM off (MᵀM)^{1/k} by",
}


def _medians(runs: Runs, prefix: str = "") -> str:
    """Of all that is measured, for one k after another."""
    names = {f"{prefix}{name}": what for name, what in _MEASURED.items() if f"{prefix}{name}" in runs}
    return "; ".join(f"{what} {_by_k(runs[name])}" for name, what in names.items())


def _by_k(values: Values) -> str:
    medians = values.median([dim for dim in values.dims if dim != "k"])
    return ", ".join(f"{value:.2g}" for value in medians.values)


_told = partial(Reported, expected="α̂ = 1/k iff B ∝ I")
_smooth: Any = {"training": FLOW, "head": lambda head: head != _KINKED}
_flow: Any = {"of": {"training": FLOW}, "title": f"{FLOW}, at the end"}
_panel = partial(AtEnd, against="k", hue="head", starts=True, baseline=UNTRAINED)
_error: Any = {"label": ERROR_AT.format("1/k"), "axis": {"yscale": "linear", "ylim": (0, 1)}}

LINEAR_LAYERS = Experiment(
    "linear-layers",
    "How near to 1/k do k linear layers in front of a nonlinear one come, and what decides that?",
    axes={
        "head": looped(HEADS, quick=HEADS[:1]),
        "k": looped([1, 2, 3, 4], quick=[1, 3], tiny=[1, 2], label="linear layers $k$"),
        "training": looped(list(TRAININGS), quick=[FLOW]),
        "seed": seeds(16),
    },
    one_run=one_run,
    derive=_derive,
    panels=[
        _panel("relative_error", **_flow, **_error),
        _panel(
            "exponent.exponent",
            **_flow,
            law=lambda k: 1 / k,
            theory="$1/k$",
            axis={"yscale": "log"},  # equal ratios to 1/k are equally far from it
        ),
        _panel("relative_error", of={"training": "Adam .003"}, title="Adam .003, at the end", **_error),
        Points(
            "relative_error",
            against="root",
            xlabel="$\\kappa(B)^{1/k}$",
            hue="head",
            baseline=UNTRAINED,  # which need not obey the bound, as they lack balance
            law=bound,
            theory="bound",
            **_flow,
            **_error,
        ),
    ],
    claims={
        "k balanced linear layers, smooth head, exact flow: NFM = (MᵀM)^{1/k} at all times": AtMost(
            "identity_error", EXACT, of=_smooth
        ),
        "k balanced linear layers, smooth head, exact flow: error at 1/k ≤ (κ^{1/k} − 1)/(κ^{1/k} + 1)": Judged(
            f"at all times, within {EXACT:g}", _below_bound, ["relative_error", "kappa"], of=_smooth
        ),
    }
    | {told: judge for head in HEADS for name in TRAININGS for told, judge in _claims(head, name).items()}
    | {
        f"{UNTRAINED}, any head, k = {{every k}}": _told(
            partial(_medians, prefix="untrained."), of={"training": [FLOW]}
        )
    },
    seconds=(25, 230),
)
