"""The network of the one-step theory: f(x) = aᵀσ(Wx), with an activation of mean zero."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from ..checks import require_integer, require_number, wrong
from ..nets import MLP
from ..nets.activations import PIECEWISE_LINEAR, Activation, name_of, resolve
from ..nets.initialization import AbstractInitialization, Weights
from ..theory.hermite import expanded

_RATIO_ERROR = 0.01


class Sizes(NamedTuple):
    """`samples` n, `inputs` d and `width` N."""

    samples: int
    inputs: int
    width: int


def sizes(samples: int, phi: float | int, psi: float | int) -> Sizes:
    """n samples with d = φn inputs and width N = d/ψ, rounded.

    **Arguments:** `samples`: n; `phi`: φ = d/n > 0; `psi`: ψ = d/N > 0.
    **Returns:** `Sizes`.
    **Raises:** ValueError if n is too small: rounding would change φ or ψ by more than 1 %.
    """
    require_integer("samples", samples, at_least=1)
    require_number("phi", phi, above=0)
    require_number("psi", psi, above=0)
    inputs, width = round(phi * samples), round(phi * samples / psi)
    exact = inputs and width and max(abs(inputs / (phi * samples) - 1), abs(inputs / (psi * width) - 1)) <= _RATIO_ERROR
    if not exact:
        raise wrong("samples", f"large enough for d/n = {phi:g} and d/N = {psi:g} with whole d and N", samples)
    return Sizes(samples, inputs, width)


@dataclass(frozen=True)
class Centered:
    """σ − E[σ(Z)] as an activation; equal for equal functions, so that networks share compiled programs."""

    function: Callable[[Any], Any]
    mean: float

    def __call__(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.function(z) - self.mean

    @property
    def has_kinks(self) -> bool:
        """Whether the function is known to be piecewise linear."""
        return name_of(self.function) in PIECEWISE_LINEAR


class SphereRows(AbstractInitialization):
    """Rows of W_0 uniform on the unit sphere, and a readout of independent normal entries of variance 1/N.

    For two layers. With several outputs each has its own such readout.

    **Source:** Moniri, Lee, Hassani & Dobriban 2024.
    """

    def __call__(self, key: PRNGKeyArray, widths: tuple[int, ...], dtype: DTypeLike) -> Weights:
        if len(widths) != 3:
            raise wrong("widths", "(inputs, width, outputs)", list(widths))
        inputs, width, outputs = widths
        row_key, readout_key = jax.random.split(key)
        W = jax.random.normal(row_key, (width, inputs), dtype)
        a = jax.random.normal(readout_key, (outputs, width), dtype) / width**0.5
        return W / jnp.linalg.norm(W, axis=1, keepdims=True), a


def two_layer_net(
    inputs: int,
    width: int,
    activation: Activation,
    *,
    key: PRNGKeyArray,
    outputs: int = 1,
    dtype: DTypeLike | None = None,
) -> MLP:
    """f(x) = aᵀ(σ(Wx) − E[σ(Z)]) with weights as in `SphereRows`.

    **Arguments:** `inputs`, `width`, `outputs`: d, N and c; `activation`: σ, a name or a function, whose mean is
    subtracted; `key`: PRNG key; `dtype`: of the weights.
    **Returns:** an `MLP`.
    **Raises:** ValueError as `nf.theory.hermite` and `nf.nets.MLP` do.
    """
    for argument, size in {"inputs": inputs, "width": width, "outputs": outputs}.items():
        require_integer(argument, size, at_least=1)
    centered = Centered(resolve(activation), float(expanded("activation", activation, max_order=1).coefficients[0]))
    return MLP([inputs, width, outputs], key=key, activation=centered, init=SphereRows(), dtype=dtype)
