"""The spectral condition against width: norms of weights and of updates, for parametrizations and for optimizers.

Condition: ‖W_l‖_* and ‖ΔW_l‖_* are Θ(√(fan_out/fan_in)) in every layer. In an abc-parametrization both are powers of
the width over that. At the start ‖W_l‖_* is σ_l(√fan_out + √fan_in) in the limit. A step of gradient descent has
‖ΔW_l‖_* = η m_l ‖∇_l‖_*, where a gradient of low rank adds up over the fan-in, and the gradient with respect to hidden
activations is of the size of the read-out's entries; that of Adam, entry by entry of size one, does not know it.
"""

from typing import TYPE_CHECKING, Any

from jaxtyping import Array, PRNGKeyArray

from ... import measure, nets
from ...descent import gradient_descent
from ...plot.style import GRAY, color_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, batched, looped
from ..claims import Claim, judged
from ..old_experiment import OldExperiment
from ..width_fits import WITHIN, exponent, set_widths, told
from .common import (
    ADAM,
    GD,
    LAYERS,
    MUON,
    NORMALIZED,
    ONE_RATE,
    ONE_RATE_ADAM,
    Case,
    draw_sizes,
    fans,
    network,
    optimizer,
    places,
    powers_as_text,
    shape_of,
    task,
    verdict,
)
from .layers import LayerNorms

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

STEPS = 20
NTP_ADAM = nets.ABC((0, 0.5, 0.5), (0, 0, 0), (0, 0, 0), rule="adam", name="NTP")
CASES = {
    "GD, Spectral": Case(nets.Spectral(), GD, 0.1),
    "GD, muP": Case(nets.muP(), GD, 0.1),
    "GD, NTP": Case(nets.NTP(), GD, 0.1),
    "GD, SP": Case(nets.SP(), GD, 0.1),
    "GD, SP, one rate": Case(ONE_RATE, GD, 0.1),
    "Adam, Spectral": Case(nets.Spectral("adam"), ADAM, 0.05),
    "Adam, muP": Case(nets.muP("adam"), ADAM, 0.05),
    "Adam, NTP": Case(NTP_ADAM, ADAM, 0.05),
    "Adam, SP, one rate": Case(ONE_RATE_ADAM, ADAM, 0.05),
    "normalized": Case(nets.Spectral(), NORMALIZED, 0.05),
    "Muon": Case(nets.Spectral(), MUON, 0.05),
    "Muon, rescaled": Case(nets.Spectral(), MUON, 0.05, rescaled=True),
}
SCHEMES = [name for name in CASES if name.startswith((GD, ADAM))]


def grid(quick: bool) -> Grid:
    """Widths × parametrizations under gradient descent and Adam × seeds."""
    return grid_of(SCHEMES, [64, 128, 256] if quick else [64, 128, 256, 512, 1024])


def grid_of(cases: list[str], widths: list[int]) -> Grid:
    """Widths × cases × seeds."""
    return Grid(width=looped(widths), case=batched(places(CASES, cases)), seed=range(8))


def one_run(key: PRNGKeyArray, width: int, case: int | Array) -> Trajectory:
    """Some full-batch steps of the case at this place, observed at the start, after one step and at the end."""
    data, cases = task(), list(CASES.values())
    net = network(key, width, [each.scheme for each in cases], case)
    observe = {"layers": LayerNorms(net), "loss": measure.loss}
    return gradient_descent(
        net,
        data,
        optimizer(cases, width, case),
        STEPS,
        save_at=[0, 1, STEPS],
        time_per_step=1.0,  # time counts steps
        observe=observe,
        progress=False,
    )


def powers_at_start(case: Case) -> tuple[float, ...]:
    """The powers of n of ‖W_l‖_* over √(fan_out/fan_in) at the start: input, hidden, read-out."""
    first, hidden, last = case.scheme.exponents.at_depth(3).std_exponents
    return (-first, 0.5 - hidden, 1 - last)


def powers_of_step(case: Case) -> tuple[float, ...]:
    """The powers of n of ‖ΔW_l‖_* over √(fan_out/fan_in) in the first step; in a stable scheme, in any."""
    if case.update not in (GD, ADAM):
        is_muon = case.update == MUON and not case.rescaled
        return (0.0, 0.0, 0.5 if is_muon else 0.0)
    scheme = case.scheme.exponents.at_depth(3)
    first, hidden, last = scheme.mobility_exponents
    gradient = scheme.std_exponents[-1] if case.update == GD else 0.0
    return (-first - gradient, 1 - hidden - gradient, 1 - last)


def of_layer(runs: "xarray.Dataset", name: str, layer: int, step: int) -> "xarray.DataArray":
    """A size of one layer (0 … 2), after so many steps."""
    return runs[f"layers.{name}"].sel(time=step).isel({f"layers.{name}[1]": layer})


_NAMES = ("Spectral", "muP", "NTP", "SP", "SP, one rate")
_NORM = "/(n_l/n_{l-1})^{1/2}"


def figure(dataset: "xarray.Dataset") -> "Figure":
    """Norms of weights at the start and of the updates of a step against width, layer by layer, with all powers."""
    sheet, axes = new_figure(4, rows=3)
    start = {"Spectral": "GD, Spectral", "muP": "GD, muP", "NTP": "GD, NTP"}
    _draw_row(axes[:4], dataset, "weight", start, 0, "start (SP starts as NTP)", f"$\\|W_l\\|_*{_NORM}$")
    entries: dict[str, Any] = {}
    for row, update in enumerate((GD, ADAM), 1):
        cases = {name: f"{update}, {name}" for name in _NAMES if f"{update}, {name}" in dataset["case"].values}
        panels, label = axes[4 * row : 4 * row + 4], f"$\\|\\Delta W_l\\|_*{_NORM}$"
        entries |= _draw_row(panels, dataset, "update", cases, 1, f"one step of {update}", label)
    from matplotlib.lines import Line2D

    entries["theory"] = Line2D([], [], color="black", linestyle="--", linewidth=0.9)
    entries |= {
        what: Line2D([], [], color=GRAY, marker="o", markersize=4, linewidth=0, markerfacecolor=face)
        for what, face in {"one step": GRAY, f"{STEPS} steps": "white"}.items()
    }
    seeds = dataset.sizes["seed"]
    legend_below(sheet, entries, f"median and 10–90 % over {seeds} networks; last column: fit ± 2 standard errors")
    return sheet


def _draw_row(axes: Any, dataset: "xarray.Dataset", name: str, cases: dict[str, str], step: int, what: str, label: str):
    """A panel for each layer, and one of the powers of n; label → artist."""
    lines, widths = {}, dataset["width"].values
    for layer, ax in enumerate(axes[:3]):
        for scheme, case in cases.items():
            values, color = of_layer(dataset.sel(case=case), name, layer, step), color_of(_NAMES.index(scheme), 5)
            promised = powers_of_step(CASES[case])[layer] if step else None
            lines[scheme] = draw_sizes(ax, values, color, promised, label=scheme)
            if not step:
                ax.plot(widths, [edge(CASES[case], int(n), layer) for n in widths], "k--", linewidth=0.9, zorder=5)
        set_widths(ax, widths)
        ax.set(title=f"{LAYERS[layer]}, {what}", ylabel=label if layer == 0 else "")
    _draw_powers(axes[3], dataset, name, cases, step)
    return lines


def _draw_powers(ax: Any, dataset: "xarray.Dataset", name: str, cases: dict[str, str], step: int) -> None:
    for i, (scheme, case) in enumerate(cases.items()):
        law = powers_of_step(CASES[case]) if step else powers_at_start(CASES[case])
        for layer in range(3):
            place, color = layer + 0.8 * ((i + 0.5) / len(cases) - 0.5), color_of(_NAMES.index(scheme), 5)
            for each in [step, STEPS] if step and is_told_at_end(CASES[case]) else [step]:
                fit = exponent(of_layer(dataset.sel(case=case), name, layer, each))
                style = {"color": color, "marker": "o", "markersize": 4, "capsize": 2}
                shift, face = (0.0, color) if each == step else (0.05, "white")
                ax.errorbar(place + shift, fit.exponent, yerr=2 * fit.error, markerfacecolor=face, **style)
            ax.plot([place - 0.06, place + 0.11], [law[layer]] * 2, "k--", linewidth=1.2, zorder=5)
    ax.set(title="powers of $n$", ylim=(-2, 1.25))
    ax.set_xticks(range(3), LAYERS)


def edge(case: Case, width: int, layer: int) -> float:
    """σ_l(√fan_out + √fan_in) over √(fan_out/fan_in): where the norm at the start tends, and what bounds its mean.

    **Source:** Davidson & Szarek 2001, Theorem 2.13.
    """
    std = case.scheme.effective(shape_of(width)).std[layer]
    fan_out, fan_in = fans(width)[layer]
    return std * (fan_out**0.5 + fan_in**0.5) * (fan_in / fan_out) ** 0.5


def is_told_at_end(case: Case) -> bool:
    """Whether the powers of the first step are those of any fixed number of steps: in stable schemes only."""
    return case.scheme.is_stable


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """The start, and the powers of each case, which are those of the spectral condition for Spectral and muP only."""
    found = [_claim_start(dataset)]
    for name in dataset["case"].values:
        found.append(claim_powers(dataset, name, 1))
        if is_told_at_end(CASES[name]):
            found.append(claim_powers(dataset, name, STEPS))
    return found


def _claim_start(dataset: "xarray.Dataset") -> Claim:
    ratios = [
        float(of_layer(dataset.sel(case=case, width=n), "weight", layer, 0).mean()) / edge(CASES[case], int(n), layer)
        for case in dataset["case"].values
        for n in dataset["width"].values
        for layer in range(3)
    ]
    low, high = min(ratios), max(ratios)
    return judged(
        "start, all schemes, layers and widths: ‖W_l‖_* is σ_l(√fan_out + √fan_in)",
        "mean within 10 %",
        f"ratio {low:.3f} … {high:.3f}",
        0.9 <= low and high <= 1.1,
        dataset,
    )


def claim_powers(dataset: "xarray.Dataset", name: str, step: int) -> Claim:
    """Whether the updates of all layers grow with the width as theory has it."""
    runs, law = dataset.sel(case=name), powers_of_step(CASES[name])
    fits = [exponent(of_layer(runs, "update", layer, step)) for layer in range(3)]
    wanted = "as the condition asks" if law == (0.0, 0.0, 0.0) else "not the condition"
    return judged(
        f"{name}, {step} step{'s' * (step > 1)}: power of n of ‖ΔW_l‖_*/√(fan_out/fan_in), {', '.join(LAYERS)}",
        f"{powers_as_text(law)}: {wanted}, {WITHIN}",
        ", ".join(map(told, fits)),
        verdict(fits, law),
        runs.sel(time=[step]),
        ["layers.update"],
    )


NORMS = OldExperiment(
    name="norms",
    question="In which parametrizations do weights and updates keep to the spectral condition as the width grows?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(30, 200),
)
