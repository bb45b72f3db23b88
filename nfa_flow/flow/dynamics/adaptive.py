"""The flows of optimizers that divide by the root of averaged squared gradients: RMSProp, Adam and AdamW.

Bias correction divides an average m by what the same average of the constant 1 would be. So that average, c, is part of
the memory: dm/dk = a(g − m), dc/dk = a(1 − c), m̂ = m/c, after k = t/η steps and with a from `averages`. Without bias
correction c is 1 from the start.
"""

import abc
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...checks import require_flag, require_number
from ...problem.objective import AbstractObjective
from . import averages
from .abstract import AbstractDynamics

Number = float | Float[Array, ""]


class Moments(NamedTuple):
    """Averages of gradients, of their squares, and of the constant 1 in the same way."""

    m: PyTree
    v: PyTree
    c_m: Float[Array, ""]
    c_v: Float[Array, ""]


class _Adaptive(AbstractDynamics):
    """dθ/dt = −(m̂/√v̂ + λθ)(1 + ηλ/2), its root with an addend; one step takes the time η.

    The second factor is that of a step of length η instead of a continuous decay, to first order in η.
    """

    learning_rate: eqx.AbstractVar[Number]

    rule: ClassVar[str | None] = "adam"

    @property
    def time_per_step(self) -> Any:
        """η."""
        return self.learning_rate

    @property
    @abc.abstractmethod
    def betas(self) -> tuple[Any, Any]:
        """β of the averages of gradients and of squared gradients."""

    @property
    def decay(self) -> Any:
        """λ of a decay that is not part of the gradient."""
        return 0.0

    @abc.abstractmethod
    def root(self, v: Array) -> Array:
        """What the averaged gradient is divided by."""

    def first_squares(self, g: Array, share: Any) -> Array:
        """v at the start."""
        return share * g**2

    def first_count(self, share: Any) -> Any:
        """c of the squares at the start."""
        return share

    def start(self, objective: AbstractObjective, parameters: PyTree) -> Moments:
        """The averages after half a step."""
        g = objective.gradient(parameters)
        p, q = map(averages.first_share, self.betas)
        number = lambda value: jnp.asarray(value, jnp.result_type(*jax.tree.leaves(g)))
        v = jax.tree.map(lambda g: self.first_squares(g, q), g)
        return Moments(jax.tree.map(lambda g: p * g, g), v, number(p), number(self.first_count(q)))

    def velocity(self, objective: AbstractObjective, parameters: PyTree, memory: Moments) -> tuple[PyTree, Moments]:
        """−(m̂/√v̂ + λθ)(1 + ηλ/2), and the rates at which the averages change."""
        g, c_m, c_v = objective.gradient(parameters), memory.c_m, memory.c_v
        a, b = (averages.rate(beta) / self.learning_rate for beta in self.betas)
        length = 1 + self.learning_rate * self.decay / 2
        move = lambda p, m, v: -length * (m / c_m / self.root(v / c_v) + self.decay * p)
        further = Moments(
            jax.tree.map(lambda g, m: a * (g - m), g, memory.m),
            jax.tree.map(lambda g, v: b * (g**2 - v), g, memory.v),
            a * (1 - c_m),
            b * (1 - c_v),
        )
        return jax.tree.map(move, parameters, memory.m, memory.v), further


class RMSProp(_Adaptive):
    """The flow of `optax.rmsprop(learning_rate, decay, eps, initial_scale, eps_in_sqrt, bias_correction)`.

    dθ/dt = −m/√(v + eps), or −m/(√v + eps), where v is the average of squared gradients and m that of the last step.
    One step is the time η.

    **Source:** Tieleman & Hinton 2012; Ma, Wu & E 2022 (its flow); the times of averages as in
    `nfa_flow.flow.dynamics.averages`.
    """

    learning_rate: Number
    # TODO
