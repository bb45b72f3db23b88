"""The average gradient outer product, through a factor that is never squared.

With the Jacobian J(x) = df/dh of the network with respect to the input h of a layer, AGOP = E[JᵀJ]. Since J = B W with
B = df/dz (z = W h + b, of the layer's width), only the B are formed, and they are folded chunk by chunk into the
triangular factor R of their stack (TSQR): AGOP = FᵀF with F = R W. Powers of AGOP come from the singular values of F,
which keeps the relative accuracy that the eigenvalues of an assembled AGOP lose.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..checks import wrong
from ..data import Dataset
from ..nets import MLP
from .nfm import layer_weight

# A chunk has this many entries, but at least so many rows per column that the QR of a chunk is not spent on R again.
_ENTRIES_PER_CHUNK = 2**16
_ROWS_PER_COLUMN = 4


@jax.default_matmul_precision("highest")  # a GPU would otherwise multiply float32 in TF32, with three digits
def agop(net: Any, x: Dataset | Float[Array, "n d"], *, layer: int = 1) -> Float[Array, "h h"]:
    """Average gradient outer product AGOP = E[J(x)ᵀJ(x)] with respect to the input of layer `layer`.

    J is the full c × d Jacobian, and E the mean over samples, weighted if `x` is a `Dataset` with weights.

    **Arguments:** `net`: an `MLP`; for layer 1 any Equinox module "d" -> "c"; `x`: the samples; `layer`: l = 1 … L.
    **Returns:** a symmetric positive semi-definite matrix of the layer's fan-in.
    **Raises:** ValueError naming `layer` or `net`.
    **Source:** Radhakrishnan et al. 2024 (Science), eq. 1; Beaglehole et al. 2024 for deeper layers.
    """
    F = agop_factor(net, x, layer=layer)
    return F.T @ F


@jax.default_matmul_precision("highest")
def agop_factor(net: Any, x: Dataset | Float[Array, "n d"], *, layer: int = 1) -> Float[Array, "r h"]:
    """A factor F with AGOP = FᵀF; arguments as in `agop`. Its singular values are the roots of AGOP's eigenvalues."""
    R, W = preactivation_factor(net, x, layer=layer)
    return R if W is None else R @ W


def preactivation_factor(
    net: Any, x: Dataset | Float[Array, "n d"], *, layer: int
) -> tuple[Float[Array, "r k"], Float[Array, "k h"] | None]:
    """(R, W_l) with RᵀR = E[BᵀB], B = df/dz_l; for a module that is not an `MLP`, (F, None) at its input."""
    samples, weight = (x.x, x.sample_weight) if isinstance(x, Dataset) else (x, jnp.full(len(x), 1 / len(x)))
    if not isinstance(net, MLP):
        if layer != 1:
            raise wrong("layer", f"1 for a {type(net).__name__}: deeper layers need an `MLP`", layer)
        return _stack_factor(jax.jacrev(net), samples, weight), None
    W = layer_weight(net, layer)
    if net.is_linear:
        return _product(net.weights[layer:], W), W
    B = lambda x: jax.jacrev(lambda z: net.from_preactivation(layer, z))(net.layers[layer - 1](net.to_layer(layer, x)))
    return _stack_factor(B, samples, weight), W


def _product(later: tuple[Array, ...], W: Float[Array, "k d"]) -> Float[Array, "c k"]:
    """W_L … W_{l+1}, from the output side."""
    if not later:
        return jnp.eye(W.shape[0], dtype=W.dtype)
    B = later[-1]
    for each in later[-2::-1]:
        B = B @ each
    return B


def _stack_factor(
    jacobian: Callable[[Float[Array, " d"]], Float[Array, "c k"]], x: Float[Array, "n d"], weight: Float[Array, " n"]
) -> Float[Array, "k k"]:
    """Triangular R with RᵀR = Σ w_i J_iᵀJ_i, one chunk of samples at a time."""
    one = jax.eval_shape(jacobian, x[0])
    if len(one.shape) != 2:
        raise wrong("net", "a map from a vector to a vector of outputs", f"one with a Jacobian of shape {one.shape}")
    c, k = one.shape
    samples = len(x)
    entries = max(_ENTRIES_PER_CHUNK, _ROWS_PER_COLUMN * k**2)
    chunks = min(samples, -(-samples * c * k // entries))
    size = -(-samples // chunks)
    # The last chunk is filled up with the first sample at weight zero.
    index = jnp.arange(chunks * size)
    real = index < samples
    index = jnp.where(real, index, 0)
    root = jnp.sqrt(jnp.where(real, weight[index], 0)).astype(one.dtype)

    def fold(R: Float[Array, "k k"], chunk: tuple[Array, Array]) -> tuple[Float[Array, "k k"], None]:
        index, root = chunk
        rows = (root[:, None, None] * jax.vmap(jacobian)(x[index])).reshape(-1, k)
        return jnp.linalg.qr(jnp.concatenate([R, rows]), mode="r"), None

    R, _ = jax.lax.scan(fold, jnp.zeros((k, k), one.dtype), (index.reshape(chunks, size), root.reshape(chunks, size)))
    return R
