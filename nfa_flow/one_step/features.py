"""The features of a two-layer network on a batch, and what the theory takes them for."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..checks import require_integer
from ..nets import MLP
from ..theory import Hermite


def features(net: MLP, x: Float[Array, "n d"]) -> Float[Array, "n N"]:
    """F = σ(XWᵀ), the input of the readout.

    **Arguments:** `net`: of two layers; `x`: the batch.
    **Returns:** one row per sample.
    """
    return _features(net, x)


def gaussian_features(key: PRNGKeyArray, net: MLP, x: Float[Array, "n d"], activation: Hermite) -> Float[Array, "n N"]:
    """c_1 XWᵀ + c_{>1} Z with independent normal Z: as good as the features before the step, for spectra and losses.

    **Arguments:** `key`: PRNG key; `net`: as it starts; `x`: the batch; `activation`: the expansion of σ.
    **Returns:** one row per sample.
    **Source:** Montanari & Saeed 2022; Moniri et al. 2024.
    """
    return _gaussian_features(key, net.weights[0], x, activation)


def powers(x: Float[Array, "n d"], beta: Float[Array, " d"], orders: Sequence[int]) -> Float[Array, "n s"]:
    """(Xβ/‖β‖)^{∘k}, entry by entry: what the spikes of these orders consist of.

    **Arguments:** `x`: the batch; `beta`: a column of `gradient_vector`; `orders`: the k ≥ 1.
    **Returns:** one column per order.
    """
    for k in orders:
        require_integer("orders", k, at_least=1)
    u = x @ (beta / jnp.linalg.norm(beta))
    return jnp.stack([u**k for k in orders], axis=1)


@eqx.filter_jit
@jax.default_matmul_precision("highest")  # a GPU would otherwise multiply float32 in TF32, with three digits
def _features(net: MLP, x: Float[Array, "n d"]) -> Float[Array, "n N"]:
    return jax.vmap(lambda row: net.to_layer(2, row))(x)


@jax.jit
@jax.default_matmul_precision("highest")
def _gaussian_features(
    key: PRNGKeyArray, W: Float[Array, "N d"], x: Float[Array, "n d"], activation: Hermite
) -> Float[Array, "n N"]:
    Z = jax.random.normal(key, (len(x), len(W)), x.dtype)
    return activation.coefficients[1] * x @ W.T + jnp.sqrt(jnp.maximum(activation.nonlinear, 0)) * Z
