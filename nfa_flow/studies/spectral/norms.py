"""The spectral condition against width: norms of weights and of updates, for parametrizations and for optimizers.

Condition: ‖W_l‖_* and ‖ΔW_l‖_* are Θ(√(fan_out/fan_in)) in every layer. In an abc-parametrization, both divided by this
are powers of the width. At the start ‖W_l‖_* is σ_l(√fan_out + √fan_in) in the limit. A step of gradient descent has
‖ΔW_l‖_* = η m_l ‖∇_l‖_*; there a gradient of low rank adds up over the fan-in, and the gradient with respect to hidden
activations has the size of the read-out's entries. The step of Adam has entries of size one, whatever that size is.
"""

from functools import partial
from typing import Any

from jaxtyping import Array, PRNGKeyArray

from ... import Trajectory, gradient_descent, measure, nets
from ...plot.style import GRAY, color_of, swatch
from ..axes import batched, looped, places, seeds
from ..experiment import Experiment
from ..judgments import Judged, WidthPowers
from ..panels import THEORY, AgainstWidth, Axes, Entries, Panel, Slope
from ..runs import Runs, Values
from ..schemes import network
from ..slopes import exponent, powers_as_text
from .common import ADAM, GD, LAYERS, MUON, NORMALIZED, ONE_RATE, ONE_RATE_ADAM, Case, fans, optimizer, shape_of, task
from .layers import LayerNorms

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


PLACES = places(CASES)


def one_run(key: PRNGKeyArray, width: int, case: int | Array, count: int = len(CASES)) -> Trajectory:
    """Some full-batch steps of the case at this index, observed at the start, after one step and at the end.

    `count`: the number of cases that are compiled, from the first one; Muon and normalized updates compile slowly.
    """
    data, cases = task(), list(CASES.values())[:count]
    net, _ = network(key, shape_of(width), "tanh", [each.scheme for each in cases], case)
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
    """The powers of n of ‖ΔW_l‖_* over √(fan_out/fan_in) after the first step; in a stable scheme, after any step."""
    if case.update not in (GD, ADAM):
        is_muon = case.update == MUON and not case.rescaled
        return (0.0, 0.0, 0.5 if is_muon else 0.0)
    scheme = case.scheme.exponents.at_depth(3)
    first, hidden, last = scheme.mobility_exponents
    gradient = scheme.std_exponents[-1] if case.update == GD else 0.0
    return (-first - gradient, 1 - hidden - gradient, 1 - last)


def of_layer(runs: Runs, name: str, layer: int, step: int) -> Values:
    """A size of one layer (0 … 2) after a number of steps."""
    return runs[f"layers.{name}"].sel(time=step, drop=True).isel({f"layers.{name}[1]": layer})


def edge(case: Case, width: int, layer: int) -> float:
    """σ_l(√fan_out + √fan_in) over √(fan_out/fan_in): the limit of the norm at the start, and a bound of its mean.

    **Source:** Davidson & Szarek 2001, Theorem 2.13.
    """
    std = case.scheme.effective(shape_of(width)).std[layer]
    fan_out, fan_in = fans(width)[layer]
    return std * (fan_out**0.5 + fan_in**0.5) * (fan_in / fan_out) ** 0.5


_NAMES = ["Spectral", "muP", "NTP", "SP", "SP, one rate"]


def _derive(runs: Runs) -> Runs:
    """Add the norms of each layer by optimizer and scheme, and their limits at the start."""
    import xarray

    updates = xarray.Variable("update", [GD, ADAM])

    def by_scheme(values: Values) -> Values:
        cases = [values.reindex(case=[f"{update}, {name}" for name in _NAMES]) for update in (GD, ADAM)]
        return xarray.concat([each.assign_coords(case=_NAMES).rename(case="scheme") for each in cases], updates)

    found = {}
    for i, layer in enumerate(LAYERS):
        start, step = (by_scheme(of_layer(runs, *which)) for which in (("weight", i, 0), ("update", i, 1)))
        edges = [[edge(CASES[f"{GD}, {name}"], int(n), i) for n in runs["width"].values] for name in _NAMES]
        found |= {f"start {layer}": start, f"step {layer}": step}
        found[f"edge {layer}"] = start.isel(update=0, seed=0, drop=True).transpose("scheme", "width").copy(data=edges)
    return runs.assign(found)


def _row(update: str | None) -> list[Panel]:
    """A panel for each layer and a panel of the powers of n; `update` None means the initial weights."""
    norm, what = ("W_l", "start") if update is None else ("\\Delta W_l", f"one step of {update}")
    own = {name: CASES.get(f"{update}, {name}") for name in _NAMES}
    powers = lambda i: Slope({name: powers_of_step(case)[i] for name, case in own.items() if case is not None})
    return [
        AgainstWidth(
            f"{'start' if update is None else 'step'} {layer}",
            hue="scheme",
            of={"update": update or GD},
            law=f"edge {layer}" if update is None else powers(i),
            title=f"{layer}, {what}",
            label=f"$\\|{norm}\\|_*/(n_l/n_{{l-1}})^{{1/2}}$",
        )
        for i, layer in enumerate(LAYERS)
    ] + [partial(_draw_powers, update=update)]


def _draw_powers(ax: Axes, runs: Runs, update: str | None) -> Entries:
    """Fitted powers of n with two standard errors: filled after one step, open after all steps."""
    names = [name for name in _NAMES if f"{update or GD}, {name}" in runs["case"].values]
    for i, name in enumerate(names):
        case, color = f"{update or GD}, {name}", color_of(_NAMES.index(name), len(_NAMES))
        law = powers_at_start(CASES[case]) if update is None else powers_of_step(CASES[case])
        shown = [("weight", 0)] if update is None else [("update", step) for step in steps_of(CASES[case])]
        for layer in range(3):
            place = layer + 0.8 * ((i + 0.5) / len(names) - 0.5)
            for j, (size, step) in enumerate(shown):
                fit = exponent(of_layer(runs.sel(case=case), size, layer, step))
                style: Any = {"color": color, "marker": "o", "markersize": 4, "capsize": 2}
                style["markerfacecolor"] = "white" if j else color
                ax.errorbar(place + 0.05 * j, fit.exponent, yerr=2 * fit.error, **style)
            ax.plot([place - 0.06, place + 0.11], [law[layer]] * 2, **THEORY)
    ax.set(title="powers of $n$, fit ± 2 standard errors", ylim=(-2, 1.25))
    ax.set_xticks(range(3), LAYERS)
    return {
        what: swatch(GRAY, marker="o", markersize=4, linewidth=0, markerfacecolor=face)
        for what, face in {"one step": GRAY, f"{STEPS} steps": "white"}.items()
    }


def steps_of(case: Case) -> list[int]:
    """The numbers of steps with a claim on powers: in unstable schemes the promise is for the first step only."""
    return [1, STEPS] if case.scheme.is_stable else [1]


def _start(runs: Runs) -> tuple[str, bool]:
    ratios = [
        float(of_layer(runs.sel(case=case, width=n), "weight", layer, 0).mean()) / edge(CASES[case], int(n), layer)
        for case in runs["case"].values
        for n in runs["width"].values
        for layer in range(3)
    ]
    low, high = min(ratios), max(ratios)
    return f"ratio {low:.3f} … {high:.3f}", 0.9 <= low and high <= 1.1


def powers_claims(name: str) -> dict[str, Any]:
    """The claims that the updates of all layers grow with the promised powers of the width."""
    law = powers_of_step(CASES[name])
    wanted = "as the condition requires" if law == (0.0, 0.0, 0.0) else "not the condition"
    what = f"power of n of ‖ΔW_l‖_*/√(fan_out/fan_in), {', '.join(LAYERS)}"
    return {
        f"{name}, {step} step{'s' * (step > 1)}: {what}": WidthPowers(
            lambda runs, step=step: [of_layer(runs, "update", layer, step) for layer in range(3)],
            law,
            expected=f"{powers_as_text(law)}: {wanted}",
            names=["layers.update"],
            of={"case": name, "time": [step]},
        )
        for step in steps_of(CASES[name])
    }


NORMS = Experiment(
    "norms",
    "In which parametrizations do weights and updates satisfy the spectral condition as the width grows?",
    axes={
        "width": looped([64, 128, 256, 512, 1024], quick=[32, 64, 128], tiny=[16, 32, 64], label="width $n$"),
        "case": batched({name: PLACES[name] for name in SCHEMES}, tiny=SCHEMES),
        "seed": seeds(8),
    },
    one_run=partial(one_run, count=len(SCHEMES)),
    derive=_derive,
    panels=[_row(None), _row(GD), _row(ADAM)],
    claims={
        "start, all schemes, layers and widths: ‖W_l‖_* is σ_l(√fan_out + √fan_in)": Judged("mean within 10 %", _start),
        **{statement: judge for name in SCHEMES for statement, judge in powers_claims(name).items()},
    },
    seconds=(20, 200),
)
