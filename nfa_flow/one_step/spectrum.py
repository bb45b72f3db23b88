"""Singular values of feature matrices, and which of them are spikes."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..blas import on_one_blas_thread
from ..checks import require_integer

_GAP = 4.0


class FeatureSpectrum(NamedTuple):
    """`singular_values` over √n, decreasing, min(n, N) of them; `left`: the first left singular vectors, as columns.

    From the smaller Gram matrix, so that what is below the root of the rounding of the first is noise, and set to zero.
    """

    singular_values: Float[Array, " r"]
    left: Float[Array, "n s"]


def feature_spectrum(F: Float[Array, "n N"], *, vectors: int = 0) -> FeatureSpectrum:
    """The singular values of F/√n, and left singular vectors of the first ones.

    **Arguments:** `F`: features; `vectors`: how many left singular vectors (static).
    **Returns:** a `FeatureSpectrum`.
    **Raises:** ValueError for a negative `vectors`.
    """
    require_integer("vectors", vectors, at_least=0)
    return _spectrum(F, vectors)


def observed_spikes(singular_values: Float[Array | np.ndarray, " r"]) -> int:
    """How many singular values stand out of the bulk: up to the last gap s_k/s_{k+1} > 1 + 4 r^{−2/3} of the first 20.

    At the edge of a bulk of r singular values, gaps are of the relative order r^{−2/3} (Tracy–Widom). The bulk of the
    same matrix is what is compared with, as the step widens it too.

    **Arguments:** `singular_values`: decreasing.
    **Returns:** a whole number.
    """
    s = np.asarray(singular_values, float)
    wide = s[:-1][:20] > (1 + _GAP * max(len(s), 1) ** (-2 / 3)) * s[1:21]
    return int(np.max(np.flatnonzero(wide), initial=-1)) + 1


def spike_overlap(left: Float[Array, "n s"], directions: Float[Array, "n k"]) -> Float[Array, " s"]:
    """The share of each spike, squared, that lies in the span of some directions: 1 within it, about k/n for none.

    **Arguments:** `left`: left singular vectors, of `feature_spectrum`; `directions`: as from `powers`.
    **Returns:** one number in [0, 1] per vector; their mean, for s = k, is the mean cos² of the principal angles.
    """
    return _overlap(left, directions)


@on_one_blas_thread
@jax.jit
@jax.default_matmul_precision("highest")  # a GPU would otherwise multiply float32 in TF32, with three digits
def _overlap(left: Float[Array, "n s"], directions: Float[Array, "n k"]) -> Float[Array, " s"]:
    Q, _ = jnp.linalg.qr(directions)
    return jnp.sum((Q.T @ left) ** 2, axis=0)


@on_one_blas_thread
@partial(jax.jit, static_argnums=1)
@jax.default_matmul_precision("highest")
def _spectrum(F: Float[Array, "n N"], vectors: int) -> FeatureSpectrum:
    tall = F.shape[0] >= F.shape[1]
    G = F.T @ F if tall else F @ F.T
    if not vectors:
        squares, V = jnp.linalg.eigvalsh(G)[::-1], jnp.zeros((len(G), 0), G.dtype)
    else:
        squares, V = jnp.linalg.eigh(G)
        squares, V = squares[::-1], V[:, ::-1][:, :vectors]
    noise = 50 * jnp.finfo(G.dtype).eps * squares[0]
    s = jnp.sqrt(jnp.where(squares > noise, squares, 0))
    left = F @ V / jnp.where(s[:vectors] > 0, s[:vectors], 1) if tall else V
    return FeatureSpectrum(s / F.shape[0] ** 0.5, jnp.where(s[:vectors] > 0, left, 0))
