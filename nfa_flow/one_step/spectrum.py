"""Singular values of feature matrices, and which of them are spikes."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checks import real_array, require_finite, require_integer, wrong
from ..numerics.kernel import kernel
from .features import floating_matrix

_GAP = 4.0


class FeatureSpectrum(NamedTuple):
    """`singular_values` over √n, decreasing, min(n, N) of them; `left`: the first left singular vectors, as columns.

    They are computed from the smaller Gram matrix. Values below the root of the rounding error of the first one are
    noise, and set to zero.
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
    return _spectrum(floating_matrix("F", F), vectors)


def observed_spikes(singular_values: Float[Array | np.ndarray, " r"]) -> int:
    """How many singular values are outside the bulk: up to the last gap s_k/s_{k+1} > 1 + 4 r^{−2/3} of the first 20.

    At the edge of a bulk of r singular values, gaps are of the relative order r^{−2/3} (Tracy–Widom). They are compared
    with the bulk of the same matrix, because the step widens the bulk too. Values that are zero up to rounding, below
    2e-3 of the first in float32 and 1e-7 in float64, do not count: r is the numerical rank, and the spikes of features
    of low rank are found among their r values. A single nonzero value is one spike.

    **Arguments:** `singular_values`: decreasing.
    **Returns:** a whole number.
    **Raises:** ValueError for anything but a vector of finite numbers.
    """
    s = np.asarray(real_array("singular_values", singular_values, "r"))
    require_finite("singular_values", s)
    s = s.astype(float)[s > _rounding(s.dtype) * np.max(s, initial=0)]
    if len(s) == 1 < np.size(singular_values):
        return 1
    wide = s[:-1][:20] > (1 + _GAP * max(len(s), 1) ** (-2 / 3)) * s[1:21]
    return int(np.max(np.flatnonzero(wide), initial=-1)) + 1


def _rounding(dtype: Any) -> float:
    """Relative rounding error of singular values from a Gram matrix: the root of that of its eigenvalues."""
    eps = jnp.finfo(dtype if jnp.issubdtype(dtype, jnp.floating) else float).eps
    return float((50 * eps) ** 0.5)


def spike_overlap(left: Float[Array, "n s"], directions: Float[Array, "n k"]) -> Float[Array, " s"]:
    """The squared length of each spike's part in the span of k directions: 1 inside it, about k/n for unrelated ones.

    **Arguments:** `left`: left singular vectors, of `feature_spectrum`; `directions`: as from `powers`.
    **Returns:** one number in [0, 1] per vector; their mean, for s = k, is the mean cos² of the principal angles.
    """
    left, directions = floating_matrix("left", left), floating_matrix("directions", directions)
    if len(left) != len(directions):
        raise wrong("directions", f"a matrix of {len(left)} rows, like `left`", f"of shape {directions.shape}")
    return _overlap(left, directions.astype(left.dtype))


@kernel
def _overlap(left: Float[Array, "n s"], directions: Float[Array, "n k"]) -> Float[Array, " s"]:
    Q, _ = jnp.linalg.qr(directions)
    return jnp.sum((Q.T @ left) ** 2, axis=0)


@kernel
def _spectrum(F: Float[Array, "n N"], vectors: int) -> FeatureSpectrum:
    tall = F.shape[0] >= F.shape[1]
    size = jnp.max(jnp.abs(F), initial=0)  # squares of what is much smaller or larger than 1 are lost in float32
    F = F / jnp.where(size > 0, size, 1)
    G = F.T @ F if tall else F @ F.T
    if not vectors:
        squares, V = jnp.linalg.eigvalsh(G)[::-1], jnp.zeros((len(G), 0), G.dtype)
    else:
        squares, V = jnp.linalg.eigh(G)
        squares, V = squares[::-1], V[:, ::-1][:, :vectors]
    noise = _rounding(G.dtype) ** 2 * squares[0]
    s = jnp.sqrt(jnp.where(squares > noise, squares, 0))
    left = F @ V / jnp.where(s[:vectors] > 0, s[:vectors], 1)[None, :] if tall else V
    return FeatureSpectrum(size * s / F.shape[0] ** 0.5, jnp.where(s[None, :vectors] > 0, left, 0))
