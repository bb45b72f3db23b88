"""The usual parametrizations, by name.

In powers of the width n, for input, hidden and output layers (initial weights of the input layer also have the factor
1/√d):

| | start | mobility (SGD, flow) | Adam | |
|---|---|---|---|---|
| `SP` | 1, n^−½, n^−½ | 1/n, 1/n, 1/n | | kernel, r = ½ |
| `NTP` | 1, n^−½, n^−½ | 1, 1/n, 1/n | | kernel, r = ½ |
| `muP` | 1, n^−½, 1/n | n, 1, 1/n | 1, 1/n, 1/n | learns features, r = 0 |
| `MeanField` | 1, 1/n, 1/n | n, 1, 1/n | 1, 1/n, 1/n | of one hidden layer as muP, of more not stable |
| `Spectral` | min(1, √(fan_out/fan_in))/√fan_in | fan_out/fan_in | 1/fan_in | as muP |
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..checks import require_choice, wrong
from .parametrization import ABC, RULES, AbstractParametrization, Effective, Rule, require_layers


def SP() -> ABC:
    """The standard parametrization with the learning rate η/n, the largest stable one.

    **Source:** Yang & Hu 2021, section 3.
    """
    return ABC(a=(0, 0, 0), b=(0, 0.5, 0.5), c=(1, 1, 1), name="SP")


def NTP() -> ABC:
    """The neural tangent parametrization in the convention of Yang & Hu: the input layer has the learning rate η.

    Jacot, Gabriel & Hongler also divide the first layer by the root of its fan-in; its learning rate is then η/d for d
    inputs. That flow is `gradient_flow(net, data, t1, mobility=(1/d, 1/n, 1/n))`, with 1/fan_in for every layer.

    **Source:** Yang & Hu 2021, section 3; introduced by Jacot, Gabriel & Hongler 2018.
    """
    return ABC(a=(0, 0.5, 0.5), b=(0, 0, 0), c=(0, 0, 0), name="NTP")


def muP(rule: Rule = "sgd") -> ABC:
    """The maximal update parametrization: every layer learns features at the largest stable rate.

    **Arguments:** `rule`: "sgd", also for gradient flow, or "adam".
    **Source:** Yang & Hu 2021, section 5; for Adam Yang et al. 2022 (Tensor Programs V), Table 3.
    """
    require_choice("rule", rule, RULES)
    if rule == "adam":
        return ABC(a=(0, 0, 0), b=(0, 0.5, 1), c=(0, 1, 1), rule=rule, name="muP")
    return ABC(a=(-0.5, 0, 0.5), b=(0.5, 0.5, 0.5), c=(0, 0, 0), name="muP")


def MeanField(rule: Rule = "sgd") -> ABC:
    """The mean-field, or integrable, parametrization: muP with initial hidden weights of size 1/n.

    With one hidden layer it is muP. With more, initial activations vanish as n grows, which is not stable; in the
    limit, networks with more than four layers do not train at all.

    **Arguments:** `rule`: as in `muP`.
    **Source:** Mei, Montanari & Nguyen 2018 and Chizat & Bach 2018 (one hidden layer); Hajjar, Chizat & Giraud 2021
    (any depth).
    """
    start = muP(rule)
    a, b, c = start.a, start.b, start.c
    return ABC(a=a, b=(b[0], 1 - a[1], b[2]), c=c, rule=rule, name="MeanField")


@dataclass(frozen=True)
class Spectral(AbstractParametrization):
    """‖W_l‖ and ‖ΔW_l‖ of the order √(fan_out/fan_in) in the spectral norm: muP for layers of any widths.

    **Arguments:** `rule`: as in `muP`.
    **Source:** Yang, Simon & Bernstein 2023, Parametrization 1.
    """

    rule: Rule = "sgd"
    name: str = "Spectral"

    def __post_init__(self):
        require_choice("rule", self.rule, RULES)

    def effective(self, widths: Sequence[int]) -> Effective:
        require_layers(self.name, widths)
        fans = list(zip(widths[1:], widths[:-1], strict=True))
        std = tuple(min(1.0, (fan_out / fan_in) ** 0.5) / fan_in**0.5 for fan_out, fan_in in fans)
        return Effective(std, tuple((fan_out if self.rule == "sgd" else 1.0) / fan_in for fan_out, fan_in in fans))

    def bias_mobility(self, widths: Sequence[int]) -> tuple[float, ...]:
        """fan_out, or 1 for Adam: a bias is a layer of one input."""
        return tuple(float(fan_out) if self.rule == "sgd" else 1.0 for fan_out in widths[1:])

    @property
    def exponents(self) -> ABC:
        return muP(self.rule)


PARAMETRIZATIONS: dict[str, Callable[[], AbstractParametrization]] = {
    "SP": SP,
    "NTP": NTP,
    "muP": muP,
    "MeanField": MeanField,
    "Spectral": Spectral,
}


def resolve_parametrization(parametrization: AbstractParametrization | str) -> AbstractParametrization:
    """The parametrization with this name; a parametrization is returned as it is.

    **Raises:** ValueError naming `parametrization`.
    """
    if isinstance(parametrization, str):
        require_choice("parametrization", parametrization, PARAMETRIZATIONS)
        return PARAMETRIZATIONS[parametrization]()
    if not isinstance(parametrization, AbstractParametrization):
        raise wrong("parametrization", "a name or a parametrization such as `nf.nets.muP()`", repr(parametrization))
    return parametrization
