"""The change of the features of each hidden layer during training, and their linear independence."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...data import Dataset
from ...nets import MLP
from ...numerics.factorizations import spectrum, triangle


class FeatureChange(eqx.Module):
    """An observable: change since an initial network and smallest eigenvalues of the features h_l of N samples.

    By name, for each hidden layer l of width n, with the N rows h_l(x_i) as H_l, and H_l⁰ those of the initial network:
    - `change_l`: the root mean square of the entries of H_l − H_l⁰;
    - `relative_l`: ‖H_l − H_l⁰‖_F / ‖H_l⁰‖_F;
    - `smallest_l`: λ_min of the Gram matrix H_l H_lᵀ/n, which is positive iff the features are linearly independent;
    - `independence_l`: σ_min/σ_max of H_l;
    - `joint_l`, `joint_independence_l`: the same for the 2N rows of [H_l⁰; H_l], 0 at the start.

    Eigenvalues are squared singular values, so that small ones keep their accuracy.

    **Arguments:** `initial`: the network that training began with; `x`: the samples, N × d, 2N ≤ n.
    **Source:** Chen, Yang, Zhao & Gu 2025 (feature change, λ_min of the Gram matrices of h and of [h⁰, h]).
    """

    initial: MLP
    x: Float[Array, "N d"]

    def __call__(self, net: MLP, data: Dataset) -> dict[str, Float[Array, ""]]:
        sizes = {}
        with jax.default_matmul_precision("highest"):  # otherwise a GPU multiplies float32 in TF32
            for l in range(1, net.depth):
                H_0, H = (_features(each, l, self.x) for each in (self.initial, net))
                norm = jnp.linalg.norm(H - H_0)
                sizes[f"change_{l}"] = norm / H.size**0.5
                sizes[f"relative_{l}"] = norm / jnp.linalg.norm(H_0)
                sizes[f"smallest_{l}"], sizes[f"independence_{l}"] = _independence(H)
                sizes[f"joint_{l}"], sizes[f"joint_independence_{l}"] = _independence(jnp.concatenate([H_0, H]))
        return sizes


def _features(net: MLP, layer: int, x: Float[Array, "N d"]) -> Float[Array, "N n"]:
    return jax.vmap(lambda each: net.to_layer(layer + 1, each))(x)


def _independence(H: Float[Array, "N n"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """λ_min of H Hᵀ/n, and σ_min/σ_max."""
    s, _ = spectrum(triangle(H.T))
    return s[-1] ** 2 / H.shape[1], s[-1] / s[0]
