"""The Runge-Kutta-Chebyshev method of order 2.

Source: Sommeijer, Shampine & Verwer, RKC: an explicit solver for parabolic PDEs, J. Comput. Appl. Math. 88 (1998).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .chebyshev import AbstractChebyshevSolver, Formula, chebyshev


class RKC2(AbstractChebyshevSolver):
    """Stabilized explicit solver of order 2: s stages, as many as stability requires, up to h·ρ = 0.65 s².

    For long flows at large tolerances (1e-3), for activations with kinks, and when memory matters most: it needs one
    gradient per stage, an occasional Hessian-vector product and no linear algebra. `TSRKC3` is usually cheaper for the
    same accuracy. The error of a step is O(h³) and the error at the end of a run O(h²), so `gradient_flow` gives it a
    tolerance per step of rtol^{3/2}.

    **Source:** Sommeijer, Shampine & Verwer 1998.
    """

    def order(self, terms):
        return 2

    def formula(self, z: Float[Array, ""], q: Float[Array, ""]) -> Formula:
        return rkc2(z)


def rkc2(z: Float[Array, ""]) -> Formula:
    """The formula with the fewest stages that is stable on [−z, 0], z ≥ 0."""
    s = 1 + jnp.floor(jnp.sqrt(1 + 1.54 * z))
    delta = 2 / 13 / s**2
    _, T1, T2, _ = chebyshev(s, delta)
    b = 1 / (2 * (1 + delta)) ** 2
    zero, one = jnp.zeros_like(z), jnp.ones_like(z)
    error = (zero, -0.8 * one, 0.4 * one, 0.4 * one)
    return Formula(stages=s, delta=delta, w1=T1 / T2, b_1=b, b_2=b, past=zero, final=one, error=error)
