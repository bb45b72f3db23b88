"""The sharpness of an objective: the largest eigenvalue of its Hessian."""

import jax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from .lanczos import largest_eigenvalue
from .objective import AbstractObjective


def sharpness_of(objective: AbstractObjective, parameters: PyTree, rtol: float) -> Float[Array, ""]:
    """The largest eigenvalue of the Hessian, up to a residual of `rtol` relative to it."""
    theta, unravel = ravel_pytree(parameters)
    gradient = lambda v: ravel_pytree(objective.gradient(unravel(v)))[0]
    product = lambda v: jax.jvp(gradient, (theta,), (v,))[1]
    start = jax.random.normal(jax.random.key(0), theta.shape, theta.dtype)
    return largest_eigenvalue(product, start, rtol).value
