"""The features of a two-layer network on a batch, and their equivalents in the theory."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..checks import described, is_traced, real_array, require_integers, require_key, wrong
from ..data import Dataset
from ..nets import MLP
from ..numerics.kernel import kernel
from ..numerics.precision import single_or_wider
from ..theory import Hermite
from ..theory.hermite import require_expansion


def features(net: MLP, data: Dataset | Float[Array, "n d"]) -> Float[Array, "n N"]:
    """F = σ(XWᵀ), the input of the readout.

    **Arguments:** `net`: of two layers; `data`: the batch, as an array of inputs or a `Dataset`.
    **Returns:** one row per sample.
    """
    _require_net(net)
    return _features(net, _inputs(net, data))


def _require_net(net: Any) -> None:
    if not isinstance(net, MLP) or net.depth != 2:
        raise wrong("net", "an `MLP` of two layers, as from `two_layer_net`", described(net))


def _inputs(net: MLP, data: Any) -> Float[Array, "n d"]:
    x = data.x if isinstance(data, Dataset) else data
    return real_array("data", x, "n", net.widths[0]).astype(net.weights[0].dtype)


def gaussian_features(
    net: MLP, data: Dataset | Float[Array, "n d"], activation: Hermite, *, key: PRNGKeyArray
) -> Float[Array, "n N"]:
    """c_1 XWᵀ + c_{>1} Z with independent normal Z: the same spectra and losses as the features before the step.

    **Arguments:** `net`: as it starts; `data`: as in `features`; `activation`: the expansion of σ; `key`: PRNG key.
    **Returns:** one row per sample.
    **Source:** Montanari & Saeed 2022; Moniri et al. 2024.
    """
    require_key("key", key)
    _require_net(net)
    require_expansion("activation", activation)
    return _gaussian_features(key, net.weights[0], _inputs(net, data), activation)


def powers(x: Float[Array, "n d"], beta: Float[Array, " d"], orders: Sequence[int]) -> Float[Array, "n s"]:
    """(Xβ/‖β‖)^{∘k}, entry by entry: the directions of the spikes of these orders.

    **Arguments:** `x`: the batch; `beta`: a column of `gradient_vector`; `orders`: the k ≥ 1.
    **Returns:** one column per order.
    """
    require_integers("orders", orders, at_least=1)
    if not orders:
        raise wrong("orders", "at least one order", "empty")
    x = floating_matrix("x", x)
    beta = real_array("beta", beta, x.shape[1]).astype(x.dtype)
    size = jnp.max(jnp.abs(beta))  # before it is squared
    if not is_traced(size) and not size > 0:
        raise wrong("beta", "other than zero", "zero everywhere, or undefined")
    direction = beta / size
    u = x @ (direction / jnp.linalg.norm(direction))
    return jnp.stack([u**k for k in orders], axis=1)


def floating_matrix(argument: str, value: Any) -> Float[Array, "n k"]:
    """`value` as a matrix with at least one row, of a floating type that can be factorized.

    **Raises:** ValueError naming `argument`.
    """
    matrix = real_array(argument, value, "n", "k")
    if not len(matrix):
        raise wrong(argument, "a matrix with at least one row", f"of shape {matrix.shape}")
    is_floating = jnp.issubdtype(matrix.dtype, jnp.floating)
    return matrix.astype(single_or_wider(matrix.dtype) if is_floating else jnp.zeros(()).dtype)


@kernel
def _features(net: MLP, x: Float[Array, "n d"]) -> Float[Array, "n N"]:
    return jax.vmap(lambda row: net.to_layer(2, row))(x)


@kernel
def _gaussian_features(
    key: PRNGKeyArray, W: Float[Array, "N d"], x: Float[Array, "n d"], activation: Hermite
) -> Float[Array, "n N"]:
    Z = jax.random.normal(key, (len(x), len(W)), x.dtype)
    return activation.coefficients[1] * x @ W.T + jnp.sqrt(jnp.maximum(activation.nonlinear, 0)) * Z
