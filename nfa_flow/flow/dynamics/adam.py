"""The flows of Adam and AdamW.

Bias correction divides an average m by what the same average of the constant 1 would be. So that average, c, is part of
the memory: dm/dk = a(g − m), dc/dk = a(1 − c), m̂ = m/c, after k = t/η steps and with a from `averages`.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...checks import require_number
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


class _AdamLike(AbstractDynamics):
    """dθ/dt = −m̂/(√(v̂ + eps_root) + eps); one step takes the time η."""

    learning_rate: eqx.AbstractVar[Number]
    b1: eqx.AbstractVar[Number]
    b2: eqx.AbstractVar[Number]
    eps: eqx.AbstractVar[Number]
    eps_root: eqx.AbstractVar[Number]

    rule: ClassVar[str | None] = "adam"

    def __check_init__(self):
        require_number("learning_rate", self.learning_rate, above=0)
        averages.require_average("b1", self.b1)
        averages.require_average("b2", self.b2)
        require_number("eps", self.eps, above=0)
        require_number("eps_root", self.eps_root, at_least=0)

    @property
    def time_per_step(self) -> Any:
        """η."""
        return self.learning_rate

    def start(self, objective: AbstractObjective, parameters: PyTree) -> Moments:
        """The averages after half a step."""
        g = objective.gradient(parameters)
        p, q = averages.first_share(self.b1), averages.first_share(self.b2)
        number = lambda share: jnp.asarray(share, jnp.result_type(*jax.tree.leaves(g)))
        scaled = lambda g: (jax.tree.map(lambda g: p * g, g), jax.tree.map(lambda g: q * g**2, g))
        return Moments(*scaled(g), number(p), number(q))

    def velocity(self, objective: AbstractObjective, parameters: PyTree, memory: Moments) -> tuple[PyTree, Moments]:
        """dθ/dt, and the rates at which the averages change."""
        g, c_m, c_v = objective.gradient(parameters), memory.c_m, memory.c_v
        a, b = averages.rate(self.b1) / self.learning_rate, averages.rate(self.b2) / self.learning_rate
        move = lambda m, v: -(m / c_m) / (averages.root(v / c_v + self.eps_root) + self.eps)
        further = Moments(
            jax.tree.map(lambda g, m: a * (g - m), g, memory.m),
            jax.tree.map(lambda g, v: b * (g**2 - v), g, memory.v),
            a * (1 - c_m),
            b * (1 - c_v),
        )
        return jax.tree.map(move, memory.m, memory.v), further


class Adam(_AdamLike):
    """dθ/dt = −m̂/(√(v̂ + eps_root) + eps): the flow of `optax.adam(learning_rate, b1, b2, eps, eps_root)`.

    m̂ and v̂ are averages of gradients and of their squares, with bias correction. One step is the time η.

    **Source:** Kingma & Ba 2015; Barakat & Bianchi 2021 (its equation); the times of averages as in
    `nfa_flow.flow.dynamics.averages`.
    """

    learning_rate: Number
    b1: Number = 0.9
    b2: Number = 0.999
    eps: Number = 1e-8
    eps_root: Number = 0.0


class AdamW(_AdamLike):
    """dθ/dt = −(û + λθ)(1 + ηλ/2) with û of `Adam`: the flow of `optax.adamw(…, weight_decay=λ)`.

    The last factor makes a step of length η of a decay in continuous time, to the order η; mobilities are not in it, so
    with both, the distance from the optimizer is of the order η. One step is the time η.

    **Source:** Loshchilov & Hutter 2019; as for `Adam`.
    """

    learning_rate: Number
    b1: Number = 0.9
    b2: Number = 0.999
    eps: Number = 1e-8
    eps_root: Number = 0.0
    weight_decay: Number = 1e-4

    def __check_init__(self):
        require_number("weight_decay", self.weight_decay, at_least=0)

    def velocity(self, objective: AbstractObjective, parameters: PyTree, memory: Moments) -> tuple[PyTree, Moments]:
        """dθ/dt, and the rates at which the averages change."""
        moves, further = super().velocity(objective, parameters, memory)
        decay, length = self.weight_decay, 1 + self.learning_rate * self.weight_decay / 2
        return jax.tree.map(lambda move, p: length * (move - decay * p), moves, parameters), further
