"""AGOP by random probes, for networks with so many outputs that their full Jacobian costs too much."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..checks import require_integer, require_key, require_number
from ..numerics.factorizations import triangle
from ..numerics.kernel import kernel, measurable
from .agop import MEMORY, Samples, whole_batch
from .jacobians import Batch, Function, Rows, stream
from .layer import Layer, Tap, find_layer


class AgopEstimate(NamedTuple):
    """An unbiased estimate of AGOP, and its standard error: the expected ‖estimate − AGOP‖_F (root mean square)."""

    value: Float[Array, "h h"]
    standard_error: Float[Array, ""]


def agop_estimate(
    net: Any,
    data: Samples,
    *,
    probes: int,
    key: PRNGKeyArray,
    layer: Layer | None = None,
    memory: int = MEMORY,
) -> AgopEstimate:
    """Estimate AGOP = E[JᵀJ] from `probes` vector–Jacobian products per sample, whatever the number of outputs.

    With v of independent random signs E[(Jᵀv)(Jᵀv)ᵀ] = JᵀJ. Every sample has probes of its own, which depend only on
    `key` and its position in `data`, so that the error shrinks with √(samples · probes). The standard error is
    estimated from the spread among the probes of each sample; it is the error of probing alone, for these samples.

    **Arguments:** `net`, `data` (samples or a `Dataset`), `layer`, `memory`: as in `agop`; `probes`: at least 2.
    **Returns:** an `AgopEstimate`.
    **Raises:** ValueError naming `net`, `data`, `layer` or `probes`.
    **Source:** Hutchinson 1990 (random signs); `agop` is exact, and not more expensive if there are no more outputs
    than probes.
    """
    require_integer("probes", probes, at_least=2)
    require_number("memory", memory, at_least=1)
    require_key("key", key)
    net = measurable(net)
    batch = whole_batch(net, data)
    return _estimate(Tap(net, find_layer(net, layer)), batch, key, probes, memory)


@kernel
def _estimate(tap: Tap, batch: Batch, key: PRNGKeyArray, probes: int, memory: int) -> AgopEstimate:
    function = Function(tap)
    c, z = function.shapes(batch.samples)
    signs = lambda number: jax.random.rademacher(jax.random.fold_in(key, number), (probes, c), z.dtype)
    # Lengths of gradients with respect to h = lengths of B v in the metric WWᵀ = TᵀT.
    T = None if tap.weight is None else triangle(jax.lax.stop_gradient(tap.weight.T))

    def fold(state: tuple[Array, Array], rows: Rows) -> tuple[Array, Array]:
        K, variance = state
        stacked = rows.stacked()
        g = rows.root[None, :, None, None] * (rows.B if T is None else rows.B @ T.T)
        return K + stacked.T @ stacked / probes, variance + jnp.sum(jax.vmap(_variance_of_mean, 1)(g))

    zero = jnp.zeros((z.shape[0], z.shape[0]), z.dtype), jnp.zeros((), z.dtype)
    probe = lambda numbers: jnp.moveaxis(jax.vmap(signs)(numbers), 1, 0)
    K, variance = stream(function, batch, zero, fold, memory, probe)
    value = K if tap.weight is None else tap.weight.T @ (K @ tap.weight)
    return AgopEstimate(value, jnp.sqrt(variance))


def _variance_of_mean(g: Float[Array, "s p k"]) -> Float[Array, ""]:
    """Of the mean over s probes of the matrices M = Σ_p g gᵀ, from their inner products, as a squared norm."""
    s, p, k = g.shape
    if p > k:
        M = jnp.einsum("spk,spl->skl", g, g).reshape(s, -1)
        inner = M @ M.T
    else:
        inner = jnp.sum(jnp.einsum("spk,tqk->stpq", g, g) ** 2, axis=(2, 3))
    return (jnp.trace(inner) - jnp.sum(inner) / s) / (s * (s - 1))
