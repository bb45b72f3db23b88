"""A nonlinear network that fits its data exactly while no exponent connects its NFM with its AGOP.

The data are `nf.data.orthogonal_support` with two inputs: e_1 of probability p and target y, e_2 of 1 − p and 1. Two
ReLU neurons that start small, aligned and balanced follow `nf.theory.orthogonal_support` at all times. With y = 1/√ε
and p = ε³ the cosine at α = 1/2 vanishes as ε → 0. In all cases here the eigenvalues end in opposite orders.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ... import measure, nets, theory
from ...data import orthogonal_support
from ...flow import NDF, gradient_flow, log_times
from ...plot.bands import bands
from ...plot.style import AT_START, GRAY, color_of, house_style, label_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, zipped
from ..claims import Claim, judged
from ..old_experiment import OldExperiment
from .common import EXACT, observables

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_EPSILONS = (1e-1, 1e-2, 1e-3, 1e-4)
_REVERSING = (2.0, 0.1)  # y and p
_TIMES = np.concatenate([[0.0], log_times(1e-1, 1e12, 53)])


def grid(quick: bool) -> Grid:
    """Targets and probabilities of the rare input × small random starts."""
    targets, probabilities = [eps**-0.5 for eps in _EPSILONS], [eps**3 for eps in _EPSILONS]
    cases = zipped(target=[*targets, _REVERSING[0]], probability=[*probabilities, _REVERSING[1]])
    return Grid(cases, seed=range(8 if quick else 32))


def one_run(key: PRNGKeyArray, target: float | Array, probability: float | Array) -> Trajectory:
    """The exact flow of two neurons, each at its own input, from s0 log-uniform in [1e-3, 1e-1]."""
    targets, probabilities = jnp.stack([target, 1.0]), jnp.stack([probability, 1 - probability])
    data = orthogonal_support(targets, probabilities)
    root = jnp.sqrt(10 ** jax.random.uniform(key, (2,), minval=-3, maxval=-1))
    net = nets.MLP([2, 2, 1], key=key, activation="relu").with_weights([jnp.diag(root), root[None]])
    diagonals = {
        "nfm": lambda net, data: jnp.diagonal(measure.nfm(net, data)),
        "agop": lambda net, data: jnp.diagonal(measure.agop(net, data)),
    }
    observe = observables(0.5) | diagonals | {"best": measure.best_cosine}
    # Each neuron stays on its side of its kink, so this flow is smooth, and the warning about kinks, which an array
    # does not raise, would be wrong.
    rtol = jnp.asarray(1e-10)
    return gradient_flow(
        net, data, _TIMES[-1], save_at=_TIMES, solver=NDF(), rtol=rtol, observe=observe, progress=False
    )


def figure(dataset: "xarray.Dataset") -> "Figure":
    """Loss, cosine at 1/2 and best cosine through time, and the cosine at every exponent at the end."""
    from matplotlib.lines import Line2D

    sheet, axes = new_figure(4)
    titles = {"loss": "fit", "cosine": "at $\\alpha = 1/2$", "best.cosine": "at the best $\\alpha$"}
    for ax, (name, title) in zip(axes, titles.items(), strict=False):
        bands(dataset, name, hue="target", ax=ax, legend=False).set_title(title)
    _draw_closed_forms(axes, dataset)
    _draw_exponents(axes[3], dataset)
    axes[0].set(yscale="log", ylim=(1e-16, 10))
    for ax in axes[1:]:
        ax.set(yscale="linear", ylim=(0, 1.03))
    colors = [color_of(i, dataset.sizes["target"]) for i in range(dataset.sizes["target"])]
    lines = [Line2D([], [], color=color) for color in colors]
    entries: dict[str, Any] = dict(zip(map(_label, _cases(dataset)), lines, strict=True))
    entries[AT_START] = Line2D([], [], color=GRAY, linestyle=":", linewidth=1)
    legend_below(sheet, entries, f"median and 10–90 % over {dataset.sizes['seed']} starts")
    return sheet


_THEORY: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1.0, "zorder": 5}


def _draw_closed_forms(axes: "list[Axes]", dataset: "xarray.Dataset") -> None:
    """Medians over the starts of what theory gives for each."""
    times, cases, exact = dataset["time"].values, _cases(dataset), closed_form(dataset)
    losses = [((y - nfm) ** 2 @ p) / 2 for (y, p), nfm in zip(cases, exact.nfm, strict=True)]
    cosines = theory.diagonal_cosine(exact.nfm, exact.agop, 0.5)
    # A power > 0 gives two eigenvalues any ratio but not another order; there the limit α → 0 is best.
    same_order = np.diff(exact.nfm)[..., 0] * np.diff(exact.agop)[..., 0] > 0
    best = np.where(same_order, 1, theory.diagonal_cosine(exact.nfm, exact.agop, 0))
    for ax, values in zip(axes, (np.stack(losses), cosines, best), strict=False):
        ax.plot(times[1:], np.median(values, axis=1)[:, 1:].T, **_THEORY)


def _draw_exponents(ax: "Axes", dataset: "xarray.Dataset") -> None:
    """The cosine at the end as a function of the exponent."""
    powers = np.linspace(0, 2, 101)
    cosines = theory.diagonal_cosine(_values(dataset, "nfm_at_end"), _values(dataset, "agop_at_end"), powers)
    for i, case in enumerate(_cases(dataset)):
        color = color_of(i, dataset.sizes["target"])
        low, median, high = np.quantile(cosines[i], (0.1, 0.5, 0.9), axis=0)
        ax.plot(powers, median, color=color)
        ax.fill_between(powers, low, high, color=color, alpha=0.2, linewidth=0)
        ax.plot(powers, theory.diagonal_cosine(*theory.orthogonal_support_limit(*case), powers), **_THEORY)
    with house_style():
        ax.legend([ax.lines[1]], ["closed form"], fontsize=7.5)
    ax.set(title="at the end, at every $\\alpha$", xlabel="exponent $\\alpha$", ylabel=label_of("cosine"))


def closed_form(dataset: "xarray.Dataset") -> theory.OrthogonalSupport:
    """The diagonals of NFM and AGOP that theory gives for the starts of these runs: target × seed × time × 2."""
    times, starts = dataset["time"].values, _values(dataset.isel(time=0), "nfm")
    runs = [[_run(times, s0, *case) for s0 in rows] for case, rows in zip(_cases(dataset), starts, strict=True)]
    nfm, agop = np.moveaxis(np.array(runs), 2, 0)
    return theory.OrthogonalSupport(nfm, agop)


def _run(times: np.ndarray, s0: np.ndarray, targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    if not np.isfinite(s0).all():  # of a run that failed before it was observed
        return np.full((2, times.size, s0.size), np.nan)
    return np.stack(theory.orthogonal_support(times, s0, targets, probabilities))


def _values(dataset: "xarray.Dataset", name: str) -> np.ndarray:
    return dataset[name].transpose("target", "seed", ...).values


def _cases(dataset: "xarray.Dataset") -> list[tuple[np.ndarray, np.ndarray]]:
    """Targets and probabilities of the two inputs."""
    pairs = zip(dataset["target"].values, dataset["probability"].values, strict=True)
    return [(np.array([y, 1.0]), np.array([p, 1 - p])) for y, p in pairs]


def _label(case: tuple[np.ndarray, np.ndarray]) -> str:
    (y, _), (p, _) = case
    if (y, p) == _REVERSING:
        return f"$y = ({y:g}, 1)$, $p = ({p:g}, {1 - p:g})$"
    return f"$\\varepsilon = 10^{{{-2 * np.log10(y):.0f}}}$"


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """Where the flow ends, how it gets there, and that no exponent saves the ansatz."""
    off = float(np.nanmax(np.abs(_values(dataset, "nfm") / closed_form(dataset).nfm - 1)))
    # Residuals are off by EXACT times the targets at most, so the loss by EXACT² times that of an output of zero.
    zero = np.array([p @ y**2 / 2 for y, p in _cases(dataset)])[:, None]
    loss = float(np.nanmax(_values(dataset, "loss_at_end") / zero))
    found = [
        judged(
            "two ReLU neurons follow their closed form, over 13 decades of time",
            f"relative error of NFM ≤ {EXACT:g}",
            f"≤ {off:.1g}",
            off <= EXACT,
            dataset,
            ["nfm"],
        ),
        judged(
            "and fit their data",
            f"loss ≤ {EXACT**2:.0g} of that of f = 0",
            f"≤ {loss:.1g}",
            loss <= EXACT**2,
            dataset,
            ["loss_at_end"],
        ),
    ]
    vanishing = dataset.isel(target=slice(0, -1))
    epsilons = ", ".join(f"{y**-2:g}" for y in vanishing["target"].values)
    found.append(_half(f"ε = {epsilons}: cosine at α = 1/2", vanishing))
    found.append(_best(f"ε = {epsilons}: best cosine over all α > 0", vanishing))
    found.append(_best("y = (2, 1), p = (.1, .9): best cosine over all α > 0", dataset.isel(target=[-1])))
    return found


def _half(statement: str, dataset: "xarray.Dataset") -> Claim:
    limits = [theory.orthogonal_support_limit(*case) for case in _cases(dataset)]
    expected = np.array([theory.diagonal_cosine(*limit, 0.5) for limit in limits])
    measured = _values(dataset, "cosine_at_end")
    medians = _listed(np.nanmedian(measured, axis=1))
    return judged(
        statement,
        f"{_listed(expected)} ± {_AGREES:g}",
        medians,
        _agree(measured, expected),
        dataset,
        ["cosine_at_end"],
    )


def _best(statement: str, dataset: "xarray.Dataset") -> Claim:
    best = [theory.best_diagonal_cosine(*theory.orthogonal_support_limit(*case)) for case in _cases(dataset)]
    powers, expected = np.array(best).T
    measured, power = _values(dataset, "best.cosine_at_end"), _values(dataset, "best.exponent_at_end")
    error = _listed(np.nanmedian(_values(dataset, "best.relative_error_at_end"), axis=1))
    return judged(
        statement,
        f"{_listed(expected)} ± {_AGREES:g}, as α → {_listed(powers, '{:g}')} ± {EXACT:g}",
        f"{_listed(np.nanmedian(measured, axis=1))}, relative error {error}; α ≤ {np.nanmax(power):.1g}",
        # arctan α is known to 1e-7.
        _agree(measured, expected) and bool(np.nanmax(np.abs(power - powers[:, None])) <= EXACT),
        dataset,
        ["best.cosine_at_end", "best.exponent_at_end"],
    )


def _listed(values: np.ndarray, form: str = "{:.3g}") -> str:
    return ", ".join(dict.fromkeys(form.format(value) for value in values))


_AGREES = 2 * EXACT  # a cosine moves by less than twice as much as the matrices


def _agree(measured: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.nanmax(np.abs(measured - expected[:, None])) <= _AGREES)


COUNTEREXAMPLE = OldExperiment(
    name="counterexample",
    question="Can a network fit its data exactly and violate the ansatz at every exponent?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(10, 15),
)
