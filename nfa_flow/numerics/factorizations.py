"""QR and singular values that programs can compute in batches.

On CPU XLA gives the matrices of a batched factorization to the threads that wait for it: a program with several of them
can wait for ever (seen with jaxlib 0.10 on two cores, in a batch of networks with three layers of measurements). So on
CPU a batch is processed one matrix after another, which is as fast. There are no reverse-mode derivatives; functions
that need them have rules of their own.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, PyTree

from .meshes import blocks_of


def _one_by_one_on_cpu(function: Callable[[Array], PyTree]) -> Any:
    batched = custom_vmap(function)

    @batched.def_vmap
    def rule(size: int, is_batched: Any, matrices: Array) -> tuple[PyTree, PyTree]:
        results = jax.lax.map(batched, matrices) if jax.default_backend() == "cpu" else jax.vmap(function)(matrices)
        return results, jax.tree.map(lambda _: True, results)

    return batched


_triangle = _one_by_one_on_cpu(lambda M: jnp.linalg.qr(M, mode="r"))
_orthonormal = _one_by_one_on_cpu(lambda M: jnp.linalg.qr(M)[0])
_spectrum = _one_by_one_on_cpu(lambda M: tuple(jnp.linalg.svd(M, full_matrices=False)[1:]))


def triangle(M: Float[Array, "n k"]) -> Float[Array, "r k"]:
    """Upper triangular R with RᵀR = MᵀM."""
    return _triangle(M)


def triangle_with(
    R: Float[Array, "r k"], rows: Float[Array, "n k"], sharding: NamedSharding | None
) -> Float[Array, "m k"]:
    """The triangle of R and rows below it; rows that are divided among devices are reduced there first."""
    if sharding is not None and len(rows) % blocks_of(sharding) == 0:
        rows = jax.shard_map(_triangle, mesh=sharding.mesh, in_specs=sharding.spec, out_specs=sharding.spec)(rows)
    return _triangle(jnp.concatenate([R, rows]))


def orthonormal(M: Float[Array, "n k"]) -> Float[Array, "n r"]:
    """Orthonormal columns that span those of M."""
    return _orthonormal(M)


def spectrum(M: Float[Array, "n k"]) -> tuple[Float[Array, " r"], Float[Array, "r k"]]:
    """(s, Vᵀ): singular values, decreasing, and right singular vectors."""
    return _spectrum(M)


def largest_singular_value(W: Float[Array, "p q"]) -> Float[Array, ""]:
    """The spectral norm, from the Gram matrix of the narrower side: at a tenth of the cost of all singular values."""
    size = jnp.max(jnp.abs(W))  # squares of what is much smaller or larger than 1 are lost in float32
    narrow = (W if W.shape[0] <= W.shape[1] else W.T) / jnp.where(size > 0, size, 1)
    return size * jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(narrow @ narrow.T)[-1], 0))
