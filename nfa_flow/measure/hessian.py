"""The Hessian of the objective of a network: its largest eigenvalues, and the largest of all, the sharpness."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from ..checks import require_integer, require_number, wrong
from ..data import Dataset
from ..numerics.kernel import kernel
from ..numerics.lanczos import largest_eigenvalue, largest_eigenvalues
from ..numerics.precision import at_least_single
from ..numerics.switches import usual_promotion
from ..problem.losses import Loss, loss_or_default
from ..problem.mobility import Mobility, own_mobility
from ..problem.objective import AbstractObjective, make_objective
from ..problem.trained import Trainable
from ..run.observation import AbstractRunObservable
from ..run.trees import constant

_ROUGH = 0.05


class _OfHessian(AbstractRunObservable):
    """An observable of the Hessian of what a run minimizes; in a direct call, of what the arguments say."""

    def __call__(
        self,
        net: Any,
        data: Dataset,
        *,
        loss: Loss | None = None,
        weight_decay: float | Float[Array, ""] = 0.0,
        mobility: Mobility | None = None,
        trainable: Trainable | None = None,
    ) -> Float[Array, "..."]:
        """The value for a network on data, in a direct call.

        **Arguments:** `loss`, `weight_decay`, `mobility`, `trainable`: as in `gradient_flow`; by default "mse", 0, the
        mobilities of the network's own parametrization and all arrays.
        """
        mobility = own_mobility(net) if mobility is None else mobility
        loss = loss_or_default(loss)
        parameters, objective = make_objective(net, data, loss, weight_decay, trainable=trainable, mobility=mobility)
        return self.of_run(objective, parameters, {})


class Sharpness(_OfHessian):
    """The largest eigenvalue of the Hessian ∇²(ℒ + (λ/2)‖θ‖²) over all trained parameters, by Lanczos.

    With mobilities m it is that of √m H √m, whose eigenvalues are the rates of the flow. As an observable of a run it
    uses the run's loss, weight decay, mobilities and trained parameters.

    **Arguments:** `rtol`: the residual of the Ritz pair relative to its value: there is an eigenvalue within this
    distance, and usually the error is far smaller. With `rtol` ≥ 0.05 the latest estimate of the solver is used at no
    cost if the solver has one (`RKC2`, `TSRKC3`); it is up to eight steps old.
    **Source:** Cohen et al. 2021 (sharpness along training); Parlett, The Symmetric Eigenvalue Problem, ch. 13.
    """

    rtol: float = 0.01

    def __check_init__(self):
        require_number("rtol", self.rtol, above=0)

    def of_run(self, objective: AbstractObjective, parameters: PyTree, known: Mapping[str, Array]) -> Float[Array, ""]:
        if "sharpness" in known and self.rtol >= _ROUGH:
            return known["sharpness"]
        return _sharpness(*at_least_single((objective, parameters)), self.rtol)


class HessianEigenvalues(_OfHessian):
    """The `count` algebraically largest eigenvalues of the Hessian ∇²(ℒ + (λ/2)‖θ‖²), decreasing, by block Lanczos.

    With mobilities m they are those of √m H √m. As an observable of a run they are those of the run's own loss, weight
    decay, mobilities and trained parameters. An eigenvalue appears as often as its multiplicity. It is NaN if it could
    not be computed to `rtol`. Of an untrained relu network 20-64-64-1 (Gaussian weights over √fan_in) on 500 Gaussian
    samples of a linear teacher the largest three are 11.7 ± 1.8, 2.1 ± 0.3 and 1.9 ± 0.3 (64 draws).

    **Arguments:** `count`: how many, at most the number of parameters, static; `rtol`: the residual of each Ritz pair
    relative to its value, or to a thousandth of the largest magnitude for smaller ones: there is an eigenvalue within
    this distance, and usually the error is far smaller. The memory is that of 12 × `count` vectors of parameters.
    **Raises:** ValueError naming `count` or `rtol`.
    **Source:** Ghorbani, Krishnan & Xiao 2019 (spectra along training); Wu & Simon 2000 (thick restarts).
    """

    count: int = eqx.field(static=True)
    rtol: float = 1e-3

    def __check_init__(self):
        require_integer("count", self.count, at_least=1)
        require_number("rtol", self.rtol, above=0)

    def of_run(
        self, objective: AbstractObjective, parameters: PyTree, known: Mapping[str, Array]
    ) -> Float[Array, " count"]:
        return _eigenvalues(*at_least_single((objective, parameters)), self.count, self.rtol)


@kernel
@usual_promotion()
def _sharpness(objective: AbstractObjective, parameters: PyTree, rtol: float) -> Float[Array, ""]:
    product, theta = _hessian(*constant((objective, parameters)))
    start = jax.random.normal(jax.random.key(0), theta.shape, theta.dtype)
    found = largest_eigenvalue(product, start, rtol)
    return _with_derivative(found.value, found.vector, objective, parameters)


@kernel
def _eigenvalues(objective: AbstractObjective, parameters: PyTree, count: int, rtol: float) -> Float[Array, " count"]:
    product, theta = _hessian(*constant((objective, parameters)))
    if count > theta.size:
        raise wrong("count", f"at most the number of parameters, {theta.size}", count)
    start = jax.random.normal(jax.random.key(0), (count, theta.size), theta.dtype)
    found = largest_eigenvalues(product, start, rtol)
    each = lambda pair: _with_derivative(pair[0], pair[1], objective, parameters)
    return jax.lax.map(each, (found.values, found.vectors))


def _with_derivative(
    value: Float[Array, ""], vector: Float[Array, " p"], objective: AbstractObjective, parameters: PyTree
) -> Float[Array, ""]:
    """An eigenvalue, with the derivative vᵀ(dH)v, which it has if it is simple."""
    product, _ = _hessian(objective, parameters)
    quotient = vector @ product(vector)
    return value + (quotient - jax.lax.stop_gradient(quotient))


def _hessian(
    objective: AbstractObjective, parameters: PyTree
) -> tuple[Callable[[Float[Array, " p"]], Float[Array, " p"]], Float[Array, " p"]]:
    """v → Hv on vectors of all parameters, and the parameters as such a vector."""
    theta, unravel = ravel_pytree(parameters)
    return lambda v: ravel_pytree(objective.hessian_product(parameters, unravel(v)))[0], theta
