"""The first gradient: the rank-one matrix that it approaches as n grows, and the scatter of its rows."""

from functools import cache, partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ... import Dataset, Trajectory
from ...nets import MLP
from ...one_step import gradient_vector, one_step
from ...training import Untrained
from ..axes import looped, seeds
from ..experiment import Experiment
from ..judgments import Judged
from ..panels import AtEnd
from ..runs import Runs, Where, quantiles, together
from .common import PHI, draw
from .predictions import direction_of, expansion

_PARTS = {
    "of_residuals": "$\\beta = X^\\top(y - f)/n$",
    "of_targets": "$\\beta = X^\\top y/n$",
    "norm": "$\\|\\beta\\|$",
    "cosine": "$\\rho$",
    "own": "own share",
    "scatter": "scatter $s$",
}
_LABELS = list(_PARTS.values())


def gradient_of(net: MLP, data: Dataset) -> dict[str, Float[Array, ""]]:
    """An observable: the first gradient G of a network, compared with its limit.

    By name: relative distances of G from c_1 a βᵀ in the spectral norm, with β `of_residuals` and `of_targets`; then
    the length of β (`norm`), its `cosine` to β_*, its share of W_0ᵀa (`own`), and the `scatter` of the rows.
    """
    c_1, (W, a), beta = float(expansion("relu").coefficients[1]), net.weights, gradient_vector(net, data)[:, 0]
    assert data.index is not None
    G = one_step(net, data, 1.0).weights[0] - W
    rest = G - c_1 * jnp.outer(a[0], beta)
    of_targets = G - c_1 * jnp.outer(a[0], data.x.T @ data.y[:, 0] / data.samples)
    norm, size, own = jnp.linalg.norm(beta), c_1 * jnp.linalg.norm(a), W.T @ a[0]
    return {
        "of_residuals": jnp.linalg.norm(rest, 2) / (size * norm),
        "of_targets": jnp.linalg.norm(of_targets, 2) / (size * norm),
        "norm": norm,
        "cosine": beta @ data.index[:, 0] / norm,
        "own": -(beta @ own) / (norm * jnp.linalg.norm(own)),
        "scatter": jnp.linalg.norm(rest) / (size * norm),
    }


def one_run(key: PRNGKeyArray, samples: int) -> Trajectory:
    """The initial network and its first gradient."""
    drawn = draw(key, samples)
    return Untrained()(drawn.net, drawn.batch, key, observe={"gradient": gradient_of}, progress=False)


@cache
def limits() -> dict[str, float]:
    """The limits of the parts. For β of the targets, c_1 W_0ᵀa and the fluctuations of the output remain."""
    activation, direction = expansion("relu"), direction_of("relu")
    left = (activation.coefficients[1] ** 2 + PHI * activation.variance) ** 0.5 / direction.norm
    return {"of_targets": float(left)} | {name: float(limit) for name, limit in direction._asdict().items()}


def _derive(runs: Runs) -> Runs:
    """Add `gradient`: all parts; `limit`: their limits, and for the first, whose limit is zero, a line ∝ n^−½."""
    gradient = together(runs, {f"gradient.{name}": label for name, label in _PARTS.items()}, "part")
    n = runs["samples"].values / int(runs["samples"][0])
    start = float(gradient.isel(part=0, samples=0).median())
    law = [start * n**-0.5, *(limit * n**0 for limit in limits().values())]
    return runs.assign(gradient=gradient, limit=(("part", "samples"), np.array(law)))


def _is_first_order(runs: Runs) -> tuple[str, bool]:
    distance = runs["gradient.of_residuals_at_end"].median("seed").values
    n = runs["samples"].values.astype(float)
    slope = float(np.polyfit(np.log(n), np.log(distance), 1)[0])
    return f"slope {slope:.3f}; {distance[-1]:.3f} at n = {n[-1]:g}", abs(slope + 0.5) <= 0.1


def _tends(name: str, within: float, what: str = "", form: str = "") -> Judged:
    """The claim that the median at the largest n is close to the limit."""
    variable = f"gradient.{name}_at_end"

    def find(runs: Runs) -> tuple[str, bool]:
        median = float(runs[variable].median())
        measured = f"{median:{form}}" if form else quantiles(runs[variable], "{:.3f}")
        return measured, abs(median / limits()[name] - 1) <= within

    expected = lambda runs: f"→ {limits()[name]:.3f}, within {100 * within:g} % at n = {int(runs['samples'][0])}"
    last: Where = {"samples": lambda samples: samples == samples.max()}
    return Judged(lambda runs: what + expected(runs), find, [variable], of=last)


_panel = partial(AtEnd, "gradient", against="samples", hue="part", law="limit", axis={"ylim": (0, None)})
_DISTANCE = "relative distance of $G$ from $c_1 a \\beta^\\top$"

GRADIENT = Experiment(
    "gradient",
    "Which rank-one matrix does the first gradient approach, and how do its rows scatter around it?",
    axes={
        "samples": looped([250, 500, 1000, 2000], quick=[200, 400, 800], tiny=[40, 80, 160], label="samples $n$"),
        "seed": seeds(32),
    },
    one_run=one_run,
    derive=_derive,
    panels=[
        _panel(of={"part": _LABELS[:2]}, own_legend=True, label=_DISTANCE),
        _panel(of={"part": _LABELS[2:]}, label="parts of the gradient"),
    ],
    claims={
        "the gradient comes near c_1 a βᵀ with β of the residuals y − f": Judged(
            "distance ∝ n^−½, slope within ±.1", _is_first_order, ["gradient.of_residuals_at_end"]
        ),
        "with β of the targets y alone it does not": _tends("of_targets", 0.15, "distance ", ".3f"),
        "first gradient: norm": _tends("norm", 0.05),
        "first gradient: cosine": _tends("cosine", 0.1),
        "first gradient: own": _tends("own", 0.1),
        "first gradient: scatter": _tends("scatter", 0.1),
    },
    note="relu; theory: $\\propto 1/\\sqrt{n}$, and limits",
    seconds=(10, 60),
)
