"""Which arrays of a network are trained: those with respect to which the loss has a gradient.

An array that is unused, or that passes `jax.lax.stop_gradient`, has none. This is a property of the program and not of
numbers: it is read off the tracing of one backward pass, in which the gradient of such an array is a symbolic zero.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, PyTree

from ..checks import wrong


def trained_arrays(loss: Callable[[PyTree], Float[Array, ""]], parameters: PyTree) -> tuple[bool, ...]:
    """For each array in `parameters` whether `loss` has a gradient with respect to it. Nothing is computed."""
    leaves, structure = jax.tree.flatten(parameters)
    reached: set[int] = set()
    probed = lambda leaves: jax.tree.unflatten(structure, [_probe(reached, i)(p) for i, p in enumerate(leaves)])
    jax.eval_shape(jax.grad(lambda leaves: loss(probed(leaves))), leaves)
    return tuple(i in reached for i in range(len(leaves)))


def _probe(reached: set[int], i: int) -> Callable[[Array], Array]:
    """The identity; it adds `i` to `reached` when a gradient passes backwards through it."""

    @jax.custom_vjp
    def identity(p: Array) -> Array:
        return p

    def backward(_: None, gradient: Any) -> tuple[Array]:
        if not isinstance(gradient, SymbolicZero):
            reached.add(i)
        return (jnp.zeros(gradient.shape, jnp.result_type(gradient)),)

    identity.defvjp(lambda p: (p.value, None), backward, symbolic_zeros=True)
    return identity


def require_untrained_state(parameters: PyTree, trained: tuple[bool, ...]) -> None:
    """Raise if the running statistics of a stateful layer are among the trained arrays.

    **Raises:** ValueError naming `net`.
    """
    is_state = lambda node: isinstance(node, eqx.nn.State)
    marked = jax.tree.unflatten(jax.tree.structure(parameters), trained)
    for node in jax.tree.leaves(marked, is_leaf=is_state):
        if is_state(node) and any(jax.tree.leaves(node)):
            must_be = "a module that passes its `eqx.nn.State` through `jax.lax.stop_gradient` in its call"
            raise wrong("net", must_be, "one whose running statistics would be trained")


def prediction_of(net: Any, x: Float[Array, "n ..."]) -> PyTree:
    """The shape and dtype of a network's prediction for one of these samples.

    **Raises:** ValueError naming `net` if its call raises an error.
    """
    sample = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    try:
        return eqx.filter_eval_shape(net, sample)
    except Exception as error:
        must_be = f"a map from one sample of shape {sample.shape} to a prediction"
        raise wrong("net", must_be, _why_it_failed(net, error)) from error


def _why_it_failed(net: Any, error: Exception) -> str:
    """The error of a network's call on one sample, and how to avoid it if a layer of Equinox is the reason."""
    is_special = lambda node: isinstance(node, eqx.nn.StateIndex | eqx.nn.Dropout)
    layers = [node for node in jax.tree.leaves(net, is_leaf=is_special) if is_special(node)]
    said = f"one that raises {type(error).__name__}: {error}".rstrip(".")
    if any(isinstance(layer, eqx.nn.StateIndex) for layer in layers):
        call = "`eqx.nn.inference_mode(self.net)(x, jax.lax.stop_gradient(self.state))[0]`"
        return f"{said}. Layers with a state, such as BatchNorm, need a module around them whose call is {call}"
    if layers:
        return f"{said}. Dropout is switched off by `eqx.nn.inference_mode(net)`"
    return said
