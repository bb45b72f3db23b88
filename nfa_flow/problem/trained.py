"""Which arrays of a network are trained: those that are selected and with respect to which the loss has a gradient.

An array that is unused, or that passes `jax.lax.stop_gradient`, has none. This is a property of the program and not of
numbers: it is read off the tracing of one backward pass, in which the gradient of such an array is a symbolic zero.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, PyTree, Shaped

from ..checks import described, wrong

Trainable = Callable[[Any], bool] | PyTree  # a filter of Equinox

_IN_STATE = lambda node: isinstance(node, eqx.nn.State)  # the running statistics of stateful layers


def selected(net: Any, trainable: Trainable | None) -> PyTree:
    """The floating-point arrays that a filter selects, in the structure of the network; all of them for None.

    Running statistics (`eqx.nn.State`) are never selected.

    **Raises:** ValueError naming `net` if there are none; `trainable` if it is no filter for this network, selects
    arrays of other types, or nothing.
    """
    try:
        chosen = eqx.filter(net, eqx.is_inexact_array if trainable is None else trainable)
    except Exception as error:  # of the filter itself, or of another structure
        must_be = "a function of leaves, or a tree of True and False in the structure of `net` or of its first branches"
        is_function = callable(trainable) and not isinstance(trainable, eqx.Module)
        raised = f"one that raises {type(error).__name__}: {error}".rstrip(".")
        raise wrong("trainable", must_be, raised if is_function else described(trainable)) from error
    chosen = eqx.filter(chosen, jax.tree.map(lambda node: not _IN_STATE(node), net, is_leaf=_IN_STATE))
    for path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(chosen, eqx.is_array)):
        if not eqx.is_inexact_array(leaf):
            must_be = "a selection of floating-point arrays (of a whole branch: `eqx.is_inexact_array` instead of True)"
            raise wrong("trainable", must_be, f"one with {_name(path)}, of type {leaf.dtype}")
    parameters = eqx.filter(chosen, eqx.is_inexact_array)
    require_some(parameters, net, trainable)
    return parameters


def require_some(parameters: PyTree, net: Any, trainable: Trainable | None) -> None:
    """Raise unless there is an array to train."""
    if jax.tree.leaves(parameters):
        return
    if trainable is None:
        must_be = "an Equinox module with floating-point parameters on which the loss depends"
        raise wrong("net", must_be, type(net).__name__)
    raise wrong("trainable", "a selection of at least one array on which the loss depends", "one of none")


def with_gradient(loss: Callable[[Any], Float[Array, ""]], parameters: PyTree, net: Any) -> PyTree:
    """Those of the parameters of `net` with respect to which `loss`, a function of the network, has a gradient."""
    frozen = without(net, parameters)
    reached = trained_arrays(lambda parameters: loss(eqx.combine(parameters, frozen)), parameters)
    return eqx.filter(parameters, jax.tree.unflatten(jax.tree.structure(parameters), reached))


def without(net: Any, parameters: PyTree) -> PyTree:
    """The rest of a network: `equinox.combine` of its parameters and the rest is the network."""
    is_none = lambda leaf: leaf is None
    return jax.tree.map(lambda p, leaf: leaf if p is None else None, parameters, net, is_leaf=is_none)


def frozen_branches(parameters: PyTree, frozen: PyTree) -> list[str]:
    """The names of the largest branches of a network in which no floating-point array is a parameter."""
    paths = lambda tree: [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    begun = {path[:k] for path in paths(parameters) for k in range(len(path) + 1)}
    ends = lambda path: next(k for k in range(len(path) + 1) if path[:k] not in begun)
    branches = dict.fromkeys(path[: ends(path)] for path in paths(eqx.filter(frozen, eqx.is_inexact_array)))
    return [_name(branch) for branch in branches]


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


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


def one_of(samples: PyTree) -> PyTree:
    """The shape and dtype of one of these samples (or specifications of such)."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), samples)


def prediction_of(net: Any, x: PyTree[Shaped[Array, "n ..."]]) -> PyTree:
    """The shape and dtype of a network's prediction for one of these samples.

    **Raises:** ValueError naming `net` if its call raises an error.
    """
    sample = one_of(x)
    try:
        return eqx.filter_eval_shape(net, sample)
    except Exception as error:
        shapes = jax.tree.map(lambda leaf: leaf.shape, sample)
        must_be = f"a map from one sample of shape {shapes} to a prediction"
        raise wrong("net", must_be, _why_it_failed(net, error)) from error


def _why_it_failed(net: Any, error: Exception) -> str:
    """The error of a network's call on one sample, and how to avoid it if a layer of Equinox is the reason."""
    is_special = lambda node: isinstance(node, eqx.nn.StateIndex | eqx.nn.Dropout)
    layers = [node for node in jax.tree.leaves(net, is_leaf=is_special) if is_special(node)]
    said = f"one that raises {type(error).__name__}: {error}".rstrip(".")
    if any(isinstance(layer, eqx.nn.StateIndex) for layer in layers):
        return f"{said}. Layers with a state, such as BatchNorm, need `nf.nets.WithState(net, state)` around them"
    if layers:
        return f"{said}. Dropout is switched off by `eqx.nn.inference_mode(net)`"
    return said
