"""The alignment of untrained networks: the baseline for every number."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..checks import called, require_integer, require_key, wrong
from ..data import Dataset
from ..numerics.kernel import kernel
from ..run.observation import numbers, require_observable
from .layer import is_tied, weighted_layers

_OBSERVABLE = "a function `(net, data) -> array`, such as `alignment(1/3)`"
_START = "a function from a key to an untrained network"


class Null(NamedTuple):
    """Mean and standard deviation of a measurement over untrained networks, and the single values, one per draw."""

    mean: PyTree
    spread: PyTree
    values: PyTree


def null_alignment(
    net: Any,
    data: Dataset | Float[Array, "n d"],
    observable: Callable[[Any, Any], PyTree],
    *,
    key: PRNGKeyArray,
    draws: int = 32,
    untrained: Callable[[PRNGKeyArray], Any] | None = None,
) -> Null:
    """The value of `observable` on untrained networks of the same shape, with its spread.

    By default every weight matrix or kernel of `net` is replaced by independent Gaussian entries of the same root mean
    square; biases and all other arrays do not change. A trained network and its null then differ in the arrangement of
    the weights, not in their size. Observables of the change since a start compare the draws with the same start.

    **Arguments:** `net`: the network whose score is to be judged; `data`; `observable`: `(net, data) -> array` or tree
    of arrays, such as `alignment(1/3)`; `key`: PRNG key of the draws; `draws`: how many, at least 2; `untrained`: a
    function from a key to an untrained network, used instead, such as `lambda key: MLP(widths, key=key, init=...)`.
    **Returns:** a `Null`, with trees of the same structure as the observable's result. NaN if any draw is undefined.
    **Raises:** ValueError naming `draws`, `data` or `observable`.
    """
    require_integer("draws", draws, at_least=2)
    require_key("key", key)
    if isinstance(data, np.ma.MaskedArray):
        raise wrong("data", "samples without a mask (drop or fill in what is missing)", "a masked array")
    if isinstance(data, Iterator):
        raise wrong("data", "a `Dataset` or samples, which can be used for every draw", f"a {type(data).__name__}")
    require_observable("observable", observable)
    return _null(net, key, data, observable, draws, untrained)


@kernel
def _null(net: Any, key: PRNGKeyArray, data: Any, observable: Any, draws: int, untrained: Any) -> Null:
    redrawn = lambda key: with_gaussian_weights(net, key)
    draw = redrawn if untrained is None else lambda key: called("untrained", _START, untrained, key)
    score = lambda key: numbers("observable", called("observable", _OBSERVABLE, observable, draw(key), data))
    # One after another: side by side the Jacobians of all draws would be in memory at once.
    values = jax.lax.map(score, jax.random.split(key, draws))
    mean = jax.tree.map(lambda v: jnp.mean(v, axis=0), values)
    spread = jax.tree.map(lambda v: jnp.std(v, axis=0, ddof=1), values)
    return Null(mean, spread, values)


def with_gaussian_weights(net: Any, key: PRNGKeyArray) -> Any:
    """The network with Gaussian entries of the same root mean square in the weights of every layer."""
    own = [not is_tied(each) for each in weighted_layers(net)]  # tied weights are drawn once
    weights = lambda net: [each.weight for each, is_own in zip(weighted_layers(net), own, strict=True) if is_own]
    keys = jax.random.split(key, len(weights(net)))
    drawn = [
        jnp.sqrt(jnp.mean(W**2)) * jax.random.normal(key, W.shape, W.dtype)
        for key, W in zip(keys, weights(net), strict=True)
    ]
    return eqx.tree_at(weights, net, drawn)
