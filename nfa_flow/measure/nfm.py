"""The neural feature matrix: the Gram matrix of a layer's weights."""

from typing import Any

from jaxtyping import Array, Float

from ..numerics.switches import full_precision
from .layer import Layer, layer_weight


@full_precision
def nfm(net: Any, data: Any = None, *, layer: Layer = 1) -> Float[Array, "d d"]:
    """Neural feature matrix NFM = W_lᵀW_l of layer l.

    **Arguments:** `net`: a network with `equinox.nn.Linear`s or `Conv`s (their kernels unfolded); `data`: not used;
    with it the function is an observable; `layer`: as in `agop`.
    **Returns:** a symmetric positive semi-definite matrix of the layer's fan-in.
    **Source:** Radhakrishnan et al. 2024 (Science), eq. 2; Tansley, Massart & Cartis 2026.
    """
    W = layer_weight(net, layer)
    return W.T @ W
