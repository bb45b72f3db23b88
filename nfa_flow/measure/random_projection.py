"""The parameters of a network in a few random directions."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..checks import require_integer, require_key
from ..numerics.precision import at_least_single


class RandomProjection(eqx.Module):
    """The observable Rθ: all parameters θ of a network, times a matrix R of independent normal entries, N(0, 1/count).

    E‖Rθ‖² = ‖θ‖², so projections of two runs by the same key give their distance at any time, without the networks: its
    square is right up to a relative standard deviation of √(2/count). The matrix is never stored: each evaluation draws
    it again, one row after another, with the memory of one vector of parameters.

    **Arguments:** `count`: the number of directions, static; `key`: PRNG key of the matrix.
    **Raises:** ValueError naming `count` or `key`.
    **Source:** Johnson & Lindenstrauss 1984.
    """

    count: int = eqx.field(static=True)
    key: PRNGKeyArray = eqx.field(kw_only=True)

    def __check_init__(self):
        require_integer("count", self.count, at_least=1)
        require_key("key", self.key)

    def __call__(self, net: Any, data: Any = None) -> Float[Array, " {self.count}"]:
        """Rθ of one network; `data` is not used."""
        arrays = jax.tree.leaves(at_least_single(eqx.filter(net, eqx.is_inexact_array)))

        def along(key: PRNGKeyArray) -> Float[Array, ""]:
            keys = jax.random.split(key, len(arrays))
            normal = [jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, arrays, strict=True)]
            return jnp.asarray(sum(jnp.vdot(direction, a) for direction, a in zip(normal, arrays, strict=True)))

        return jax.lax.map(along, jax.random.split(self.key, self.count)) / self.count**0.5
