"""The sharpness of an objective: the largest eigenvalue of its Hessian."""

from collections.abc import Callable

import jax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, DTypeLike, Float, PyTree

from ..numerics.lanczos import largest_eigenvalue
from ..numerics.switches import usual_promotion
from .objective import AbstractObjective


@usual_promotion()
def sharpness_of(objective: AbstractObjective, parameters: PyTree, rtol: float) -> Float[Array, ""]:
    """The largest eigenvalue of the Hessian, up to a residual of `rtol` relative to it."""
    product, size, dtype = hessian_product(objective, parameters)
    start = jax.random.normal(jax.random.key(0), (size,), dtype)
    return largest_eigenvalue(product, start, rtol).value


def hessian_product(
    objective: AbstractObjective, parameters: PyTree
) -> tuple[Callable[[Float[Array, " p"]], Float[Array, " p"]], int, DTypeLike]:
    """v → Hv for the Hessian H of the objective, on vectors of all parameters; their number and dtype."""
    theta, unravel = ravel_pytree(parameters)
    gradient = lambda v: ravel_pytree(objective.gradient(unravel(v)))[0]
    return lambda v: jax.jvp(gradient, (theta,), (v,))[1], theta.size, theta.dtype
