"""The largest eigenvalue of a symmetric operator that is known only by its products with vectors.

Lanczos: the extreme eigenvalues of an operator restricted to the Krylov space of a few products are close to its own.
The residual of the top Ritz pair says how close: some eigenvalue lies within it. A few short cycles, each starting
from the Ritz vector of the one before, keep only a handful of vectors.

Source: Golub & Van Loan, Matrix Computations, ch. 10; Parlett, The Symmetric Eigenvalue Problem, ch. 13.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_Product = Callable[[Float[Array, " p"]], Float[Array, " p"]]

_STEPS_PER_CYCLE = 5


class RitzPair(NamedTuple):
    """An approximate eigenvalue θ and unit eigenvector v of H, with ‖Hv − θv‖, and the largest ‖Hv‖ on the way."""

    value: Float[Array, ""]
    residual: Float[Array, ""]
    vector: Float[Array, " p"]
    size: Float[Array, ""]


class LargestEigenvalue(NamedTuple):
    """A Ritz pair at the upper end of the spectrum, and how many products it took."""

    value: Float[Array, ""]
    residual: Float[Array, ""]
    vector: Float[Array, " p"]
    size: Float[Array, ""]
    products: Int[Array, ""]


def lanczos(product: _Product, start: Float[Array, " p"], steps: int) -> RitzPair:
    """The largest Ritz pair of a symmetric operator on the Krylov space of `start`.

    Every new vector is orthogonalised twice against all before it, so no eigenvalue appears twice. A space that is
    exhausted early (an eigenvector as start, fewer dimensions than steps, a zero operator) is no special case.

    **Arguments:** `product`: v → Hv; `start`: any vector, zero included (which gives zeros); `steps`: the number of
    products, static.
    """
    basis = jnp.zeros((steps, start.size), start.dtype).at[0].set(unit(start))

    def expand(carry, j):
        basis, size = carry
        image = product(basis[j])
        diagonal, size = basis[j] @ image, jnp.maximum(size, jnp.linalg.norm(image))
        for _ in range(2):
            image = image - (basis @ image) @ basis
        norm = jnp.linalg.norm(image)
        # What is left of an exhausted space is rounding; its direction would not be orthogonal to the basis.
        exhausted = norm <= 10 * jnp.finfo(start.dtype).eps * size
        off_diagonal = jnp.where(exhausted, 0, norm)
        basis = basis.at[j + 1].set(jnp.where(exhausted, 0, unit(image)), mode="drop")
        return (basis, size), (diagonal, off_diagonal)

    first = (basis, jnp.zeros((), start.dtype))
    (basis, size), (diagonal, off_diagonal) = jax.lax.scan(expand, first, jnp.arange(steps))
    # Rows that the space did not need must not add eigenvalues at the top: the Rayleigh quotient of the start is below.
    used = jnp.any(basis != 0, axis=1).at[0].set(True)
    diagonal = jnp.where(used, diagonal, diagonal[0] - jnp.abs(diagonal[0]) - 1)
    couplings = jnp.diag(off_diagonal[:-1], 1)
    values, vectors = jnp.linalg.eigh(jnp.diag(diagonal) + couplings + couplings.T)
    top = vectors[:, -1]
    return RitzPair(values[-1], jnp.abs(off_diagonal[-1] * top[-1]), unit(top @ basis), size)


def largest_eigenvalue(
    product: _Product, start: Float[Array, " p"], rtol: float, max_products: int | Int[Array, ""] = 1000
) -> LargestEigenvalue:
    """The algebraically largest eigenvalue of a symmetric operator, by restarted Lanczos.

    Ends when the residual is at most `rtol` times the magnitude of the value, or times a thousandth of the operator's
    where the largest eigenvalue is nearly zero beside large negative ones: an eigenvalue lies that close. It is the
    largest unless `start` is nearly orthogonal to that one's eigenvector (a random part of `start` sees to it) or other
    eigenvalues crowd it. The error of a separate eigenvalue is far smaller: the residual squared over the gap.

    **Arguments:** `product`: v → Hv; `start`: where to begin, such as the vector of an earlier, similar operator;
    `rtol`: the relative accuracy; `max_products`: where to give up, rounded up to whole cycles of five. Zero is allowed
    and returns `start` untouched: under `jax.vmap` that is how a lane opts out.
    """
    zero = jnp.zeros((), start.dtype)
    first = LargestEigenvalue(zero, zero + jnp.inf, start, zero, jnp.zeros((), jnp.int32))

    def unfinished(now: LargestEigenvalue):
        within = rtol * jnp.maximum(jnp.abs(now.value), 1e-3 * now.size)
        return (now.residual > within) & (now.products < max_products)

    def cycle(now: LargestEigenvalue):
        return LargestEigenvalue(*lanczos(product, now.vector, _STEPS_PER_CYCLE), now.products + _STEPS_PER_CYCLE)

    return jax.lax.while_loop(unfinished, cycle, first)


def unit(vector: Float[Array, " p"]) -> Float[Array, " p"]:
    """The vector at length one; zero stays zero."""
    norm = jnp.linalg.norm(vector)
    return vector / jnp.where(norm == 0, 1, norm)
