"""How the initial weights and the learning rate of each layer depend on the width n of a network.

In an abc-parametrization layer l has the weights W_l = n^{−a_l} w_l, where the w_l are trained: their initial entries
have the standard deviation n^{−b_l}, their learning rate is η n^{−c_l}. An `MLP` contains the W_l themselves, for which
this means

    std_l = n^{−(a_l + b_l)},   dW_l/dt = −m_l ∇_{W_l} ℒ with the mobility m_l = n^{−(2a_l + c_l)},

and, for Adam, whose steps do not depend on the size of a gradient, the learning rate η n^{−(a_l + c_l)}.

**Source:** Yang & Hu 2021 (Tensor Programs IV), section 3; for Adam Yang & Littwin 2023 (Tensor Programs IVb).
"""

import abc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import DTypeLike, PRNGKeyArray

from ..checks import require_choice, require_integer, require_number, wrong
from .initialization import Weights

Rule = Literal["sgd", "adam"]
RULES = ("sgd", "adam")

_SAME = 1e-9  # exponents that differ by less are equal: a shift by a third rounds


class Effective(NamedTuple):
    """The effect of a parametrization on the weights W_1 … W_L themselves, one number per layer.

    `std`: the standard deviation of the initial entries; `mobility`: the factor of the learning rate.
    """

    std: tuple[float, ...]
    mobility: tuple[float, ...]


class AbstractParametrization(abc.ABC):
    """The initial weights and the learning rates of the layers of an `MLP`, as functions of its widths.

    `is_stable` and `learns_features` are about the limit n → ∞ after a fixed number of steps, or at a fixed time.
    `name` is for figures; `rule` is the training method: "sgd", also for gradient flow and momentum, or "adam".

    **Source:** Yang & Hu 2021, section 3 (stability, the dichotomy of features and kernels); Yang & Littwin 2023.
    """

    name: str
    rule: Rule

    @abc.abstractmethod
    def effective(self, widths: Sequence[int]) -> Effective:
        """Standard deviations and mobilities of the layers.

        **Arguments:** `widths`: (inputs, hidden widths …, outputs), with one hidden layer at least.
        **Returns:** an `Effective` of len(widths) − 1 numbers each.
        **Raises:** ValueError naming `widths`.
        """

    @abc.abstractmethod
    def bias_mobility(self, widths: Sequence[int]) -> tuple[float, ...]:
        """The mobilities of the biases, which are zero at the start; arguments as in `effective`.

        A bias is the weight of one more input that is always 1, and follows the rule of the input layer.

        **Source:** Yang et al. 2022 (Tensor Programs V), Table 3.
        """

    @property
    @abc.abstractmethod
    def exponents(self) -> "ABC":
        """The exponents of n, for constant numbers of inputs and outputs."""

    @property
    def r(self) -> float:
        """A step changes the features of the last hidden layer by Θ(n^{−r}): by the largest effect of its layers.

        For SGD r = min(a_L + b_L, 2a_L + c_L) − 1 + min_l(2a_l + c_l + [l = 1]) over the layers l < L; for Adam, which
        does not depend on the size of gradients, r = min_l(a_l + c_l + [l = 1]) − 1.
        """
        return min(self.exponents.update_exponents[:-1])

    @property
    def is_stable(self) -> bool:
        """Whether activations neither vanish nor blow up at the start, and nothing blows up later.

        a_1 + b_1 = 0; a_l + b_l = ½ between hidden layers; a_L + b_L ≥ ½; r ≥ 0; a_L + b_L + r ≥ 1; 2a_L + c_L ≥ 1, or
        a_L + c_L ≥ 1 for Adam.
        """
        first, *between, last = self.exponents.std_exponents
        starts = abs(first) < _SAME and all(abs(sigma - 0.5) < _SAME for sigma in between)
        bounded = ((last, 0.5), (self.r, 0.0), (last + self.r, 1.0), (self.exponents.update_exponents[-1], 0.0))
        return starts and all(value > bound - _SAME for value, bound in bounded)

    @property
    def learns_features(self) -> bool:
        """Whether it is stable with r = 0. Stable with r > 0 means training as a kernel method, or none."""
        return self.is_stable and abs(self.r) < _SAME

    def draw(self, key: PRNGKeyArray, widths: tuple[int, ...], dtype: DTypeLike) -> Weights:
        """Normal weights of these standard deviations; arguments as in an initialization."""
        keys, std = jax.random.split(key, len(widths) - 1), self.effective(widths).std
        return tuple(
            jnp.asarray(s, dtype) * jax.random.normal(k, (fan_out, fan_in), dtype)
            for k, s, fan_out, fan_in in zip(keys, std, widths[1:], widths[:-1], strict=True)
        )


@dataclass(frozen=True)
class ABC(AbstractParametrization):
    """The exponents a, b, c of the layers: input, hidden …, output.

    Three entries mean the input layer, every hidden-to-hidden layer and the output layer, for any depth; any other
    number of entries means that number of layers. All hidden layers have the width n. The initial weights of the first
    layer also have the factor 1/√inputs.

    **Arguments:** `a`, `b`, `c`: sequences of numbers; `rule`: the optimizer that the exponents c are for; `name`: in
    figures.
    **Raises:** ValueError naming the argument.
    """

    a: Sequence[float | int]
    b: Sequence[float | int]
    c: Sequence[float | int]
    rule: Rule = "sgd"
    name: str = "abc"

    def __post_init__(self):
        require_choice("rule", self.rule, RULES)
        for argument in ("a", "b", "c"):
            values = getattr(self, argument)
            if not isinstance(values, Sequence) or len(values) < 2:
                raise wrong(argument, "a sequence of exponents, of two layers at least", repr(values))
            if len(values) != len(self.a):
                raise wrong(argument, f"of as many layers as `a`, {len(self.a)}", f"of {len(values)}")
            for value in values:
                require_number(argument, value)
            object.__setattr__(self, argument, tuple(float(value) for value in values))

    @property
    def exponents(self) -> "ABC":
        return self

    @property
    def std_exponents(self) -> tuple[float, ...]:
        """a_l + b_l: the initial entries are of size n to the power −(a_l + b_l)."""
        return tuple(a + b for a, b in zip(self.a, self.b, strict=True))

    @property
    def mobility_exponents(self) -> tuple[float, ...]:
        """2a_l + c_l, or a_l + c_l for Adam."""
        weight = 2 if self.rule == "sgd" else 1
        return tuple(weight * a + c for a, c in zip(self.a, self.c, strict=True))

    @property
    def update_exponents(self) -> tuple[float, ...]:
        """r_l such that in a step ‖ΔW_l‖/√(fan_out/fan_in), a layer's own effect on its output, is Θ(n^{−r_l}).

        Gradients with respect to activations are Θ(n^{−min(a_L + b_L, 2a_L + c_L)}), and an update of low rank adds up
        over the fan-in.
        """
        first, *between, last = self.mobility_exponents
        gradient = min(self.std_exponents[-1], last) if self.rule == "sgd" else 0.0
        return (first + gradient, *(mu + gradient - 1 for mu in between), last - 1)

    def at_depth(self, depth: int) -> "ABC":
        """The exponents of a network of `depth` layers (two have no hidden-to-hidden layer), one entry per layer.

        **Raises:** ValueError naming `depth` if the exponents are those of another number of layers.
        """
        require_integer("depth", depth, at_least=2)
        if depth == len(self.a):
            return self
        if len(self.a) != 3:
            raise wrong("depth", f"{len(self.a)}, the number of layers that the exponents are given for", depth)
        spread = lambda each: (each[0], *[each[1]] * (depth - 2), each[2])
        return replace(self, a=spread(self.a), b=spread(self.b), c=spread(self.c))

    def shift(self, theta: float | int | Sequence[float | int]) -> "ABC":
        """(a + θ, b − θ, c − 2θ), or c − θ for Adam: other exponents of the same network and the same training.

        **Arguments:** `theta`: one θ for all layers, or one per entry.
        **Raises:** ValueError naming `theta`.
        **Source:** Yang & Hu 2021, section 3; Yang & Littwin 2023.
        """
        thetas = tuple(theta) if isinstance(theta, Sequence) else (theta,) * len(self.a)
        if len(thetas) != len(self.a):
            raise wrong("theta", f"one number, or one for each of {len(self.a)} layers", f"{len(thetas)} numbers")
        for each in thetas:
            require_number("theta", each)
        pull = 2 if self.rule == "sgd" else 1
        moved = lambda values, factor: tuple(v + factor * t for v, t in zip(values, thetas, strict=True))
        return replace(self, a=moved(self.a, 1), b=moved(self.b, -1), c=moved(self.c, -pull))

    def effective(self, widths: Sequence[int]) -> Effective:
        require_layers(self.name, widths)
        if len(set(widths[1:-1])) > 1:
            raise wrong("widths", f"equal in all hidden layers for {self.name} (`Spectral` takes any)", list(widths))
        n, own = float(widths[1]), self.at_depth(len(widths) - 1)
        first, *others = (n**-sigma for sigma in own.std_exponents)
        return Effective((first / widths[0] ** 0.5, *others), tuple(n**-mu for mu in own.mobility_exponents))

    def bias_mobility(self, widths: Sequence[int]) -> tuple[float, ...]:
        """The mobility of the input layer's weights; 1 at the outputs, whose number does not grow."""
        return (self.effective(widths).mobility[0],) * (len(widths) - 2) + (1.0,)


def require_layers(name: str, widths: Sequence[int]) -> None:
    """Raise unless these are the widths of a network with a hidden layer."""
    if len(widths) < 3:
        raise wrong("widths", f"(inputs, hidden widths …, outputs) for {name}", list(widths))
    for width in widths:
        require_integer("widths", width, at_least=1)
