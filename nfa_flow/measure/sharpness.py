"""Sharpness: the largest eigenvalue of the Hessian."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float, PyTree

from ..data import Dataset
from ..losses import Loss
from ..objective import AbstractObjective, make_objective
from ..observation import AbstractRunObservable
from ..sharpness import sharpness_of


class Sharpness(AbstractRunObservable):
    """The largest eigenvalue of the Hessian ∇²(ℒ + (λ/2)‖θ‖²) over all parameters, by Lanczos.

    As an observable of a run it is that of the run's own loss and weight decay (and mobilities m: of √m H √m), and a
    solver that estimates it anyway (`RKC2`, `TSRKC3`) hands over its latest estimate at no cost.

    **Arguments:** `rtol`: the residual of the Ritz pair relative to its value, within which there is an eigenvalue;
    the value itself is usually far closer. The solvers' own estimates have a residual of 4 %.
    **Source:** Cohen et al. 2021 (sharpness along training); Parlett, The Symmetric Eigenvalue Problem, ch. 13.
    """

    rtol: float = 0.01

    def __call__(
        self, net: Any, data: Dataset, *, loss: Loss = "mse", weight_decay: float | Float[Array, ""] = 0.0
    ) -> Float[Array, ""]:
        """The sharpness of a network on data, a scalar."""
        parameters, objective = make_objective(net, data, loss, weight_decay)
        return self.of_run(objective, parameters, {})

    def of_run(self, objective: AbstractObjective, parameters: PyTree, known: Mapping[str, Array]) -> Float[Array, ""]:
        if "sharpness" in known:
            return known["sharpness"]
        return sharpness_of(objective, parameters, self.rtol)
