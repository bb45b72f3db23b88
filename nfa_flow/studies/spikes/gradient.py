"""The first gradient: of which rank-one matrix it comes near as n grows, and how its rows scatter around it."""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ...data import Dataset
from ...nets import MLP
from ...one_step import gradient_vector, one_step
from ...plot.at_end import at_end
from ...plot.style import entries_of, legend_below, new_figure
from ...run.trajectory import Trajectory
from ...sweep import Grid, looped
from ..claims import Claim, judged
from ..old_experiment import OldExperiment, quantiles
from ..training import Untrained
from .common import PHI, TEACHER, THEORY, direction_of, draw, expansion

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

_ACTIVATION = "relu"


class Gradient(NamedTuple):
    """Relative distances of G from c_1 a βᵀ in the spectral norm, with β of the residuals and of the targets; then the
    length of β, its cosine to β_*, its share of W_0ᵀa, and the scatter of the rows."""

    of_residuals: Float[Array, ""]
    of_targets: Float[Array, ""]
    norm: Float[Array, ""]
    cosine: Float[Array, ""]
    own: Float[Array, ""]
    scatter: Float[Array, ""]


def gradient_of(net: MLP, data: Dataset) -> Gradient:
    """The first gradient of a network beside what it should be; an observable."""
    c_1, (W, a), beta = float(expansion(_ACTIVATION).coefficients[1]), net.weights, gradient_vector(net, data)[:, 0]
    assert data.index is not None
    G = one_step(net, data, 1.0).weights[0] - W
    rest = G - c_1 * jnp.outer(a[0], beta)
    of_targets = G - c_1 * jnp.outer(a[0], data.x.T @ data.y[:, 0] / data.samples)
    norm, size = jnp.linalg.norm(beta), c_1 * jnp.linalg.norm(a)
    own = W.T @ a[0]
    return Gradient(
        jnp.linalg.norm(rest, 2) / (size * norm),
        jnp.linalg.norm(of_targets, 2) / (size * norm),
        norm,
        beta @ data.index[:, 0] / norm,
        -(beta @ own) / (norm * jnp.linalg.norm(own)),
        jnp.linalg.norm(rest) / (size * norm),
    )


def grid(quick: bool) -> Grid:
    """Numbers of samples × seeds."""
    return Grid(samples=looped([200, 400, 800] if quick else [250, 500, 1000, 2000]), seed=range(8 if quick else 32))


def one_run(key: PRNGKeyArray, samples: int) -> Trajectory:
    """A network as it starts."""
    drawn = draw(key, samples, _ACTIVATION, TEACHER)
    return Untrained()(drawn.net, drawn.batch, key, observe={"gradient": gradient_of}, progress=False)


_DISTANCES = {"of_residuals": "$\\beta = X^\\top(y - f)/n$", "of_targets": "$\\beta = X^\\top y/n$"}
_PARTS = {"norm": "$\\|\\beta\\|$", "cosine": "$\\rho$", "own": "own share", "scatter": "scatter $s$"}


def figure(dataset: "xarray.Dataset") -> "Figure":
    """The distances from rank one, and the parts of the gradient with their limits, against n."""
    sheet, axes = new_figure(2)
    sheet.set_figwidth(9)
    entries: dict[str, Any] = {}
    for ax, names in zip(axes, (_DISTANCES, _PARTS), strict=True):
        at_end(_stacked(dataset, names), "gradient", against="samples", hue="part", ax=ax, label="")
        ax.set(xlabel="samples $n$")
        entries |= entries_of(ax)
    axes[0].set(title="relative distance of the gradient from $c_1 a \\beta^\\top$", ylabel="", ylim=(0, None))
    n = dataset["samples"].values
    start = float(dataset["gradient.of_residuals_at_end"].isel(samples=0).median())
    entries["$\\propto 1/\\sqrt{n}$, and limits"] = axes[0].plot(n, start * (n / n[0]) ** -0.5, **THEORY)[0]
    axes[0].axhline(_left_by_targets(), **THEORY)
    for limit in (float(each) for each in direction_of(_ACTIVATION)):
        axes[1].axhline(limit, **THEORY)
    axes[1].set(title="parts of the gradient", ylabel="", ylim=(0, None))
    legend_below(sheet, entries, f"{_ACTIVATION}; median and 10–90 % over {dataset.sizes['seed']} seeds")
    return sheet


def _stacked(dataset: "xarray.Dataset", names: dict[str, str]) -> "xarray.Dataset":
    import xarray

    parts = [dataset[f"gradient.{name}_at_end"] for name in names]
    values = xarray.concat(parts, dim=xarray.Variable("part", list(names.values())))
    return xarray.Dataset({"gradient": values, "status": values * 0})


def _left_by_targets() -> float:
    """What is left in the limit with the targets: c_1 W_0ᵀa, and the fluctuations of the output."""
    activation = expansion(_ACTIVATION)
    square = activation.coefficients[1] ** 2 + PHI * activation.variance
    return float(square**0.5 / direction_of(_ACTIVATION).norm)


def claims(dataset: "xarray.Dataset") -> list[Claim]:
    """That it is of rank one with the residuals only, and where its parts tend."""
    n = dataset["samples"].values.astype(float)
    medians = {name: dataset[f"gradient.{name}_at_end"].median("seed").values for name in Gradient._fields}
    slope = float(np.polyfit(np.log(n), np.log(medians["of_residuals"]), 1)[0])
    left, last = _left_by_targets(), f"n = {n[-1]:g}"
    found = [
        judged(
            "the gradient comes near c_1 a βᵀ with β of the residuals y − f",
            "distance ∝ n^−½, slope within ±.1",
            f"slope {slope:.3f}; {medians['of_residuals'][-1]:.3f} at {last}",
            abs(slope + 0.5) <= 0.1,
            dataset,
            ["gradient.of_residuals_at_end"],
        ),
        judged(
            "with β of the targets y alone it does not",
            f"distance → {left:.3f}, within 15 % at {last}",
            f"{medians['of_targets'][-1]:.3f}",
            bool(abs(medians["of_targets"][-1] / left - 1) <= 0.15),
            dataset.isel(samples=[-1]),
            ["gradient.of_targets_at_end"],
        ),
    ]
    for (name, limit), ratio in zip(direction_of(_ACTIVATION)._asdict().items(), (0.05, 0.1, 0.1, 0.1), strict=True):
        ends = dataset[f"gradient.{name}_at_end"].isel(samples=-1)
        holds = abs(float(ends.median()) / float(limit) - 1) <= ratio
        expected = f"→ {float(limit):.3f}, within {100 * ratio:g} % at {last}"
        measured, runs = quantiles(ends, "{:.3f}"), dataset.isel(samples=[-1])
        found.append(judged(f"first gradient: {name}", expected, measured, holds, runs, [f"gradient.{name}_at_end"]))
    return found


GRADIENT = OldExperiment(
    name="gradient",
    question="Of which rank-one matrix does the first gradient come near, and how do its rows scatter around it?",
    one_run=one_run,
    make_grid=grid,
    figure=figure,
    claims=claims,
    seconds=(10, 60),
)
