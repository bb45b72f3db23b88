"""Sharpness: the largest eigenvalue of the Hessian."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from ..checks import require_number
from ..data import Dataset
from ..numerics.precision import at_least_single
from ..problem.losses import Loss
from ..problem.objective import AbstractObjective, Mobility, make_objective, own_mobility
from ..problem.sharpness import sharpness_of
from ..run.observation import AbstractRunObservable, loss_or_default

_ROUGH = 0.05
_sharpness = eqx.filter_jit(jax.default_matmul_precision("highest")(sharpness_of))


class Sharpness(AbstractRunObservable):
    """The largest eigenvalue of the Hessian ∇²(ℒ + (λ/2)‖θ‖²) over all parameters, by Lanczos.

    With mobilities m it is that of √m H √m, whose eigenvalues are the rates of the flow. As an observable of a run it
    takes the run's own loss, weight decay and mobilities.

    **Arguments:** `rtol`: the residual of the Ritz pair relative to its value, within which there is an eigenvalue;
    the value itself is usually far closer. From 0.05 on, a solver that estimates it anyway (`RKC2`, `TSRKC3`) hands
    over its latest estimate at no cost, up to eight of its steps old.
    **Source:** Cohen et al. 2021 (sharpness along training); Parlett, The Symmetric Eigenvalue Problem, ch. 13.
    """

    rtol: float = 0.01

    def __check_init__(self):
        require_number("rtol", self.rtol, above=0)

    def __call__(
        self,
        net: Any,
        data: Dataset,
        *,
        loss: Loss | None = None,
        weight_decay: float | Float[Array, ""] = 0.0,
        mobility: Mobility | None = None,
    ) -> Float[Array, ""]:
        """The sharpness of a network on data, a scalar, in a call by hand.

        **Arguments:** `loss`, `weight_decay`, `mobility`: as in `gradient_flow`, of "mse", 0 and the mobilities of the
        network's own parametrization by default.
        """
        return _sharpness(*by_hand(net, data, loss, weight_decay, mobility), self.rtol)

    def of_run(self, objective: AbstractObjective, parameters: PyTree, known: Mapping[str, Array]) -> Float[Array, ""]:
        if "sharpness" in known and self.rtol >= _ROUGH:
            return known["sharpness"]
        return sharpness_of(*at_least_single((objective, parameters)), self.rtol)


def by_hand(
    net: Any, data: Dataset, loss: Loss | None, weight_decay: float | Float[Array, ""], mobility: Mobility | None
) -> tuple[AbstractObjective, PyTree]:
    """The objective and the parameters of a call by hand, in single precision at least."""
    mobility = own_mobility(net) if mobility is None else mobility
    parameters, objective = make_objective(net, data, loss_or_default(loss), weight_decay, mobility=mobility)
    return at_least_single((objective, parameters))
