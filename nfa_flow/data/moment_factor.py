"""The second moments of inputs and targets as a triangular factor, which keeps digits that squaring would lose."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..checks import require_instance
from ..numerics.precision import at_least_single
from .dataset import Dataset


def moment_factor(data: Dataset, *, intercept: bool) -> Float[Array, "r columns"]:
    """Triangular R with RᵀR = Σ_i w_i v_i v_iᵀ for the stacked rows v_i = [x_i, (1), y_i].

    With the columns R = [R_x, r_1, R_y], the squared loss of an affine map f(x) = A x + c is ½‖R_x Aᵀ + r_1 cᵀ −
    R_y‖²_F: a linear network needs no other information about the data, for any number of samples.

    **Arguments:** `data`: n samples, d inputs, c outputs; `intercept`: whether to include the column of ones.
    **Returns:** R of min(n, d + k + c) rows and d + k + c columns, where k = 1 with the intercept and 0 without; in
    float32 at least. Functions of RᵀR, such as this loss, have the right first derivatives; R itself, and second
    derivatives, do not. At a weight of exactly 0 they are NaN.
    """
    require_instance("data", data, Dataset, "a `Dataset`")
    columns = [data.X, jnp.ones((data.samples, 1), data.dtype), data.Y] if intercept else [data.X, data.Y]
    rows = jnp.sqrt(data.sample_weight)[:, None] * jnp.concatenate(columns, axis=1)
    rows, sharding = at_least_single(rows), data.sharding
    if sharding is not None:  # every device reduces its own rows, and the triangles are reduced together
        rows = jax.shard_map(_triangle, mesh=sharding.mesh, in_specs=sharding.spec, out_specs=sharding.spec)(rows)
    return _triangle(rows)


@jax.custom_jvp
def _triangle(rows: Float[Array, "n m"]) -> Float[Array, "r m"]:
    return jnp.linalg.qr(rows, mode="r")


@_triangle.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """dR = Qᵀ dV for the rows V = QR: no triangle, but d(RᵀR) = d(VᵀV), also where R has no inverse."""
    Q, R = jnp.linalg.qr(primals[0])
    return R, Q.T @ tangents[0]
