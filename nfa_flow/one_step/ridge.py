"""Ridge regression of the readout on given features, with additional directions without a penalty."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..checks import real_array, require_number, wrong
from ..numerics.kernel import kernel
from .features import floating_matrix


class RidgeFit(NamedTuple):
    """`readout` a, `free_readout` b, and `train`: the minimum of (1/n)‖y − Fa − Ub‖² + λ‖a‖² over a and b."""

    readout: Float[Array, " N"]
    free_readout: Float[Array, " s"]
    train: Float[Array, ""]

    def test(
        self, F: Float[Array, "m N"], y: Float[Array, " m"], *, free: Float[Array, "m s"] | None = None
    ) -> Float[Array, ""]:
        """The mean of (y − Fa − Ub)² over new samples; arguments as in `ridge_fit`."""
        F, y, U = _problem(F, y, free)
        for argument, columns, read_out in (("F", F, self.readout), ("free", U, self.free_readout)):
            if columns.shape[1] != len(read_out):
                raise wrong(argument, f"of {len(read_out)} columns, as in the fit", f"of shape {columns.shape}")
        return jnp.mean((y - F @ self.readout - U @ self.free_readout) ** 2)


def ridge_fit(
    F: Float[Array, "n N"],
    y: Float[Array, " n"],
    penalty: float | int | Float[Array, ""],
    *,
    free: Float[Array, "n s"] | None = None,
) -> RidgeFit:
    """The readout that minimizes (1/n)‖y − Fa − Ub‖² + λ‖a‖², by a Cholesky factor in the smaller of n and N.

    **Arguments:** `F`: features; `y`: targets; `penalty`: λ > 0; `free`: U, directions without a penalty, such as
    `powers` in place of infinitely large spikes.
    **Returns:** a `RidgeFit`.
    **Raises:** ValueError for a penalty that is not positive, targets of another length, or `free` of another length or
    with more columns than rows.
    """
    require_number("penalty", penalty, above=0)
    F, y, U = _problem(F, y, free)
    if U.shape[1] > len(F):
        raise wrong("free", f"of {len(F)} columns at most, as many as samples", f"of shape {U.shape}")
    return _fit(F, y, jnp.asarray(penalty, F.dtype), U)


def _problem(F: Any, y: Any, free: Any) -> tuple[Float[Array, "n N"], Float[Array, " n"], Float[Array, "n s"]]:
    """Features, targets and directions that fit together; no columns for directions of None."""
    F = floating_matrix("F", F)
    y = real_array("y", y, ...).astype(F.dtype)
    if y.shape != F.shape[:1]:
        raise wrong("y", f"a vector with an entry for each of the {len(F)} rows of `F`", f"of shape {y.shape}")
    if free is None:
        return F, y, jnp.zeros((len(F), 0), F.dtype)
    U = real_array("free", free, ...).astype(F.dtype)
    if U.ndim != 2 or len(U) != len(F):
        raise wrong("free", f"a matrix of {len(F)} rows, like `F`", f"of shape {U.shape}")
    return F, y, U


@kernel
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
