"""The two-step Runge-Kutta-Chebyshev method of order 3.

Source: Moisa 2025; the stages as in Sommeijer, Shampine & Verwer 1998.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .chebyshev import AbstractChebyshevSolver, Formula, chebyshev
from .rkc2 import rkc2

_T = 1.25
_SHORTEST_PAST = 0.49


class TSRKC3(AbstractChebyshevSolver):
    """Stabilized explicit solver of order 3, which also uses the step before.

    The best explicit solver for long flows: it needs one gradient per stage and an occasional Hessian-vector product.
    At the start, after a jump, and when a step is more than twice as long as the one before, it makes one step of
    `RKC2`.

    **Source:** Moisa 2025; Sommeijer, Shampine & Verwer 1998.
    """

    def order(self, terms):
        return 3

    def formula(self, z: Float[Array, ""], q: Float[Array, ""]) -> Formula:
        two_step = q >= _SHORTEST_PAST
        pair = tsrkc3(z, jnp.where(two_step, q, 1)), rkc2(z)
        return jax.tree.map(lambda two, one: jnp.where(two_step, two, one), *pair)


def tsrkc3(z: Float[Array, ""], q: Float[Array, ""]) -> Formula:
    """The formula with the fewest stages that is stable on [−z, 0], z ≥ 0, when the step before was q ≥ 0.49 times."""
    phi = 1 - q + jnp.sqrt(1 + q * (0.44256220745562963 + q))
    s = 1 + jnp.floor(jnp.sqrt(4 + 1.267029788142009 * z * phi))
    a = np.arccosh(_T) / s
    delta = 2 * jnp.sinh(a / 2) ** 2
    _, T1, T2, T3 = chebyshev(s, delta)
    # The positive root of T3 w1² − (1−q) T2 w1 − q T1 = 0, in the form that does not cancel for q > 1.
    half = (1 - q) * T2
    w1 = 2 * q * T1 / (jnp.sqrt(half**2 + 4 * q * T1 * T3) - half)
    alpha = (1 + q) / (q * T1 + w1 * T2)
    past = (alpha * T1 - 1) / q
    error = (1 / (q * (1 + q) ** 2), -(2 + q) / (1 + q) ** 2, jnp.zeros_like(q), 1 / (1 + q))
    return Formula(
        stages=s,
        delta=delta,
        w1=w1,
        b_1=jnp.sinh((s - 2) * a) / (4 * jnp.sinh((s - 1) * a)),
        b_2=15 / (8 * (1 + delta)) ** 2,
        past=-past,
        final=alpha * T1**2 / (T2 * w1),
        error=tuple(0.6 * weight for weight in error),
    )
