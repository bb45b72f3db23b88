"""The largest eigenvalues of a symmetric operator that is known only by its products with vectors.

Lanczos: the extreme eigenvalues of an operator restricted to the Krylov space of a few products are close to its own.
The residual of the top Ritz pair bounds the error: there is an eigenvalue within this distance. A few short cycles,
each starting from the Ritz vector of the one before, keep only a handful of vectors.

For several eigenvalues, and multiple ones, blocks of as many vectors take the place of single ones, and twice as many
Ritz vectors are kept from cycle to cycle.

Source: Golub & Van Loan, Matrix Computations, ch. 10; Parlett, The Symmetric Eigenvalue Problem, ch. 13; Wu & Simon
2000 (thick restarts).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_Product = Callable[[Float[Array, " p"]], Float[Array, " p"]]

_STEPS_PER_CYCLE = 5
_BLOCKS_PER_CYCLE = 4
_KEPT_BLOCKS = 2


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

    Every new vector is orthogonalized twice against all before it, so no eigenvalue appears twice. A space that is
    exhausted early (an eigenvector as start, fewer dimensions than steps, a zero operator) is no special case.

    **Arguments:** `product`: v → Hv; `start`: any vector, zero included (which gives zeros); `steps`: the number of
    products, static.
    """

    def expand(carry, j):
        basis, vector, size = carry
        basis = basis.at[j].set(vector)
        image = product(vector)
        diagonal, size = vector @ image, jnp.maximum(size, jnp.linalg.norm(image))
        for _ in range(2):
            image = image - (basis @ image) @ basis
        norm = jnp.linalg.norm(image)
        # What is left of an exhausted space is rounding; its direction would not be orthogonal to the basis.
        exhausted = norm <= 10 * jnp.finfo(start.dtype).eps * size
        off_diagonal = jnp.where(exhausted, 0, norm)
        return (basis, jnp.where(exhausted, 0, unit(image)), size), (diagonal, off_diagonal)

    first = (jnp.zeros((steps, start.size), start.dtype), unit(start), jnp.zeros((), start.dtype))
    (basis, _, size), (diagonal, off_diagonal) = jax.lax.scan(expand, first, jnp.arange(steps))
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
    norm if the largest eigenvalue is nearly zero and others are large and negative: there is an eigenvalue within this
    distance. It is the largest one unless `start` is nearly orthogonal to its eigenvector (a random part of `start`
    avoids this) or other eigenvalues are very close to it. The error of a separated eigenvalue is far smaller: the
    residual squared over the gap.

    **Arguments:** `product`: v → Hv; `start`: the first vector, such as the eigenvector of an earlier, similar
    operator; `rtol`: the relative accuracy; `max_products`: the largest number of products, rounded up to whole cycles
    of five. Zero is allowed and returns `start` unchanged: this skips a lane under `jax.vmap`.
    """
    zero = jnp.zeros((), start.dtype)
    first = LargestEigenvalue(zero, zero + jnp.inf, start, zero, jnp.zeros((), jnp.int32))

    def unfinished(now: LargestEigenvalue):
        within = rtol * jnp.maximum(jnp.abs(now.value), 1e-3 * now.size)
        return (now.residual > within) & (now.products < max_products)

    def cycle(now: LargestEigenvalue):
        return LargestEigenvalue(*lanczos(product, now.vector, _STEPS_PER_CYCLE), now.products + _STEPS_PER_CYCLE)

    return jax.lax.while_loop(unfinished, cycle, first)


class LargestEigenvalues(NamedTuple):
    """The upper end of the spectrum, decreasing, with ‖Hv − θv‖ of each pair, and how many products it took."""

    values: Float[Array, " k"]
    residuals: Float[Array, " k"]
    vectors: Float[Array, "k p"]
    products: Int[Array, ""]


def largest_eigenvalues(
    product: _Product, start: Float[Array, "k p"], rtol: float, max_cycles: int = 500
) -> LargestEigenvalues:
    """The k algebraically largest eigenvalues of a symmetric operator, by block Lanczos with thick restarts.

    Every new vector is orthogonalized twice against all before it, and the matrix of the operator in their basis is
    formed in full; an eigenvalue appears as often as its multiplicity (at most k times). Ends when each residual is at
    most `rtol` times the magnitude of its value, or times a thousandth of the operator's norm for values that are small
    compared with it, or a hundred rounding errors of the norm. As with `largest_eigenvalue`, `start` must not miss an
    eigenvector.

    **Arguments:** `product`: v → Hv; `start`: k ≤ p independent vectors, random ones for instance; `rtol`: the relative
    accuracy; `max_cycles`: of four products per eigenvalue each, after which values that have not converged are NaN.
    """
    k, dtype = len(start), start.dtype
    kept, rows = _KEPT_BLOCKS * k, (_KEPT_BLOCKS + _BLOCKS_PER_CYCLE) * k
    zero = jnp.zeros((rows, start.shape[1]), dtype)

    def within(now: _Search) -> Float[Array, " k"]:
        return jnp.maximum(rtol * jnp.maximum(jnp.abs(now.values), 1e-3 * now.size), _rounding(now.size, 100))

    def cycle(now: _Search) -> _Search:
        def expand(i: Int[Array, ""], carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            basis, images, directions = carry
            block = _orthonormal(directions, basis)
            image = jax.vmap(product)(block)
            put = lambda old, block: jax.lax.dynamic_update_slice_in_dim(old, block, kept + i * k, 0)
            return put(basis, block), put(images, image), image

        carry = now.basis, now.images, now.directions
        basis, images, _ = jax.lax.fori_loop(0, _BLOCKS_PER_CYCLE, expand, carry)
        size = jnp.maximum(now.size, jnp.max(jnp.linalg.norm(images, axis=1)))
        values, vectors, used = _ritz(basis, images)
        # Rows that the space did not need come last, as zeros.
        vectors = jnp.where(jnp.arange(rows) < used, vectors, 0)[:, :kept]
        basis, images = vectors.T @ basis, vectors.T @ images
        residuals = images[:k] - values[:k, None] * basis[:k]
        return _Search(
            zero.at[:kept].set(basis),
            zero.at[:kept].set(images),
            residuals,
            values[:k],
            jnp.linalg.norm(residuals, axis=1),
            size,
            now.cycles + 1,
        )

    nothing = jnp.zeros((), dtype)
    first = _Search(zero, zero, start, jnp.zeros(k, dtype), jnp.full(k, jnp.inf, dtype), nothing, jnp.zeros((), int))
    unfinished = lambda now: jnp.any(now.residuals > within(now)) & (now.cycles < max_cycles)
    last = jax.lax.while_loop(unfinished, cycle, first)
    values = jnp.where(last.residuals <= within(last), last.values, jnp.nan)
    return LargestEigenvalues(values, last.residuals, last.basis[:k], _BLOCKS_PER_CYCLE * k * last.cycles)


class _Search(NamedTuple):
    """Orthonormal rows and their images (zeros where there are none yet), the directions to go on in, and the result.

    The directions are the residuals, so that any error of the rows is corrected.
    """

    basis: Float[Array, "m p"]
    images: Float[Array, "m p"]
    directions: Float[Array, "k p"]
    values: Float[Array, " k"]
    residuals: Float[Array, " k"]
    size: Float[Array, ""]
    cycles: Int[Array, ""]


def _ritz(
    basis: Float[Array, "m p"], images: Float[Array, "m p"]
) -> tuple[Float[Array, " m"], Float[Array, "m m"], Int[Array, ""]]:
    """Eigenvalues, decreasing, and eigenvectors in the basis; how many without its zero rows, which come last."""
    used = jnp.any(basis != 0, axis=1)
    T = basis @ images.T
    below = -2 * jnp.linalg.norm(T) - 1
    values, vectors = jnp.linalg.eigh((T + T.T) / 2 + jnp.diag(jnp.where(used, 0, below)))
    return values[::-1], vectors[:, ::-1], jnp.sum(used)


def _orthonormal(rows: Float[Array, "k p"], basis: Float[Array, "m p"]) -> Float[Array, "k p"]:
    """Orthonormal rows of the same span, orthogonal to the basis too; zero if only rounding errors remain.

    They are singular vectors: one that is lost in rounding does not spoil the others, as it would in a QR
    factorization.
    """
    lost = _rounding(jnp.linalg.norm(rows), 10)
    for _ in range(2):
        _, s, Vt = jnp.linalg.svd(rows - (rows @ basis.T) @ basis, full_matrices=False)
        rows = jnp.where(s[:, None] <= lost, 0, Vt)
        lost = 0.5  # of a unit vector: what is truly new loses next to nothing the second time
    return rows


def _rounding(size: Float[Array, ""], errors: int) -> Float[Array, ""]:
    return errors * jnp.finfo(size.dtype).eps * size


def unit(vector: Float[Array, " p"]) -> Float[Array, " p"]:
    """The vector at length one; zero stays zero."""
    norm = jnp.linalg.norm(vector)
    return vector / jnp.where(norm == 0, 1, norm)
