"""The change of the weights of each layer during training, in the norms of the spectral condition."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...data import Dataset
from ...nets import MLP
from ...numerics.factorizations import largest_singular_value


class LayerNorms(eqx.Module):
    """An observable: for every layer, sizes of weights and of changes of weights and features since an initial network.

    By name, one number per layer; undefined for updates of zero:
    - `weight`: ‖W_l‖_* over √(fan_out/fan_in);
    - `update`: ‖ΔW_l‖_* over the same, with ΔW_l = W_l − W_l(0);
    - `moved`: ‖ΔW_l‖_F / ‖W_l(0)‖_F;
    - `stable_rank`: ‖ΔW_l‖_F² / ‖ΔW_l‖_*²;
    - `alignment`: ‖ΔW_l h‖ / (‖ΔW_l‖_* ‖h‖), root mean squares over the samples, h the initial input of the layer;
    - `change`: root mean square of the change of the features h_l (for the last layer: of the outputs).

    **Arguments:** `initial`: the network that training began with.
    **Source:** Yang, Simon & Bernstein 2023, Condition 1, and the alignment of updates with features.
    """

    initial: MLP

    def __call__(self, net: MLP, data: Dataset) -> dict[str, Float[Array, " L"]]:
        before, after = (_features(each, data.x) for each in (self.initial, net))
        rows = zip(self.initial.weights, net.weights, before[:-1], before[1:], after[1:], strict=True)
        sizes = [_sizes(*row) for row in rows]
        return {name: jnp.stack([each[name] for each in sizes]) for name in sizes[0]}


def _features(net: MLP, x: Float[Array, "n d"]) -> list[Float[Array, "n _"]]:
    """h_0 = x, …, h_{L−1} and the outputs."""
    return [*(jax.vmap(lambda each, l=l: net.to_layer(l, each))(x) for l in range(1, net.depth + 1)), jax.vmap(net)(x)]


def _sizes(
    W_0: Float[Array, "p q"],
    W: Float[Array, "p q"],
    h: Float[Array, "n q"],
    z_0: Float[Array, "n p"],
    z: Float[Array, "n p"],
) -> dict[str, Float[Array, ""]]:
    change, unit = W - W_0, (W.shape[0] / W.shape[1]) ** 0.5
    norm, frobenius = largest_singular_value(change), jnp.linalg.norm(change)
    known = jnp.where(norm > 0, norm, jnp.nan)
    return {
        "weight": largest_singular_value(W) / unit,
        "update": norm / unit,
        "moved": frobenius / jnp.linalg.norm(W_0),
        "stable_rank": (frobenius / known) ** 2,
        "alignment": jnp.linalg.norm(h @ change.T) / (known * jnp.linalg.norm(h)),
        "change": jnp.sqrt(jnp.mean((z - z_0) ** 2)),
    }
