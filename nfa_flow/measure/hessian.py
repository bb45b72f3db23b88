"""The largest eigenvalues of the Hessian."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from ..checks import require_integer, require_number, wrong
from ..data import Dataset
from ..numerics.blas import on_one_blas_thread
from ..numerics.lanczos import largest_eigenvalues
from ..numerics.precision import at_least_single
from ..problem.losses import Loss
from ..problem.objective import AbstractObjective, Mobility
from ..problem.sharpness import hessian_product
from ..run.observation import AbstractRunObservable
from .sharpness import by_hand


class HessianEigenvalues(AbstractRunObservable):
    """The `count` algebraically largest eigenvalues of the Hessian ∇²(ℒ + (λ/2)‖θ‖²), decreasing, by block Lanczos.

    With mobilities m they are those of √m H √m. As an observable of a run they are those of the run's own loss, weight
    decay and mobilities.
    An eigenvalue comes as often as its multiplicity. One that could not be resolved to `rtol` is NaN.
    Of an untrained relu network 20-64-64-1 (Gaussian weights over √fan_in) on 500 Gaussian samples of a linear teacher
    the largest three are 11.7 ± 1.8, 2.1 ± 0.3 and 1.9 ± 0.3 (64 draws).

    **Arguments:** `count`: how many, at most the number of parameters, static; `rtol`: the residual of each Ritz pair
    relative to its value, or to a thousandth of the largest magnitude for smaller ones: an eigenvalue is that close,
    usually far closer. It keeps 12 × `count` vectors of the size of the parameters.
    **Raises:** ValueError naming `count` or `rtol`.
    **Source:** Ghorbani, Krishnan & Xiao 2019 (spectra along training); Wu & Simon 2000 (thick restarts).
    """

    count: int = eqx.field(static=True)
    rtol: float = 1e-3

    def __check_init__(self):
        require_integer("count", self.count, at_least=1)
        require_number("rtol", self.rtol, above=0)

    def __call__(
        self,
        net: Any,
        data: Dataset,
        *,
        loss: Loss | None = None,
        weight_decay: float | Float[Array, ""] = 0.0,
        mobility: Mobility | None = None,
    ) -> Float[Array, " count"]:
        """The eigenvalues for a network on data in a call by hand; arguments as of `Sharpness`."""
        return _eigenvalues(*by_hand(net, data, loss, weight_decay, mobility), self.count, self.rtol)

    def of_run(
        self, objective: AbstractObjective, parameters: PyTree, known: Mapping[str, Array]
    ) -> Float[Array, " count"]:
        return _eigenvalues(*at_least_single((objective, parameters)), self.count, self.rtol)


@on_one_blas_thread
@eqx.filter_jit
@jax.default_matmul_precision("highest")  # a GPU would otherwise multiply float32 in TF32, with three digits
def _eigenvalues(objective: AbstractObjective, parameters: PyTree, count: int, rtol: float) -> Float[Array, " count"]:
    product, size, dtype = hessian_product(objective, parameters)
    if count > size:
        raise wrong("count", f"at most the number of parameters, {size}", count)
    start = jax.random.normal(jax.random.key(0), (count, size), dtype)
    return largest_eigenvalues(product, start, rtol).values
