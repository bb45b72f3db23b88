"""Updates of a given spectral norm, for any size of the gradient."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ..checks import wrong
from ..numerics.lanczos import largest_eigenvalue
from ..numerics.switches import full_precision

# Of the squared norm; where the largest singular value is apart from the others, the error is its square.
_RTOL = 1e-5


def normalize_by_spectral_norm() -> optax.GradientTransformation:
    """Give each weight matrix an update of the spectral norm √(fan_out/fan_in), in the direction of its gradient.

        optax.chain(nf.nets.normalize_by_spectral_norm(), optax.sgd(0.1))

    ΔW = −η √(fan_out/fan_in) G/‖G‖_* satisfies the spectral condition in every layer, at every step and width. A
    vector, such as a bias, counts as a matrix of fan-in 1. Zero stays zero. The norm is found by Lanczos iteration, at
    the cost of some dozen products with the matrix, to a relative error of 1e-5 if singular values are close to each
    other, and far better otherwise.

    **Returns:** an optax transformation without a state. Matrices are fan_out × fan_in, as in `eqx.nn.Linear`.
    **Raises:** ValueError naming `net`, at its first use, for arrays that are neither matrices nor vectors.
    **Source:** Yang, Simon & Bernstein 2023, section on spectral normalization.
    """
    return optax.stateless(lambda updates, params=None: jax.tree.map(_normalized, updates))


def _normalized(G: Float[Array, "..."]) -> Float[Array, "..."]:
    if G.ndim not in (1, 2):
        raise wrong("net", "of matrices and vectors, for spectral norms", f"with an array of shape {G.shape}")
    fan_out, fan_in = G.shape if G.ndim == 2 else (*G.shape, 1)
    largest = jnp.max(jnp.abs(G))
    unit = G / jnp.where(largest > 0, largest, 1)  # of entries whose squares neither vanish nor overflow
    norm = _spectral_norm(unit) if G.ndim == 2 else jnp.linalg.norm(unit)
    return (fan_out / fan_in) ** 0.5 * unit / jnp.where(norm > 0, norm, 1)


@full_precision
def _spectral_norm(W: Float[Array, "p q"]) -> Float[Array, ""]:
    narrow = W if W.shape[0] <= W.shape[1] else W.T
    start = jax.random.normal(jax.random.key(0), (narrow.shape[0],), W.dtype)
    return jnp.sqrt(largest_eigenvalue(lambda v: narrow @ (narrow.T @ v), start, _RTOL).value)
