"""The neural feature matrix: the Gram matrix of a layer's weights."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float

from ..checks import require_integer, wrong


@jax.default_matmul_precision("highest")  # a GPU would otherwise multiply float32 in TF32, with three digits
def nfm(net: Any, data: Any = None, *, layer: int = 1) -> Float[Array, "d d"]:
    """Neural feature matrix NFM = W_lᵀW_l of layer l.

    **Arguments:** `net`: an `MLP`, or a module whose `layers` hold `equinox.nn.Linear`s; `data`: unused, so that it
    serves as an observable; `layer`: l = 1 … L.
    **Returns:** a symmetric positive semi-definite matrix of the layer's fan-in.
    **Source:** Radhakrishnan et al. 2024 (Science), eq. 2; Tansley, Massart & Cartis 2026.
    """
    W = layer_weight(net, layer)
    return W.T @ W


def layer_weight(net: Any, layer: int) -> Float[Array, "fan_out fan_in"]:
    """The weight matrix W_l of a network, l = 1 … L.

    **Raises:** ValueError naming `layer` or `net`.
    """
    require_integer("layer", layer, at_least=1)
    linears = [each for each in getattr(net, "layers", ()) if isinstance(each, eqx.nn.Linear)]
    if not linears:
        raise wrong("net", "a network with `layers` of `equinox.nn.Linear`", type(net).__name__)
    if layer > len(linears):
        raise wrong("layer", f"at most the number of layers, {len(linears)}", layer)
    return linears[layer - 1].weight
