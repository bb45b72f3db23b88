"""What takes optimizers off the ansatz: the length of their steps, or the equation that they follow?

Balanced networks are trained by gradient descent, with momentum, by Adam and by AdamW, and by the flows that these
follow, to the same end. Gradient flow keeps linear networks on the ansatz. The modified flow of gradient descent leaves
it as gradient descent does: its drift is that of the flow of ℒ + (η/4)‖∇ℒ‖², and the derivative of this flow with
respect to η at η = 0 is a theory of the drift to first order. The flow of Adam leaves the ansatz also for η → 0.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from ... import Dataset, Trajectory, dynamics, gradient_flow, measure, nets
from ...data import digits, linear_teacher
from ...measure.gram_power import gram_power
from ...training import OPTIMIZERS, Descent, FlowOf, Optimizer
from ..axes import looped, seeds
from ..experiment import Experiment
from ..judgments import AtMost, PowerLaw, Reported
from ..panels import AtEnd, Axes, Slope
from ..runs import Runs
from .common import ERROR_AT

_LARGEST: dict[Optimizer, float] = {"gd": 0.04, "momentum": 0.004, "adam": 0.004, "adamw": 0.004}  # learning rates
_END: dict[Optimizer, float] = {"gd": 6.0, "momentum": 6.0, "adam": 2.0, "adamw": 2.0}
_DECAY = 0.1  # of AdamW
_EXACT = {"rtol": 1e-9, "progress": False}

OPTIMIZER, ITS_FLOW, GRADIENT_FLOW, FIRST_ORDER = "optimizer", "its flow", "gradient flow", "first order in η"


class Problem(NamedTuple):
    """A balanced network and the data on which it is trained."""

    depth: int
    activation: str = "identity"
    real: bool = False

    def __call__(self, key: PRNGKeyArray) -> tuple[nets.MLP, Dataset]:
        """The network and its data."""
        data_key, net_key = jax.random.split(key)
        data = digits() if self.real else linear_teacher(60, 8, 3, key=data_key, noise=0.1)
        widths = [data.inputs, *[16 if self.real else 8] * (self.depth - 1), data.outputs]
        return nets.MLP(widths, key=net_key, activation=self.activation, init=nets.Balanced(scale=0.3)), data


DIGITS, TANH = "digits, linear, L = 3", "tanh, L = 3"
PROBLEMS = {f"linear, L = {depth}": Problem(depth) for depth in (2, 3, 4)}
PROBLEMS |= {DIGITS: Problem(3, real=True), TANH: Problem(3, "tanh")}
LINEAR = [name for name in PROBLEMS if name != TANH]


def one_run(key: PRNGKeyArray, problem: Problem, optimizer: Optimizer, fraction: float) -> Trajectory:
    """A network trained by an optimizer at a fraction of its largest learning rate, with what its flows give."""
    (net, data), end = problem(key), _END[optimizer]
    error = measure.alignment(1 / problem.depth, metric="relative_error")
    rate = fraction * _LARGEST[optimizer]
    descent = Descent(optimizer, rate, 1, adamw_decay=_DECAY)
    descent = dataclasses.replace(descent, steps=round(end / descent.time_per_step))
    observe = {"relative_error": error}
    run = descent(net, data, key, observe=observe, save_at=[0, descent.steps], progress=False)
    own = FlowOf(descent, rtol=1e-8)(net, data, key, observe=observe, save_at=[0.0, end], progress=False)
    flow = gradient_flow(net, data, end, observe=observe, save_at=[0.0, end], **_EXACT)
    theory = drift(net, data, rate, end) if optimizer == "gd" and problem.activation == "identity" else jnp.nan
    at_end = lambda value: jnp.full(len(run.times), value)
    errors = {
        OPTIMIZER: run.observed["relative_error"],
        ITS_FLOW: own.observed["relative_error"],
        GRADIENT_FLOW: flow.observed["relative_error"],
        FIRST_ORDER: at_end(theory),
    }
    distances = {name: at_end(_distance(run.net, each.net)) for name, each in ((ITS_FLOW, own), (GRADIENT_FLOW, flow))}
    return dataclasses.replace(run, observed={"error": errors, "distance": distances})


def drift(net: nets.MLP, data: Dataset, rate: Any, end: float) -> Float[Array, ""]:
    """The error of the ansatz of gradient descent to first order in its learning rate, for a balanced linear network.

    It is η ‖d/dη (NFM/‖NFM‖ − P/‖P‖)‖ along the modified flow, at η = 0, where the difference is zero.
    """

    options: Any = {"observe": {"defect": _defect}, "save_at": [end]} | _EXACT
    flow = lambda eta: gradient_flow(net, data, end, dynamics=dynamics.Modified(eta), **options)
    final = lambda eta: flow(eta).observed["defect"][-1]  # a `def` is another function where types are checked
    zero = jnp.zeros((), net.weights[0].dtype)
    return rate * jnp.linalg.norm(jax.jvp(final, (zero,), (jnp.ones_like(zero),))[1])


def _defect(net: nets.MLP, data: Dataset) -> Float[Array, "d d"]:
    """NFM/‖NFM‖ − P/‖P‖ with P = AGOP^{1/L} of a linear network."""
    W, (A, _) = net.weights[0], net.affine()
    N, P = W.T @ W, gram_power(A, jnp.asarray(1 / net.depth, A.dtype), jnp.ones((), A.dtype))
    return N / jnp.linalg.norm(N) - P / jnp.linalg.norm(P)


def _distance(net: nets.MLP, other: nets.MLP) -> Float[Array, ""]:
    """Of all parameters, relative to those of the other."""
    a, b = (ravel_pytree(each.weights)[0] for each in (net, other))
    return jnp.linalg.norm(a - b) / jnp.linalg.norm(b)


def _derive(runs: Runs) -> Runs:
    """Add how far the error of each flow, and of the theory, is from that of the optimizer, relative to it."""
    error = lambda name: runs[f"error.{name}_at_end"]
    off = {f"off.{name}": abs(error(name) / error(OPTIMIZER) - 1) for name in (ITS_FLOW, FIRST_ORDER)}
    return runs.assign(off)


_SMALLEST = 0.25  # fraction
_EXAMPLE = "linear, L = 3"
_GD, _MOMENTUM, _ADAM, _ = OPTIMIZERS.values()
_FLOW_AT_END = f"error.{ITS_FLOW}_at_end"


def _linear(problems: Any) -> Any:
    return problems.isin(LINEAR)


def _off(optimizer: Optimizer, limit: float, name: str = ITS_FLOW) -> AtMost:
    expected = f"within {{}} of the error after {OPTIMIZERS[optimizer]}, η = {_SMALLEST * _LARGEST[optimizer]:g}"
    of = {"optimizer": OPTIMIZERS[optimizer], "problem": _linear, "fraction": _SMALLEST}
    return AtMost(f"off.{name}", limit, expected, of=of, each="problem")


def _approach(optimizer: Optimizer, name: str, power: float, within: float) -> PowerLaw:
    of = {"optimizer": OPTIMIZERS[optimizer], "problem": _linear}
    return PowerLaw(f"distance.{name}_at_end", "fraction", power, within, of=of, each="problem")


class _AgainstRate(AtEnd):
    """Against the learning rate, both logarithmic."""

    def _finish(self, ax: Axes, runs: Runs, against: str, xlabel: str) -> None:
        rates = runs[against].values
        ax.set(xscale="log", yscale="log")
        ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
        ax.set_xticks([], minor=True)
        super()._finish(ax, runs, against, xlabel)


_panel = partial(_AgainstRate, against="fraction", hue="optimizer")
_error = partial(_panel, f"error.{OPTIMIZER}", label=ERROR_AT.format("1/L"))
_apart = partial(_panel, label="relative distance of all parameters")

OPTIMIZER_FLOWS = Experiment(
    "optimizer-flows",
    "Do optimizers leave the ansatz by the length of their steps, or by the equation that they follow?",
    axes={
        "problem": looped(PROBLEMS, [_EXAMPLE], [_EXAMPLE]),
        "optimizer": looped({label: name for name, label in OPTIMIZERS.items()}, [_GD, _ADAM], [_GD, _ADAM]),
        "fraction": looped([1.0, 0.5, _SMALLEST], [0.5, _SMALLEST], label="learning rate / the largest one"),
        "seed": seeds(8),
    },
    one_run=one_run,
    derive=_derive,
    panels=[
        [
            _error(of={"problem": name}, law=f"error.{ITS_FLOW}", theory="its own flow", title=name)
            for name in (_EXAMPLE, DIGITS, TANH)
        ],
        [
            _error(
                of={"problem": _EXAMPLE, "optimizer": [_GD]},
                law=f"error.{FIRST_ORDER}",
                theory="first order in $\\eta$",
                title=f"{_EXAMPLE}: gradient descent",
            ),
            _apart(
                f"distance.{GRADIENT_FLOW}",
                of={"problem": _EXAMPLE, "optimizer": [_GD, _MOMENTUM]},
                law=Slope(1.0),
                theory="slope 1",
                title=f"{_EXAMPLE}: from gradient flow",
            ),
            _apart(
                f"distance.{ITS_FLOW}",
                of={"problem": _EXAMPLE},
                law=Slope(2.0),
                theory="slope 2",
                title=f"{_EXAMPLE}: from its own flow",
            ),
        ],
    ],
    claims={
        "GD, {problem}: error of the ansatz after its modified flow": _off("gd", 0.02),
        "GD, {problem}: error of the ansatz to first order in η": _off("gd", 0.02, FIRST_ORDER),
        "SGD momentum, {problem}: error of the ansatz after its flow": _off("momentum", 0.005),
        "Adam, {problem}: error of the ansatz after its flow": _off("adam", 0.005),
        "AdamW, {problem}: error of the ansatz after its flow": _off("adamw", 0.005),
        "GD, {problem}: distance from gradient flow ∝ η": _approach("gd", GRADIENT_FLOW, 1.0, 0.1),
        "GD, {problem}: distance from its modified flow ∝ η²": _approach("gd", ITS_FLOW, 2.0, 0.1),
        "SGD momentum, {problem}: distance from gradient flow ∝ η": _approach("momentum", GRADIENT_FLOW, 1.0, 0.1),
        "SGD momentum, {problem}: distance from its flow ∝ η²": _approach("momentum", ITS_FLOW, 2.0, 0.3),
        "Adam's flow, {problem}, smallest η: error of the ansatz": Reported(
            _FLOW_AT_END, of={"optimizer": _ADAM, "fraction": _SMALLEST}, each="problem"
        ),
    },
    seconds=(60, 400),
)
