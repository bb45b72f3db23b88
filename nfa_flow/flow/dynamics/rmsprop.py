"""The flow of RMSProp."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...checks import require_flag, require_number
from ...problem.objective import AbstractObjective
from . import averages
from .abstract import AbstractDynamics


class Squares(NamedTuple):
    """Averages of squared gradients, and of the constant 1 in the same way."""

    v: PyTree
    c: Float[Array, ""]


class RMSProp(AbstractDynamics):
    """dθ/dt = −(g + (η/2) H û)/√(v + eps), û = g/√(v + eps): the flow of `optax.rmsprop`.

    v is the average of squared gradients. The term with the Hessian is half a step's delay of the gradient, as in
    `Modified`, so that the distance from the optimizer is of the order η² with bias correction. Without it the first
    steps, in which v grows from `initial_scale`, leave a distance of the order η. One step is the time η. It has no
    mobilities.

    **Arguments:** those of `optax.rmsprop`, without `centered` and momentum: `initial_scale`: v before the first step;
    `eps_in_sqrt`: whether eps is added to v or to its root; `bias_correction`.

    **Source:** Tieleman & Hinton 2012; Ma, Wu & E 2022 (its equation, without the delay); the time of the average as in
    `nfa_flow.flow.dynamics.averages`.
    """

    learning_rate: float | Float[Array, ""]
    decay: float | Float[Array, ""] = 0.9
    eps: float | Float[Array, ""] = 1e-8
    initial_scale: float | Float[Array, ""] = 0.0
    eps_in_sqrt: bool = eqx.field(static=True, default=True)
    bias_correction: bool = eqx.field(static=True, default=False)

    stiff: ClassVar[bool] = True
    rule: ClassVar[str | None] = "adam"
    mobile: ClassVar[bool] = False

    def __check_init__(self):
        require_number("learning_rate", self.learning_rate, above=0)
        averages.require_average("decay", self.decay)
        require_number("eps", self.eps, above=0)
        require_number("initial_scale", self.initial_scale, at_least=0)
        require_flag("eps_in_sqrt", self.eps_in_sqrt)
        require_flag("bias_correction", self.bias_correction)

    @property
    def time_per_step(self) -> Any:
        """η."""
        return self.learning_rate

    def start(self, objective: AbstractObjective, parameters: PyTree) -> Squares:
        """The averages after half a step."""
        g, share = objective.gradient(parameters), averages.first_share(self.decay)
        v = jax.tree.map(lambda g: share * g**2 + (1 - share) * self.initial_scale, g)
        c = share if self.bias_correction else 1.0
        return Squares(v, jnp.asarray(c, jnp.result_type(*jax.tree.leaves(g))))

    def velocity(self, objective: AbstractObjective, parameters: PyTree, memory: Squares) -> tuple[PyTree, Squares]:
        """dθ/dt, and the rates at which the averages change."""
        g, b = objective.gradient(parameters), averages.rate(self.decay) / self.learning_rate
        within, beside = (self.eps, 0.0) if self.eps_in_sqrt else (0.0, self.eps)
        divided = lambda g, v: g / (averages.root(v / memory.c + within) + beside)
        delay = objective.hessian_product(parameters, jax.tree.map(divided, g, memory.v))
        half = self.learning_rate / 2
        moves = jax.tree.map(lambda g, Hu, v: -divided(g + half * Hu, v), g, delay, memory.v)
        return moves, Squares(jax.tree.map(lambda g, v: b * (g**2 - v), g, memory.v), b * (1 - memory.c))
