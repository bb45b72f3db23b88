"""The flow of a network whose kinks are rounded off: an independent check of the flow across kinks."""

import dataclasses
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...checks import require_number
from ...problem.objective import SampleObjective
from ..kinks.gates import gated, rounded
from .flow_solver import objective_of
from .ndf import NDF

_FINER = 10.0


class Smoothed(NDF):
    """`NDF` on the flow of a network with smooth kinks: relu becomes softplus(βz)/β, other kinks likewise.

    As β grows, its trajectory tends to that of the network with kinks, also where that one slides, with an error that
    falls as 1/β. It knows nothing of events, so it is an independent check of `Piecewise`. `certify=True`
    measures its error by a second run at 10 β and a tenth of the tolerances.

    **Arguments:** `beta`: β > 0, in units of one over pre-activations.
    """

    beta: float | Float[Array, ""] = eqx.field(kw_only=True, default=1e4)

    def __check_init__(self):
        require_number("beta", self.beta, above=0)

    def func(self, terms: Any, t0: Any, y0: PyTree, args: Any) -> PyTree:
        return super().func(self._rounded(terms), t0, y0, args)

    def init(self, terms: Any, t0: Any, t1: Any, y0: PyTree, args: Any) -> Any:
        return super().init(self._rounded(terms), t0, t1, y0, args)

    def step(self, terms: Any, t0: Any, t1: Any, y0: PyTree, args: Any, solver_state: Any, made_jump: Any) -> Any:
        return super().step(self._rounded(terms), t0, t1, y0, args, solver_state, made_jump)

    def finer(self) -> "Smoothed":
        return dataclasses.replace(self, beta=_FINER * self.beta)

    def loss_and_gradient(
        self, objective: SampleObjective, state: Any, parameters: PyTree
    ) -> tuple[Float[Array, ""], PyTree]:
        """Those of the smooth network."""
        loss, gradient = jax.value_and_grad(self._loss, argnums=1)(objective, parameters)
        return loss, objective.with_decay(gradient, parameters)

    def _rounded(self, terms: Any) -> diffrax.ODETerm:
        objective = objective_of(terms)
        gradient = lambda parameters: self.loss_and_gradient(objective, None, parameters)[1]
        return diffrax.ODETerm(lambda t, y, args: jax.tree.map(jnp.negative, gradient(y)))

    def _loss(self, objective: SampleObjective, parameters: PyTree) -> Float[Array, ""]:
        one = lambda parameters, x, target: objective.loss_function(objective.net(parameters)(x), target)
        losses = jax.vmap(lambda x, y: gated(one, rounded(self.beta), parameters, x, y)[0])(
            objective.data.x, objective.data.y
        )
        return jnp.mean(losses) if objective.data.weight is None else objective.data.weight @ losses
