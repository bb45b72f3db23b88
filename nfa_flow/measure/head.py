"""Linear layers before a head: the condition under which balance gives the Neural Feature Ansatz.

With k linear layers before a head g, f(x) = g(Mx) with M = W_k … W_1, AGOP = MᵀBM with B = E[J_gᵀJ_g]. If these layers
are balanced, NFM = (MᵀM)^{1/k}. So NFM ∝ AGOP^{1/k} if and only if B is a multiple of the identity on the range of M.
"""

import itertools
from functools import reduce

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..checks import wrong
from ..nets import MLP
from ..nets.activations import name_of
from ..numerics.kernel import kernel, measurable
from .agop import Samples, jacobian_sum
from .jacobian_sums import jacobian_sum_kind


def leading_linear_layers(net: MLP) -> int:
    """The number k of first layers with only identities between them: 1 … L, and L for a linear network.

    **Raises:** ValueError naming `net` if it is not an `MLP`.
    """
    if not isinstance(net, MLP):
        raise wrong("net", "an `nfa_flow.nets.MLP`", f"a {type(net).__module__.split('.')[0]} {type(net).__name__}")
    identities = itertools.takewhile(lambda each: name_of(each) == "identity", net.activations)
    return 1 + len(list(identities))


def head_matrix(net: MLP, data: Samples) -> Float[Array, "m m"]:
    """B = E[J_gᵀJ_g], the AGOP of the head g of a network f(x) = g(Mx), with M the product of its k linear layers.

    It is taken at the pre-activation of layer k = `leading_linear_layers(net)`, and AGOP = MᵀBM. For a linear network g
    is the identity.

    **Arguments:** `net`: an `MLP`; `data`: as in `agop`.
    **Returns:** a symmetric positive semi-definite matrix of the width m of layer k.
    **Raises:** ValueError naming `net` or `data`.
    **Source:** Tansley, Massart & Cartis 2026 (linear layers before a nonlinear head); the condition on B is ours.
    """
    total = jacobian_sum_kind(factor=False, centered=False)
    return jacobian_sum(net, data, total, layer=leading_linear_layers(net))[0]


def head_anisotropy(net: MLP, data: Samples) -> Float[Array, ""]:
    """The distance of `head_matrix` from β I on the range of M: 0 if and only if balance gives the NFA at 1/k.

    With P the projector on that range and r its dimension, ‖PBP − βP‖ / ‖βP‖ in the Frobenius norm with β = tr(PBP)/r.
    It is in [0, √(r−1)]; the upper end is reached by B of rank one, as for a head whose gradient has one direction.
    Untrained networks score 1.8 to 1.9 (50-50-50-10, one or two layers before tanh, 100 standard normal samples, where
    the upper end is 7). NaN if M or PBP vanishes to working precision. Directions of M within a hundred rounding errors
    of its factors do not count as part of its range.

    **Arguments:** `net`: an `MLP`; `data`: as in `agop`.
    **Returns:** a scalar.
    **Raises:** ValueError naming `net` or `data`.
    **Source:** ours.
    """
    return _anisotropy(head_matrix(net, data), measurable(net).weights[: leading_linear_layers(net)])


@kernel
def _anisotropy(B: Float[Array, "m m"], weights: tuple[Float[Array, "_ _"], ...]) -> Float[Array, ""]:
    M = reduce(lambda M, W: W @ M, weights)
    U, s, _ = jnp.linalg.svd(M, full_matrices=False)
    rounding = 100 * jnp.finfo(M.dtype).eps
    in_range = s > rounding * jnp.prod(jnp.stack([jnp.linalg.norm(W) for W in weights]))
    PBP = jnp.where(in_range[:, None] & in_range[None], U.T @ B @ U, 0)  # in the basis U of the range
    trace, r = jnp.trace(PBP), jnp.sum(in_range.astype(B.dtype))
    is_undefined = trace <= rounding * jnp.trace(B)  # also where nothing is in range
    PBP = PBP / jnp.where(is_undefined, 1, trace)
    anisotropy = jnp.sqrt(r) * jnp.linalg.norm(PBP - jnp.diag(in_range.astype(B.dtype)) / r)
    return jnp.where(is_undefined, jnp.nan, anisotropy)
