"""A nonlinear network that fits its data exactly while no exponent connects its NFM with its AGOP.

The data are `nf.data.orthogonal_support` with two inputs: e_1 of probability p and target y, e_2 of 1 − p and 1. Two
ReLU neurons that start small, aligned and balanced follow `nf.theory.orthogonal_support` at all times. With y = 1/√ε
and p = ε³ the cosine at α = 1/2 vanishes as ε → 0. In all cases here the eigenvalues end in opposite orders.
"""

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ... import measure, nets, theory
from ...data import orthogonal_support
from ...flow import NDF, gradient_flow, log_times
from ...plot.at_end import quantiles_over
from ...plot.style import color_of, label_of
from ...run.trajectory import Trajectory
from ..axes import batched, seeds
from ..experiment import Experiment
from ..judgments import AtMost, Judged
from ..panels import THEORY, Entries, Through
from ..runs import Runs
from .common import EXACT, observables

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_EPSILONS = (1e-1, 1e-2, 1e-3, 1e-4)
_REVERSING = (2.0, 0.1)  # y and p
_PROBABILITIES = dict([(eps**-0.5, eps**3) for eps in _EPSILONS] + [_REVERSING])  # of the rare input, by its target
_TIMES = np.concatenate([[0.0], log_times(1e-1, 1e12, 53)])


def probability(target: float) -> float:
    """Of the rare input, by its target."""
    return _PROBABILITIES[target]


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


def closed_form(runs: Runs) -> theory.OrthogonalSupport:
    """The diagonals of NFM and AGOP that theory gives for the starts of these runs: target × seed × time × 2."""
    times, starts = runs["time"].values, _values(runs.isel(time=0), "nfm")
    found = [[_run(times, s0, *case) for s0 in rows] for case, rows in zip(_cases(runs), starts, strict=True)]
    nfm, agop = np.moveaxis(np.array(found), 2, 0)
    return theory.OrthogonalSupport(nfm, agop)


def _run(times: np.ndarray, s0: np.ndarray, targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    if not np.isfinite(s0).all():  # of a run that failed before it was observed
        return np.full((2, times.size, s0.size), np.nan)
    return np.stack(theory.orthogonal_support(times, s0, targets, probabilities))


def _cosine(nfm: np.ndarray, agop: np.ndarray, powers: np.ndarray | float) -> np.ndarray:
    """NaN of a run that failed."""
    cosines = np.array(theory.diagonal_cosine(np.nan_to_num(nfm, nan=1.0), np.nan_to_num(agop, nan=1.0), powers))
    cosines[np.isnan(nfm + agop).any(axis=-1)] = np.nan
    return cosines


def _derive(runs: Runs) -> Runs:
    """`off`: the relative error of NFM; `left`: the loss over that of f = 0; and the closed forms of what is drawn."""
    cases, exact = _cases(runs), closed_form(runs)
    loss = runs["loss"].transpose("target", "seed", "time")
    losses = [((y - nfm) ** 2 @ p) / 2 for (y, p), nfm in zip(cases, exact.nfm, strict=True)]
    # A power > 0 gives two eigenvalues any ratio but not another order; there the limit α → 0 is best.
    same_order = np.diff(exact.nfm)[..., 0] * np.diff(exact.agop)[..., 0] > 0
    best = np.where(same_order, 1, _cosine(exact.nfm, exact.agop, 0.0))
    return runs.assign(
        {
            "off": loss.copy(data=np.abs(_values(runs, "nfm") / exact.nfm - 1).max(axis=-1)),
            "left": runs["loss_at_end"] / runs["target"].copy(data=[p @ y**2 / 2 for y, p in cases]),
            "theory.loss": loss.copy(data=np.stack(losses)),
            "theory.cosine": loss.copy(data=_cosine(exact.nfm, exact.agop, 0.5)),
            "theory.best.cosine": loss.copy(data=best),
        }
    )


def _draw_exponents(ax: "Axes", runs: Runs) -> Entries:
    """The cosine at the end as a function of the exponent."""
    powers = np.linspace(0, 2, 101)
    cosines = _cosine(_values(runs, "nfm_at_end"), _values(runs, "agop_at_end"), powers)
    for i, case in enumerate(_cases(runs)):
        color = color_of(i, runs.sizes["target"])
        low, median, high = quantiles_over(cosines[i])
        ax.plot(powers, median, color=color)
        ax.fill_between(powers, low, high, color=color, alpha=0.2, linewidth=0)
        ax.plot(powers, theory.diagonal_cosine(*theory.orthogonal_support_limit(*case), powers), **THEORY)
    ax.set(
        title="at the end, at every $\\alpha$", xlabel="exponent $\\alpha$", ylabel=label_of("cosine"), ylim=(0, 1.03)
    )
    return {}


def _values(runs: Runs, name: str) -> np.ndarray:
    return runs[name].transpose("target", "seed", ...).values


def _cases(runs: Runs) -> list[tuple[np.ndarray, np.ndarray]]:
    """Targets and probabilities of the two inputs."""
    pairs = zip(runs["target"].values, runs["probability"].values, strict=True)
    return [(np.array([y, 1.0]), np.array([p, 1 - p])) for y, p in pairs]


def _expected_half(runs: Runs) -> np.ndarray:
    limits = [theory.orthogonal_support_limit(*case) for case in _cases(runs)]
    return np.array([theory.diagonal_cosine(*limit, 0.5) for limit in limits])


def _half(runs: Runs) -> tuple[str, bool]:
    measured = _values(runs, "cosine_at_end")
    return _listed(np.nanmedian(measured, axis=1)), _agree(measured, _expected_half(runs))


def _expected_best(runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """Exponents, which are limits, and cosines."""
    best = [theory.best_diagonal_cosine(*theory.orthogonal_support_limit(*case)) for case in _cases(runs)]
    powers, cosines = np.array(best).T
    return powers, cosines


def _expect_best(runs: Runs) -> str:
    powers, cosines = _expected_best(runs)
    return f"{_listed(cosines)} ± {_AGREES:g}, as α → {_listed(powers, '{:g}')} ± {EXACT:g}"


def _best(runs: Runs) -> tuple[str, bool]:
    (powers, expected), measured = _expected_best(runs), _values(runs, "best.cosine_at_end")
    power, error = _values(runs, "best.exponent_at_end"), _values(runs, "best.relative_error_at_end")
    medians, errors = (_listed(np.nanmedian(each, axis=1)) for each in (measured, error))
    # arctan α is known to 1e-7.
    agrees = _agree(measured, expected) and bool(np.nanmax(np.abs(power - powers[:, None])) <= EXACT)
    return f"{medians}, relative error {errors}; α ≤ {np.nanmax(power):.1g}", agrees


def _listed(values: np.ndarray, form: str = "{:.3g}") -> str:
    return ", ".join(dict.fromkeys(form.format(value) for value in values))


_AGREES = 2 * EXACT  # a cosine moves by less than twice as much as the matrices


def _agree(measured: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.nanmax(np.abs(measured - expected[:, None])) <= _AGREES)


_vanishing = {"target": lambda target: target != _REVERSING[0]}
_EPSILONS_TOLD = ", ".join(f"{eps:g}" for eps in _EPSILONS)
_judged_best = partial(Judged, _expect_best, _best, ["best.cosine_at_end", "best.exponent_at_end"])
_cosines = partial(Through, hue="target", axis={"yscale": "linear", "ylim": (0, 1.03)})

COUNTEREXAMPLE = Experiment(
    "counterexample",
    "Can a network fit its data exactly and violate the ansatz at every exponent?",
    axes={
        "target": batched(list(_PROBABILITIES), tiny=list(_PROBABILITIES), label="target $y$"),
        "seed": seeds(32),
        "probability": probability,
    },
    one_run=one_run,
    derive=_derive,
    panels=[
        [
            Through("loss", hue="target", law="theory.loss", title="fit", axis={"yscale": "log", "ylim": (1e-16, 10)}),
            _cosines("cosine", law="theory.cosine", title="at $\\alpha = 1/2$"),
            _cosines("best.cosine", law="theory.best.cosine", title="at the best $\\alpha$"),
            _draw_exponents,
        ]
    ],
    claims={
        "two ReLU neurons follow their closed form, over 13 decades of time": AtMost(
            "off", EXACT, "relative error of NFM ≤ {}"
        ),
        # Residuals are off by EXACT times the targets at most, so the loss by EXACT² times that of an output of zero.
        "and fit their data": AtMost("left", EXACT**2, "loss ≤ {} of that of f = 0"),
        f"ε = {_EPSILONS_TOLD}: cosine at α = 1/2": Judged(
            lambda runs: f"{_listed(_expected_half(runs))} ± {_AGREES:g}", _half, ["cosine_at_end"], of=_vanishing
        ),
        f"ε = {_EPSILONS_TOLD}: best cosine over all α > 0": _judged_best(of=_vanishing),
        "y = (2, 1), p = (.1, .9): best cosine over all α > 0": _judged_best(of={"target": [_REVERSING[0]]}),
    },
    note="$p = y^{-6}$, and $0.1$ for $y = 2$",
    seconds=(10, 15),
)
