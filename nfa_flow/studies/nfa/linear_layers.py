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

from functools import reduce
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ... import measure, nets
from ...data import Dataset, multi_index
from ...plot.at_end import at_end
from ...plot.style import AT_START, GRAY, color_of, house_style, label_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, looped
from ..claims import Claim, judged, reported
from ..old_experiment import OldExperiment, quantiles
from ..training import Descent, ExactFlow
from .common import EXACT, observables

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INPUTS, _WIDTH, _SAMPLES = 10, 32, 200
_KINKED = "relu"
HEADS = ("tanh", "gelu", _KINKED)
FLOW = "exact flow"
TRAININGS = {FLOW: ExactFlow(100.0, rtol=1e-9), "Adam .003": Descent("adam", 0.003, 3_000)}
# Across kinks a tight tolerance takes tiny steps, and certifies nothing.
_FLOW_WITH_KINKS = ExactFlow(100.0, rtol=1e-3)
UNTRAINED = "untrained, Gaussian"
_NULL = ("relative_error", "exponent", "kappa", "anisotropy")  # what is told of networks before training


def grid(quick: bool) -> Grid:
    """Heads × numbers of linear layers × ways to train × seeds."""
    return Grid(
        head=looped(HEADS[:1] if quick else HEADS),
        k=looped([1, 3] if quick else [1, 2, 3, 4]),
        training=looped([FLOW] if quick else list(TRAININGS)),
        seed=range(8 if quick else 16),
    )


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


def figure(dataset: "xarray.Dataset") -> "Figure":
    """Error and exponent of the flow against k, error of others, and the error of the flow against κ^{1/k}."""
    from matplotlib.lines import Line2D

    others = [(training, "relative_error") for training in dataset["training"].values if training != FLOW]
    panels = [(FLOW, "relative_error"), (FLOW, "exponent.exponent"), *others]
    sheet, axes = new_figure(len(panels) + 1)
    for ax, (training, name) in zip(axes, panels, strict=False):
        at_end(dataset.sel(training=training), name, against="k", hue="head", ax=ax, label=_LABELS[name])
        _draw_baselines(ax, dataset.isel(training=0), name)
        ax.set(title=f"{training}, at the end", xlabel="linear layers $k$", xticks=dataset["k"].values)
    axes[1].plot(dataset["k"], 1 / dataset["k"], "k--", linewidth=1.2, zorder=5, label="$1/k$")
    axes[1].set_yscale("log")  # equal ratios to 1/k are equally far from it
    for ax in (axes[0], *axes[2:-1]):
        ax.set(yscale="linear", ylim=(0, 1))
    _draw_bound(axes[-1], dataset.sel(training=FLOW))
    handles, labels = axes[1].get_legend_handles_labels()
    entries: dict[str, Any] = dict(zip(labels, handles, strict=True))
    entries[f"{AT_START}, linear layers balanced"] = Line2D([], [], color=GRAY, linestyle=":", linewidth=1)
    runs = f"median and 10–90 % over {dataset.sizes['seed']} seeds; last panel: every run, untrained ones in gray"
    legend_below(sheet, entries, runs)
    return sheet


def _draw_baselines(ax: "Axes", runs: "xarray.Dataset", name: str) -> None:
    """The same networks at their start, and others with nothing balanced, of all heads together."""
    for i, head in enumerate(runs["head"].values):
        start = runs[name].sel(head=head).isel(time=0).median("seed")
        ax.plot(runs["k"], start, color=color_of(i, runs.sizes["head"]), linestyle=":", linewidth=1)
    null = runs[f"untrained.{name}_at_end"].median(["seed", "head"])
    ax.plot(runs["k"], null, color=GRAY, linestyle="-.", linewidth=1, label=UNTRAINED)


_LABELS = {
    "relative_error": "relative error of NFM $\\propto$ AGOP$^{1/k}$",
    "exponent.exponent": label_of("exponent.exponent"),
}
_MARKERS = "os^D"


def _draw_bound(ax: "Axes", flow: "xarray.Dataset") -> None:
    """Every run at its end, and what it must stay below; the untrained need not where k > 1, as they lack balance."""
    from matplotlib.lines import Line2D

    for i, head in enumerate(flow["head"].values):
        for k, marker in zip(flow["k"].values, _MARKERS, strict=False):
            runs = flow.sel(head=head, k=k)
            for start, color in (("untrained.", GRAY), ("", color_of(i, flow.sizes["head"]))):
                root, error = runs[f"{start}kappa_at_end"] ** (1 / k), runs[f"{start}relative_error_at_end"]
                ax.scatter(root, error, s=9, marker=marker, color=color, alpha=0.6, linewidth=0)
    roots = np.geomspace(1, ax.get_xlim()[1] * 1.2, 200)
    ax.plot(roots, bound(roots), "k--", linewidth=1.2)
    ax.set(xscale="log", ylim=(0, 1), xlabel="$\\kappa(B)^{1/k}$", ylabel=_LABELS["relative_error"])
    ax.set_title(f"{FLOW}, at the end")
    entries = {
        f"$k = {k}$": Line2D([], [], color=GRAY, marker=marker, linewidth=0, markersize=3)
        for k, marker in zip(flow["k"].values, _MARKERS, strict=False)
    }
    entries["bound"] = ax.lines[0]
    with house_style():
        ax.legend(entries.values(), entries.keys(), fontsize=7.5)


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """What balance gives with any smooth head, the bound by the head's anisotropy, and what is left with each head."""
    flow = dataset.sel(training=FLOW)
    smooth = flow.sel(head=flow["head"] != _KINKED)
    found = [_claim_identity(smooth), _claim_bound(smooth)]
    for head in dataset["head"].values:
        for training in dataset["training"].values:
            note = ", not certified across kinks" if (head, training) == (_KINKED, FLOW) else ""
            runs, what = dataset.sel(head=head, training=training), f"{head} head, {training}{note}"
            found += [_trend(runs, what), _report(runs, what)]
    null = dataset.isel(training=0)
    names = {f"untrained.{name}": name for name in _TOLD if f"untrained.{name}" in null}
    return [*found, _report(null[["status", *names]].rename(names), f"{UNTRAINED}, any head")]


def _claim_identity(smooth: "xarray.Dataset") -> Claim:
    worst = float(smooth["identity_error"].max())
    statement = "k balanced linear layers, smooth head, exact flow: NFM = (MᵀM)^{1/k} at all times"
    expected = f"relative error ≤ {EXACT:g}"
    return judged(statement, expected, f"≤ {worst:.1g}", worst <= EXACT, smooth, ["identity_error"])


def _claim_bound(smooth: "xarray.Dataset") -> Claim:
    # An NFM that is off by EXACT turns by as much, and the relative error is the sine of its angle to AGOP^{1/k}.
    most = bound(smooth["kappa"] ** (1 / smooth["k"]))
    over, used = float((smooth["relative_error"] - most).max()), smooth["relative_error"] / most
    statement = "k balanced linear layers, smooth head, exact flow: error at 1/k ≤ (κ^{1/k} − 1)/(κ^{1/k} + 1)"
    measured = f"{quantiles(used)} of the bound, ≤ {float(used.max()):.2f}"
    expected = f"at all times, within {EXACT:g}"
    return judged(statement, expected, measured, over <= EXACT, smooth, ["relative_error", "kappa"])


def _trend(runs: "xarray.Dataset", what: str) -> Claim:
    """Whether more linear layers make the ansatz truer, seed by seed."""
    ends = runs.isel(k=[0, -1])
    start, errors, k = ends.isel(time=0), ends["relative_error_at_end"], ends["k"]
    fewer, more = errors.isel(k=0), errors.isel(k=1)
    measured = (
        f"{_change(errors)}, smaller in {int((more < fewer).sum())} of {more.size} seeds, "
        f"at t = 0 {_change(start['relative_error'])}; "
        f"α̂k {_change(ends['exponent.exponent_at_end'] * k)}, at t = 0 {_change(start['exponent.exponent'] * k)}; "
        f"κ^{{1/k}} {_change(ends['kappa_at_end'] ** (1 / k))}"
    )
    statement = f"{what}: error at 1/k, from k = {int(k[0])} to {int(k[1])}"
    return reported(statement, measured, runs, expected="falls at t = 0 too, α̂k does not; α̂k = 1 iff B ∝ I")


def _change(values: "xarray.DataArray") -> str:
    """From the first k to the second."""
    return " → ".join(quantiles(values.isel(k=i)) for i in (0, 1))


_TOLD = {
    "relative_error_at_end": "error at 1/k",
    "best.relative_error_at_end": "error at the best α",
    "exponent.exponent_at_end": "α̂",
    "kappa_at_end": "κ",
    "anisotropy_at_end": "anisotropy of B",
    "identity_error_at_end": "NFM off (MᵀM)^{1/k} by",
}


def _report(runs: "xarray.Dataset", what: str) -> Claim:
    """The medians of all that is measured, for one k after another."""
    measured = "; ".join(f"{told} {_by_k(runs[name])}" for name, told in _TOLD.items() if name in runs)
    statement = f"{what}, k = {', '.join(map(str, runs['k'].values))}"
    return reported(statement, measured, runs, expected="α̂ = 1/k iff B ∝ I")


def _by_k(values: "xarray.DataArray") -> str:
    medians = values.median([dim for dim in values.dims if dim != "k"])
    return ", ".join(f"{value:.2g}" for value in medians.values)


LINEAR_LAYERS = OldExperiment(
    name="linear-layers",
    question="How near to 1/k do k linear layers in front of a nonlinear one come, and what decides that?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(25, 230),
)
