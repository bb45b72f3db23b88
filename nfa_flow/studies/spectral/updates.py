"""Optimizers whose updates have a given spectral norm, compared with gradient descent and Adam.

All start with the weights of `Spectral`. Gradient descent and Adam use its learning rates for each layer; normalized
updates, −η √(fan_out/fan_in) G/‖G‖_*, need none. Muon makes all singular values about equal, and optax scales them by
√max(1, fan_out/fan_in), which is the spectral condition unless fan_out < fan_in. For the read-out fan_out < fan_in:
there the factor is too large by √(fan_in/fan_out), and "Muon, rescaled" divides by this.
"""

from ..axes import batched, looped, seeds
from ..experiment import Experiment
from ..judgments import AtMost, Reported, WidthPowers
from ..panels import AgainstWidth, Slope
from ..runs import Runs, Values, quantiles
from .common import LAYERS, shape_of
from .norms import CASES, PLACES, STEPS, of_layer, one_run, powers_claims, powers_of_step

NAMES = ["GD, Spectral", "Adam, Spectral", "normalized", "Muon", "Muon, rescaled"]
_HIDDEN, _READ_OUT = 1, 2
_NULL = "without relation to the features"  # Gaussian, or with random singular vectors


def _derive(runs: Runs) -> Runs:
    """Add the sizes of hidden and read-out updates after one step; `off`: error of normalized updates."""
    sizes = {name: of_layer(runs, name, _HIDDEN, 1) for name in ("stable_rank", "alignment", "change", "moved")}
    sizes |= {f"update {layer}": of_layer(runs, "update", layer, 1) for layer in (_HIDDEN, _READ_OUT)}
    return runs.assign(
        sizes
        | {
            "untrained.stable_rank": runs["width"] / 4,
            "untrained.alignment": turned(sizes["stable_rank"]),
            "off": abs(runs["layers.update"].sel(time=1) / CASES["normalized"].rate - 1),
        }
    )


def turned(stable_rank: Values) -> Values:
    """The alignment of a matrix with the same singular values and random directions: √(stable rank / fan_in)."""
    fan_in = [shape_of(int(width))[_HIDDEN] for width in stable_rank["width"].values]
    return (stable_rank / stable_rank["width"].copy(data=fan_in)) ** 0.5


def _panel(name: str, label: str, layer: int = _HIDDEN, **options) -> AgainstWidth:
    title = f"{LAYERS[layer]}, one step"
    return AgainstWidth(name, hue="case", title=title, label=label, **options)


def _norms(layer: int) -> AgainstWidth:
    law = Slope({name: powers_of_step(CASES[name])[layer] for name in NAMES})
    return _panel(f"update {layer}", "$\\|\\Delta W\\|_*/(n_l/n_{l-1})^{1/2}$", layer, law=law)


def _power(name: str, power: float) -> WidthPowers:
    """A power of the width for the hidden layer under gradient descent with the parametrization Spectral."""
    return WidthPowers(lambda runs: [runs[name]], [power], of={"case": NAMES[0]})


def _scores(runs: Runs) -> str:
    widest, n = runs.isel(width=-1), int(runs["width"][-1])
    rank, alignment, null = (widest[name] for name in ("stable_rank", "alignment", "untrained.alignment"))
    loss = runs["loss_at_end"] / runs["loss"].isel(time=0)
    return (
        f"stable rank {quantiles(rank)} of {n}; alignment {quantiles(alignment)}, turned at random {quantiles(null)}; "
        f"loss after {STEPS} steps {quantiles(loss)} of the first"
    )


_WHAT = f"{NAMES[0]}, 1 step, hidden layer: power of n of"

UPDATES = Experiment(
    "updates",
    "Do normalized updates and Muon satisfy the condition, and are their updates like those of GD and Adam?",
    axes={  # a step of Muon costs a dozen products of hidden matrices
        "width": looped([64, 128, 256, 512], quick=[32, 64, 128], tiny=[16, 32, 64], label="width $n$"),
        "case": batched({name: PLACES[name] for name in NAMES}, tiny=NAMES),
        "seed": seeds(8),
    },
    one_run=one_run,
    derive=_derive,
    panels=[
        [_norms(_HIDDEN), _norms(_READ_OUT), _panel("stable_rank", "stable rank of $\\Delta W$", baseline=_NULL)],
        [
            _panel("alignment", "$\\|\\Delta W h\\|\\,/\\,\\|\\Delta W\\|_*\\|h\\|$", baseline=_NULL),
            _panel("change", "change of features, rms"),
            _panel("moved", "$\\|\\Delta W\\|_F\\,/\\,\\|W(0)\\|_F$", law=Slope(-0.5, {"case": NAMES[0]})),
        ],
    ],
    claims={
        "normalized, 1 step: ‖ΔW_l‖_* = η √(fan_out/fan_in) in all layers": AtMost(
            "off", 1e-5, "off by ≤ 1e-5", measured="off by ≤ {}", of={"case": "normalized", "time": [1]}
        ),
        **{statement: judge for name in NAMES for statement, judge in powers_claims(name).items()},
        f"{_WHAT} ‖ΔWh‖/(‖ΔW‖_*‖h‖)": _power("alignment", 0.0),
        f"{_WHAT} change of features, rms": _power("change", 0.0),
        f"{_WHAT} ‖ΔW‖_F/‖W(0)‖_F, although ‖ΔW‖_*/‖W(0)‖_* stays": _power("moved", -0.5),
        **{f"{name}, 1 step, n = {{last width}}, hidden layer": Reported(_scores, of={"case": name}) for name in NAMES},
    },
    note="all start as Spectral",
    seconds=(10, 80),
)
