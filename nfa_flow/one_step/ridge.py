"""Ridge regression of the readout on given features, with directions that cost nothing beside them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..blas import on_one_blas_thread
from ..checks import real_array, require_number, wrong
from .features import floating_matrix


class RidgeFit(NamedTuple):
    """`readout` a, `free_readout` b, and `train`: the least (1/n)‖y − Fa − Ub‖² + λ‖a‖², over a and b."""

    readout: Float[Array, " N"]
    free_readout: Float[Array, " s"]
    train: Float[Array, ""]

    def test(
        self, F: Float[Array, "m N"], y: Float[Array, " m"], free: Float[Array, "m s"] | None = None
    ) -> Float[Array, ""]:
        """The mean of (y − Fa − Ub)² over new samples."""
        prediction = F @ self.readout
        return jnp.mean((y - prediction - (0 if free is None else free @ self.free_readout)) ** 2)


def ridge_fit(
    F: Float[Array, "n N"],
    y: Float[Array, " n"],
    penalty: float | int | Float[Array, ""],
    *,
    free: Float[Array, "n s"] | None = None,
) -> RidgeFit:
    """The readout that minimises (1/n)‖y − Fa − Ub‖² + λ‖a‖², by a Cholesky factor in the smaller of n and N.

    **Arguments:** `F`: features; `y`: targets; `penalty`: λ > 0; `free`: U, directions without penalty, such as the
    `powers` that stand for infinitely large spikes.
    **Returns:** a `RidgeFit`.
    **Raises:** ValueError for a penalty that is not positive, targets of another length, or `free` of another length
    or of more columns than that.
    """
    require_number("penalty", penalty, above=0)
    F = floating_matrix("F", F)
    y = real_array("y", y, ...).astype(F.dtype)
    if y.shape != F.shape[:1]:
        raise wrong("y", f"a vector with an entry for each of the {len(F)} rows of `F`", f"of shape {y.shape}")
    if free is not None:
        free = real_array("free", free, ...).astype(F.dtype)
        if free.ndim != 2 or len(free) != len(F) or free.shape[1] > len(F):
            expected = f"a matrix of {len(F)} rows, like `F`, and at most so many columns"
            raise wrong("free", expected, f"of shape {free.shape}")
    return _fit(F, y, jnp.asarray(penalty, F.dtype), jnp.zeros((len(F), 0), F.dtype) if free is None else free)


@on_one_blas_thread
@jax.jit
@jax.default_matmul_precision("highest")  # a GPU would otherwise multiply float32 in TF32, with three digits
def _fit(F: Float[Array, "n N"], y: Float[Array, " n"], penalty: Float[Array, ""], U: Float[Array, "n s"]) -> RidgeFit:
    n, N = F.shape
    Q, R = jnp.linalg.qr(U)
    rest = lambda M: M - Q @ (Q.T @ M)
    A, t = rest(F), rest(y)
    if N <= n:
        a = _solve(A.T @ A / n, penalty, A.T @ t / n)
    else:
        a = A.T @ _solve(A @ A.T / n, penalty, t / n)
    residual = t - A @ a
    b = jax.scipy.linalg.solve_triangular(R, Q.T @ (y - F @ a))
    return RidgeFit(a, b, residual @ residual / n + penalty * a @ a)


def _solve(G: Float[Array, "k k"], penalty: Float[Array, ""], v: Float[Array, " k"]) -> Float[Array, " k"]:
    factor = jax.scipy.linalg.cho_factor(G + penalty * jnp.eye(len(G), dtype=G.dtype))
    return jax.scipy.linalg.cho_solve(factor, v)
