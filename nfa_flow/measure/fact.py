"""Features at convergence: the Gram matrices of a layer's weights at critical points with weight decay.

Where the gradient of ℒ + (λ/2)‖θ‖² vanishes, so does its part ∂ℒ/∂W + λW for the weights W of any one layer. With ∂ℒ/∂W
= E[∇_z ℓ hᵀ], multiplied by Wᵀ from the left or from the right this gives WᵀW = −E[∇_h ℓ hᵀ]/λ and WWᵀ = −E[∇_z ℓ (W
h)ᵀ]/λ. Biases, decayed or not, have equations of their own and do not appear.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..checks import described, require_integer, require_number, wrong
from ..data import Dataset
from ..numerics.kernel import kernel
from ..problem.losses import Loss, loss_or_default, resolve_of_sample
from ..problem.trained import Trainable, selected
from ..run.observation import from_run
from .agop import MEMORY
from .layer import Layer, by_code, find_layer, layer_weight, weighted_layers
from .layer_statistics import LayerRows, LayerStream, layer_stream


@from_run("loss", "weight_decay", "trainable")
def fact(
    net: Any,
    data: Dataset,
    *,
    weight_decay: float | Float[Array, ""] | None = None,
    loss: Loss | None = None,
    layer: Layer = 1,
    trainable: Trainable | None = None,
    memory: int = MEMORY,
) -> Float[Array, "h h"]:
    """FACT = −(1/λ) Σ_i w_i ∇_h ℓ_i h_iᵀ, which equals NFM = W_lᵀW_l at every critical point of ℒ + (λ/2)‖θ‖².

    h is the input of layer `layer` and ∇_h ℓ = W_lᵀ ∇_z ℓ the gradient of the sample's loss with respect to h through
    this layer. For a convolution the patches of all positions are summed (not averaged), because its kernel is shared
    among them. Away from critical points the matrix is neither symmetric nor positive; `FactError` measures the
    distance.

    **Arguments:**
    - `net`, `layer`, `memory`: as in `agop`. At the input of a module whose order of layers is not known, h is x.
    - `data`: with the targets that the loss needs.
    - `weight_decay`: λ > 0 of the training. An array can be batched and does not recompile. By default that of the run
      whose observable this is (the result is NaN if the run has none); a direct call needs it.
    - `loss`: "mse", "cross_entropy" or a function `(prediction, target) -> scalar`. By default that of the run, and
      "mse" in a direct call.
    - `trainable`: a filter of the arrays that are trained, as in `gradient_flow`, by default that of the run. They must
      include the weights of the layer, because those of a frozen layer meet no condition at a critical point.

    **Returns:** a matrix of the layer's fan-in.
    **Raises:** ValueError naming `net`, `data`, `weight_decay`, `loss`, `layer`, `trainable` or `memory`.
    **Source:** Boix-Adserà, Mallinar, Simon & Belkin 2025 (arXiv 2507.05644), Theorem 1.
    """
    require_number("weight_decay", weight_decay, above=0)
    _require_trained(net, layer, trainable)
    stream = layer_stream(net, data, layer=layer, loss=loss_or_default(loss), memory=memory)
    return _fact(stream, jnp.asarray(weight_decay))


@from_run("loss", "weight_decay", "trainable")
def bfact(
    net: Any,
    data: Dataset,
    *,
    weight_decay: float | Float[Array, ""] | None = None,
    loss: Loss | None = None,
    layer: Layer = 1,
    trainable: Trainable | None = None,
    memory: int = MEMORY,
) -> Float[Array, "k k"]:
    """bFACT = −(1/λ) Σ_i w_i ∇_z ℓ_i (W_l h_i)ᵀ, which equals W_lW_lᵀ at every critical point of ℒ + (λ/2)‖θ‖².

    The backward form of `fact`: z = W_l h + b_l is the pre-activation of the layer, and its bias is left out.

    **Arguments:** as in `fact`.
    **Returns:** a matrix of the layer's width; symmetric only at critical points.
    **Raises:** as `fact`; ValueError naming `layer` at the input of a module, which has no weights.
    **Source:** Boix-Adserà, Mallinar, Simon & Belkin 2025 (arXiv 2507.05644), the backward form of Theorem 1.
    """
    require_number("weight_decay", weight_decay, above=0)
    _require_trained(net, layer, trainable)
    stream = layer_stream(net, data, layer=layer, loss=loss_or_default(loss), memory=memory)
    if stream.tap.position is None:
        raise wrong("layer", "a layer with weights (name it by a function)", f"the input of a {type(net).__name__}")
    return _bfact(stream, jnp.asarray(weight_decay))


class FactError(eqx.Module):
    """The distance of a layer from its features at convergence, as an observable `(net, data) -> scalar`.

    ‖W_lᵀW_l − FACT‖ / ‖W_lᵀW_l‖ in the Frobenius norm, or ‖W_lW_lᵀ − bFACT‖ / ‖W_lW_lᵀ‖. It is 0 at critical points and
    at most ‖∇‖ / (λ‖W_l‖₂) elsewhere, where ∇ is the whole gradient. It has no upper bound, and untrained networks are
    far above 1 if λ is small (10-10-10-10 tanh, λ = .01, 100 standard normal samples and targets: 20 to 40 in the
    median). NaN if the weights vanish: ‖W_l‖² is at most machine epsilon.

    **Arguments:** `weight_decay`, `loss`: those of the training, by default those of the run, as in `fact`; `layer`: as
    in `agop`; `backward`: whether to use `bfact`.
    **Source:** Boix-Adserà, Mallinar, Simon & Belkin 2025 (arXiv 2507.05644).
    """

    weight_decay: float | Float[Array, ""] | None = None
    loss: Loss | None = eqx.field(static=True, default=None, kw_only=True)
    layer: Layer = eqx.field(static=True, default=1, kw_only=True, converter=by_code)
    backward: bool = eqx.field(static=True, default=False, kw_only=True)

    def __check_init__(self):
        if self.weight_decay is not None:
            require_number("weight_decay", self.weight_decay, above=0)
        if self.loss is not None:
            resolve_of_sample(self.loss)
        if isinstance(self.layer, int) or not callable(self.layer):
            require_integer("layer", self.layer, at_least=1)

    @property
    def from_run(self) -> tuple[str, ...]:
        """The arguments that the caller did not give, and a run supplies."""
        return *(name for name in ("loss", "weight_decay") if getattr(self, name) is None), "trainable"

    def __call__(self, net: Any, data: Dataset, **supplied: Any) -> Float[Array, ""]:
        """The error for a network on data; `supplied`: arguments that a run supplies."""
        matrix = bfact if self.backward else fact
        settings = {"loss": self.loss, "weight_decay": self.weight_decay} | supplied
        predicted = matrix(net, data, layer=self.layer, **settings)
        W = layer_weight(net, self.layer)
        W = W.T if self.backward else W
        if predicted.shape[1] != W.shape[1]:
            must_be = f"named by a function where the first layer of a {type(net).__name__} is not at its input"
            raise wrong("layer", must_be, self.layer)
        return _relative_error(W, predicted)


def _require_trained(net: Any, layer: Layer, trainable: Trainable | None) -> None:
    if trainable is None or (position := find_layer(net, layer)) is None:
        return
    if weighted_layers(selected(net, trainable))[position].weight is None:
        must_be = "one whose weights are trained, and so meet the condition of a critical point"
        raise wrong("layer", must_be, f"{described(layer)}, which is frozen")


@kernel
def _fact(stream: LayerStream, weight_decay: Float[Array, ""]) -> Float[Array, "h h"]:
    G, W = _weight_gradient(stream), stream.tap.weight
    return _over_decay(G if W is None else W.T @ G, weight_decay)


@kernel
def _bfact(stream: LayerStream, weight_decay: Float[Array, ""]) -> Float[Array, "k k"]:
    G, W = _weight_gradient(stream), stream.tap.weight
    assert W is not None
    return _over_decay(G @ W.T, weight_decay)


def _over_decay(matrix: Float[Array, "m m"], weight_decay: Float[Array, ""]) -> Float[Array, "m m"]:
    """−matrix/λ, and NaN for λ = 0, of which a run is the only source."""
    decays = weight_decay > 0
    return jnp.where(decays, -matrix / jnp.where(decays, weight_decay, 1).astype(matrix.dtype), jnp.nan)


def _weight_gradient(stream: LayerStream) -> Float[Array, "k h"]:
    """∂ℒ/∂W = Σ_i w_i ∇_z ℓ_i h_iᵀ, summed over positions."""
    fan_in, k, dtype = stream.sizes

    def add(G: Array, rows: LayerRows) -> Array:
        g = rows.weight[:, None, None] * rows.g
        return G + jnp.tensordot(g, rows.h, axes=((0, 1), (0, 1)))

    return stream.fold(jnp.zeros((k, fan_in), dtype), add)


@kernel
def _relative_error(W: Float[Array, "k h"], predicted: Float[Array, "h h"]) -> Float[Array, ""]:
    gram = W.T @ W
    vanishes = jnp.sum(W**2) <= jnp.finfo(W.dtype).eps
    return jnp.where(vanishes, jnp.nan, jnp.linalg.norm(gram - predicted) / jnp.linalg.norm(gram))
