"""The named activation functions, and which of them are the identity or have kinks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..checks import named_function

Activation = str | Callable[[Array], Array]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": jax.nn.identity,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "abs": jnp.abs,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "softplus": jax.nn.softplus,
    "erf": jax.lax.erf,
    "quadratic": jnp.square,
}

PIECEWISE_LINEAR = frozenset({"relu", "leaky_relu", "abs"})


def resolve(activation: Activation, argument: str = "activation") -> Callable[[Array], Array]:
    """The function behind a name; a callable is its own function.

    **Raises:** ValueError naming `argument` for an unknown name or something that cannot be called.
    """
    return named_function(argument, activation, ACTIVATIONS, "of an array")


def name_of(activation: Activation) -> str | None:
    """The name under which an activation is known here, or None for the user's own function."""
    function = resolve(activation)
    return next((name for name, known in ACTIVATIONS.items() if known is function), None)
