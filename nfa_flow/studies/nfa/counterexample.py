"""A nonlinear network that fits its data exactly although no exponent relates its NFM to its AGOP.

The data are `nf.data.orthogonal_support` with two inputs: e_1 of probability p and target y, e_2 of 1 − p and 1. Two
ReLU neurons that start small, aligned and balanced follow `nf.theory.orthogonal_support` at all times. With y = 1/√ε
and p = ε³ the cosine at α = 1/2 vanishes as ε → 0. In all cases here the final eigenvalues of NFM and AGOP have
opposite orders.

Each neuron starts on its kink at the other input, from where the flow is not unique. This is the one with σ'(0) = 0,
which is also the limit of starts with slightly negative weights in place of the zeros.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ... import Trajectory, gradient_flow, log_times, measure, nets, theory
from ...data import orthogonal_support
from ...flow import NDF
from ...plot.at_end import quantiles_over
from ...plot.style import color_of, label_of
from ..axes import batched, seeds
from ..experiment import Experiment
from ..judgments import AtMost, Judged
from ..panels import THEORY, Axes, Entries, Through
from ..runs import Runs, Values
from .common import EXACT, observables

_EPSILONS = (1e-1, 1e-2, 1e-3, 1e-4)
_REVERSING = (2.0, 0.1)  # target y and probability p
_PROBABILITIES = dict([(eps**-0.5, eps**3) for eps in _EPSILONS] + [_REVERSING])  # of the rare input, by target
_TIMES = np.concatenate([[0.0], log_times(1e-1, 1e12, 53)])


def probability(target: float) -> float:
    """The probability of the rare input with this target."""
    return _PROBABILITIES[target]


def one_run(key: PRNGKeyArray, target: float | Array, probability: float | Array) -> Trajectory:
    """The exact flow of two neurons, one for each input, from s0 log-uniform in [1e-3, 1e-1]."""
    targets, probabilities = jnp.stack([target, 1.0]), jnp.stack([probability, 1 - probability])
    data = orthogonal_support(targets, probabilities)
    root = jnp.sqrt(10 ** jax.random.uniform(key, (2,), minval=-3, maxval=-1))
    net = nets.MLP([2, 2, 1], key=key, activation="relu").with_weights([jnp.diag(root), root[None]])
    diagonals = {
        "nfm": lambda net, data: jnp.diagonal(measure.nfm(net, data)),
        "agop": lambda net, data: jnp.diagonal(measure.agop(net, data)),
    }
    observe = observables(0.5) | diagonals | {"best": measure.best_cosine}
    # No kink is crossed, so this flow is smooth. Rates from 1 down to 1e-10 need NDF: `Piecewise` has no method for
    # pieces as stiff. A tolerance given as an array avoids the warning about kinks, which would be wrong here.
    rtol = jnp.asarray(1e-10)
    return gradient_flow(
        net, data, _TIMES[-1], save_at=_TIMES, solver=NDF(), rtol=rtol, observe=observe, progress=False
    )


def closed_form(runs: Runs) -> theory.OrthogonalSupport:
    """The diagonals of NFM and AGOP in theory, for the initial values of these runs: target × seed × time × 2."""
    times, starts = runs["time"].values, _values(runs.isel(time=0), "nfm")
    found = [[_run(times, s0, *case) for s0 in rows] for case, rows in zip(_cases(runs), starts, strict=True)]
    nfm, agop = np.moveaxis(np.array(found), 2, 0)
    return theory.OrthogonalSupport(nfm, agop)


def _run(times: np.ndarray, s0: np.ndarray, targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    if not np.isfinite(s0).all():  # NaN for a run that failed before its first observation
        return np.full((2, times.size, s0.size), np.nan)
    return np.stack(theory.orthogonal_support(times, s0, targets, probabilities))


def _cosine(nfm: np.ndarray, agop: np.ndarray, powers: np.ndarray | float) -> np.ndarray:
    """The cosine; NaN for a failed run."""
    cosines = np.array(theory.diagonal_cosine(np.nan_to_num(nfm, nan=1.0), np.nan_to_num(agop, nan=1.0), powers))
    cosines[np.isnan(nfm + agop).any(axis=-1)] = np.nan
    return cosines


def _derive(runs: Runs) -> Runs:
    """Add `off`: the relative error of NFM; `left`: the loss over that of f = 0; and closed forms for the panels.

    `limit.…`: the limits of the cosines at t → ∞, at α = 1/2 and at the best α, which may be the limit α → 0.
    """
    cases, exact = _cases(runs), closed_form(runs)
    limits = [theory.orthogonal_support_limit(*case) for case in cases]
    half = [theory.diagonal_cosine(*limit, 0.5) for limit in limits]
    powers, cosines = np.array([theory.best_diagonal_cosine(*limit) for limit in limits]).T
    by_target = lambda values: runs["probability"].copy(data=values)
    loss = runs["loss"].transpose("target", "seed", "time")
    losses = [((y - nfm) ** 2 @ p) / 2 for (y, p), nfm in zip(cases, exact.nfm, strict=True)]
    # Powers > 0 can give two eigenvalues any ratio, but not the opposite order; so the limit α → 0 is best.
    same_order = np.diff(exact.nfm)[..., 0] * np.diff(exact.agop)[..., 0] > 0
    best = np.where(same_order, 1, _cosine(exact.nfm, exact.agop, 0.0))
    return runs.assign(
        {
            "off": loss.copy(data=np.abs(_values(runs, "nfm") / exact.nfm - 1).max(axis=-1)),
            "left": runs["loss_at_end"] / by_target([p @ y**2 / 2 for y, p in cases]),
            "limit.cosine": by_target(np.array(half)),
            "limit.best.exponent": by_target(powers),
            "limit.best.cosine": by_target(cosines),
            "theory.loss": loss.copy(data=np.stack(losses)),
            "theory.cosine": loss.copy(data=_cosine(exact.nfm, exact.agop, 0.5)),
            "theory.best.cosine": loss.copy(data=best),
        }
    )


def _draw_exponents(ax: Axes, runs: Runs) -> Entries:
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


_AGREES = 2 * EXACT  # a cosine changes by less than twice the relative change of the matrices


def _half(runs: Runs) -> tuple[str, bool]:
    measured = runs["cosine_at_end"]
    return _listed(measured.median("seed")), _agree(measured, runs["limit.cosine"], _AGREES)


def _expect_best(runs: Runs) -> str:
    powers = _listed(runs["limit.best.exponent"], "{:g}")
    return f"{_listed(runs['limit.best.cosine'])} ± {_AGREES:g}, as α → {powers} ± {EXACT:g}"


def _best(runs: Runs) -> tuple[str, bool]:
    cosine, power, error = (runs[f"best.{name}_at_end"] for name in ("cosine", "exponent", "relative_error"))
    # arctan α is accurate to 1e-7.
    agrees = _agree(cosine, runs["limit.best.cosine"], _AGREES) and _agree(power, runs["limit.best.exponent"], EXACT)
    medians, errors = (_listed(each.median("seed")) for each in (cosine, error))
    return f"{medians}, relative error {errors}; α ≤ {float(power.max()):.1g}", agrees


def _listed(values: Values, form: str = "{:.3g}") -> str:
    return ", ".join(dict.fromkeys(form.format(value) for value in values.values))


def _agree(measured: Values, expected: Values, within: float) -> bool:
    return bool(abs(measured - expected).max() <= within)


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
        Through("loss", hue="target", law="theory.loss", title="fit", axis={"yscale": "log", "ylim": (1e-16, 10)}),
        _cosines("cosine", law="theory.cosine", title="at $\\alpha = 1/2$"),
        _cosines("best.cosine", law="theory.best.cosine", title="at the best $\\alpha$"),
        _draw_exponents,
    ],
    claims={
        "two ReLU neurons follow their closed form, over 13 decades of time": AtMost(
            "off", EXACT, "relative error of NFM ≤ {}"
        ),
        # Residuals are at most EXACT times the targets, so the loss is at most EXACT² times that of f = 0.
        "and fit their data": AtMost("left", EXACT**2, "loss ≤ {} of that of f = 0"),
        f"ε = {_EPSILONS_TOLD}: cosine at α = 1/2": Judged(
            lambda runs: f"{_listed(runs['limit.cosine'])} ± {_AGREES:g}", _half, ["cosine_at_end"], of=_vanishing
        ),
        f"ε = {_EPSILONS_TOLD}: best cosine over all α > 0": _judged_best(of=_vanishing),
        "y = (2, 1), p = (.1, .9): best cosine over all α > 0": _judged_best(of={"target": [_REVERSING[0]]}),
    },
    note="$p = y^{-6}$, and $0.1$ for $y = 2$",
    seconds=(10, 15),
)
