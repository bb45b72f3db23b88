"""Sums over a stream of Jacobians: their Gram matrix, or a triangular factor of it; centered or not.

`Gram` is the sum K = Σ w BᵀB, the fastest. `Triangle` folds the rows into the triangular factor R of their stack, with
K = RᵀR (TSQR); K itself is never formed, which keeps the relative accuracy of the small singular values. If centered,
the mean over all samples is subtracted from the Jacobian of each output, also with batches.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..checks import require_flag
from ..numerics.factorizations import triangle_with
from .jacobians import Rows


class AbstractJacobianSum(eqx.Module):
    """A running sum over rows of Jacobians, and how to end it."""

    @abc.abstractmethod
    def start(self, c: int, k: int, dtype: Any) -> PyTree:
        """The state before any row, for c outputs and rows of length k."""

    @abc.abstractmethod
    def fold(self, state: PyTree, rows: Rows) -> PyTree:
        """The state after these rows."""

    @abc.abstractmethod
    def finish(self, state: PyTree, total: float, k: int) -> Float[Array, "rows k"]:
        """The sum divided by the total weight of the samples."""

    @abc.abstractmethod
    def of_constant(self, B: Float[Array, "c k"]) -> Float[Array, "rows k"]:
        """The result if every sample has the same Jacobian."""

    def memory(self, memory: int, k: int, itemsize: int) -> int:
        """How many bytes of Jacobians to fold at a time, at most `memory`."""
        return memory


class Gram(AbstractJacobianSum):
    """K = E[BᵀB], k × k."""

    def start(self, c: int, k: int, dtype: Any) -> Float[Array, "k k"]:
        return jnp.zeros((k, k), dtype)

    def fold(self, state: Float[Array, "k k"], rows: Rows) -> Float[Array, "k k"]:
        return state + _weighted_gram(rows.together(), rows.weight)

    def finish(self, state: Float[Array, "k k"], total: float, k: int) -> Float[Array, "k k"]:
        return state / total

    def of_constant(self, B: Float[Array, "c k"]) -> Float[Array, "k k"]:
        return B.T @ B


@jax.custom_jvp
def _weighted_gram(B: Float[Array, "b m p k"], weight: Float[Array, " m"]) -> Float[Array, "k k"]:
    """Σ w BᵀB, exactly symmetric, with a derivative by the weights even if they are zero."""
    stacked = Rows(B, weight, jnp.arange(len(B)), None).stacked()
    return stacked.T @ stacked


@_weighted_gram.defjvp
def _weighted_gram_jvp(primals: Any, tangents: Any) -> tuple[Float[Array, "k k"], Float[Array, "k k"]]:
    (B, weight), (dB, dweight) = primals, tangents
    by_sample = lambda w: w[None, :, None, None]
    flat = lambda rows: rows.reshape(-1, B.shape[-1])
    half = flat(B).T @ flat(by_sample(weight) * dB + by_sample(dweight / 2) * B)
    return _weighted_gram(B, weight), half + half.T


class CenteredGram(AbstractJacobianSum):
    """K = E[(B − EB)ᵀ(B − EB)], k × k."""

    def start(self, c: int, k: int, dtype: Any) -> tuple[Float[Array, "k k"], Float[Array, "c k"]]:
        return jnp.zeros((k, k), dtype), jnp.zeros((c, k), dtype)

    def fold(self, state: Any, rows: Rows) -> tuple[Float[Array, "k k"], Float[Array, "c k"]]:
        K, total = state
        sums = jnp.einsum("m,bmpk->bk", rows.weight, rows.B)
        return Gram().fold(K, rows), total.at[rows.outputs].add(sums, mode="drop")

    def finish(self, state: Any, total: float, k: int) -> Float[Array, "k k"]:
        K, mean = state[0] / total, state[1] / total
        return K - mean.T @ mean

    def of_constant(self, B: Float[Array, "c k"]) -> Float[Array, "k k"]:
        return jnp.zeros((B.shape[1], B.shape[1]), B.dtype)


class Triangle(AbstractJacobianSum):
    """R with RᵀR = E[BᵀB]: k × k, or c × k for a constant Jacobian."""

    def start(self, c: int, k: int, dtype: Any) -> Float[Array, "k k"]:
        return jnp.zeros((k, k), dtype)

    def fold(self, state: Float[Array, "k k"], rows: Rows) -> Float[Array, "k k"]:
        return triangle_with(state, rows.stacked(), rows.sharding)

    def finish(self, state: Float[Array, "k k"], total: float, k: int) -> Float[Array, "k k"]:
        return state / total**0.5

    def of_constant(self, B: Float[Array, "c k"]) -> Float[Array, "c k"]:
        return B

    def memory(self, memory: int, k: int, itemsize: int) -> int:
        # Few rows waste the factorization on R again and again, many do not stay in the cache.
        square = k**2 * itemsize
        return max(min(memory, max(2**20, 16 * square)), 4 * square)


class CenteredTriangle(AbstractJacobianSum):
    """R with RᵀR = E[(B − EB)ᵀ(B − EB)], k × k.

    Every row has the indicator of its output as additional columns. The part orthogonal to those columns has no mean.
    So no mean is subtracted, which rounding could spoil.
    """

    def start(self, c: int, k: int, dtype: Any) -> Float[Array, "size size"]:
        return jnp.zeros((c + k, c + k), dtype)

    def fold(self, state: Float[Array, "size size"], rows: Rows) -> Float[Array, "size size"]:
        marks = jax.nn.one_hot(rows.outputs, len(state) - rows.B.shape[-1], dtype=state.dtype)[:, None, None]
        marks = jnp.broadcast_to(marks, (*rows.B.shape[:3], marks.shape[-1]))
        return Triangle().fold(state, rows._replace(B=jnp.concatenate([marks, rows.B], axis=-1)))

    def finish(self, state: Float[Array, "size size"], total: float, k: int) -> Float[Array, "k k"]:
        return state[-k:, -k:] / total**0.5

    def of_constant(self, B: Float[Array, "c k"]) -> Float[Array, "k k"]:
        return jnp.zeros((B.shape[1], B.shape[1]), B.dtype)


def jacobian_sum_kind(*, factor: bool, centered: bool) -> AbstractJacobianSum:
    """The sum that gives K or a factor of it, of Jacobians as they are or centered."""
    require_flag("factor", factor)
    require_flag("centered", centered)
    if factor:
        return CenteredTriangle() if centered else Triangle()
    return CenteredGram() if centered else Gram()
