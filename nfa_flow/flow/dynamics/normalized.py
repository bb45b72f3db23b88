"""The limits of sign descent and of Muon for small steps, made smooth."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...checks import require_number, wrong
from ...problem.objective import AbstractObjective
from .abstract import AbstractDynamics


class Sign(AbstractDynamics):
    """dθ/dt = −g/√(g² + eps²), entry by entry: the smooth limit of sign descent, and of Adam for short memories.

    With `eps` far below the entries of the gradient, each parameter moves at the speed 1 or −1, so t is the learning
    rate times the number of steps. The smaller `eps`, the stiffer is the flow where gradients are small, and the more
    steps it takes. `eps` = 0 is refused: the velocity would jump where a gradient changes its sign.

    **Source:** Bernstein et al. 2018 (sign descent); Ma, Wu & E 2022 (limits of Adam).
    """

    eps: float | Float[Array, ""]

    stiff: ClassVar[bool] = True
    rule: ClassVar[str | None] = "adam"

    def __check_init__(self):
        require_number("eps", self.eps, above=0)

    def velocity(self, objective: AbstractObjective, parameters: PyTree, memory: PyTree) -> tuple[PyTree, PyTree]:
        """−g/√(g² + eps²)."""
        return jax.tree.map(lambda g: -g / jnp.hypot(g, self.eps), objective.gradient(parameters)), None


class Muon(AbstractDynamics):
    """dW/dt = −√max(1, rows/columns) · G(GᵀG + eps²I)^{−1/2}: the smooth limit of Muon, for networks of matrices.

    With `eps` far below the singular values of the gradient G, every direction of it moves at the same speed, up to the
    factor of `optax.contrib.muon`; t is the learning rate times the number of steps. Optax approximates the root by a
    polynomial whose values lie between .7 and 1.2, and averages gradients; this limit does neither.

    **Raises:** ValueError naming `net` for arrays that are no matrices, such as biases: freeze them by `trainable`.
    **Source:** Jordan et al. 2024 (Muon); Bernstein & Newhouse 2024 (its limit).
    """

    eps: float | Float[Array, ""]

    stiff: ClassVar[bool] = True

    def __check_init__(self):
        require_number("eps", self.eps, above=0)

    def start(self, objective: AbstractObjective, parameters: PyTree) -> None:
        """No memory; it checks that there are only matrices."""
        for leaf in jax.tree.leaves(parameters):
            if leaf.ndim != 2:
                must_be = "one whose trained arrays are matrices for `Muon` (freeze biases by `trainable`)"
                raise wrong("net", must_be, f"one with an array of shape {leaf.shape}")

    def velocity(self, objective: AbstractObjective, parameters: PyTree, memory: PyTree) -> tuple[PyTree, PyTree]:
        """−√max(1, rows/columns) · G(GᵀG + eps²I)^{−1/2}."""

        def move(G: Array) -> Array:
            rows, columns = G.shape
            shift = jnp.asarray(self.eps**2, G.dtype)
            # The smaller of two equal forms.
            return _inverse_root(G @ G.T, shift) @ G if rows < columns else G @ _inverse_root(G.T @ G, shift)

        scaled = lambda G: -(max(1.0, G.shape[0] / G.shape[1]) ** 0.5) * move(G)
        return jax.tree.map(scaled, objective.gradient(parameters)), None


@jax.custom_jvp
def _inverse_root(A: Float[Array, "k k"], shift: Float[Array, ""]) -> Float[Array, "k k"]:
    """(A + shift I)^{−1/2} of a matrix without negative eigenvalues but rounding errors, and shift > 0."""
    values, Q = jnp.linalg.eigh(A)
    return (Q / jnp.sqrt(jnp.maximum(values, 0) + shift)) @ Q.T


@_inverse_root.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """Also where eigenvalues coincide, where the derivatives of eigenvectors do not exist."""
    (A, shift), (dA, d_shift) = primals, tangents
    values, Q = jnp.linalg.eigh(A)
    root = jnp.sqrt(jnp.maximum(values, 0) + shift)
    change = Q.T @ dA @ Q + d_shift * jnp.eye(len(A), dtype=A.dtype)
    slopes = -1 / (jnp.outer(root, root) * jnp.add.outer(root, root))  # divided differences of λ^{−1/2}
    return (Q / root) @ Q.T, Q @ (slopes * change) @ Q.T
