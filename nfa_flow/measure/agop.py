"""The average gradient outer product of a network, at the input of any of its layers.

With the Jacobian J(x) = df/dh of the network with respect to the input h of a layer, AGOP = E[JᵀJ]. Since J = B W with
B = df/dz (z = W h + b), it is WᵀKW with K = E[BᵀB], or FᵀF with F = R W and RᵀR = K. The first form is the fastest. The
second never squares anything: powers of AGOP come from the singular values of F, whose relative accuracy the
eigenvalues of an assembled AGOP do not have.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..checks import require_number, wrong
from ..data import Dataset
from ..nets import MLP
from ..numerics.kernel import kernel, measurable
from ..numerics.meshes import on_automatic_axes, rows_of
from ..numerics.precision import in_precision_of
from ..problem.losses import Loss, resolve_of_sample
from .jacobian_sums import AbstractJacobianSum, jacobian_sum_kind
from .jacobians import Batch, Function, stream
from .layer import Layer, Tap, find_layer, require_inputs

# What a network is measured on: samples, a data set, or an iterator over batches of either that is read once.
Samples = Dataset | Float[Array, "n ..."] | Iterable[Any]

MEMORY = 2**25


def agop(
    net: Any,
    data: Samples,
    *,
    layer: Layer | None = None,
    centered: bool = False,
    loss: Loss | None = None,
    memory: int = MEMORY,
) -> Float[Array, "h h"]:
    """Average gradient outer product AGOP = E[J(x)ᵀJ(x)] with respect to the input of the network, or of a layer.

    J is the full c × d Jacobian, and E the mean over samples, weighted if `data` is a `Dataset` with weights. If
    `layer` is None, d is the number of all entries of a sample, whatever its shape: 64 for images of 8 × 8, and 24 for
    sequences of 6 tokens with 4 entries (`A.reshape(6, 4, 6, 4)` has the blocks between tokens). Otherwise d is the
    fan-in of the layer; for a convolution this is the size of a patch, and E is also the mean over positions.

    **Arguments:**
    - `net`: an `MLP`, `equinox.nn.MLP` or `Sequential`, or any module from a sample to a vector "c".
    - `data`: samples, a `Dataset`, or an iterable of batches of either (without weights), read once.
    - `layer`: None for the whole input; l = 1 … L, counting the layers with weights; or a function from the network to
      an `equinox.nn.Linear` or `Conv` in it, such as `lambda net: net.conv2`, for the part of the Jacobian that passes
      through that layer. In a module whose order of layers is not known, 1 also means the whole input.
    - `centered`: use J − E[J] instead of J: the covariance of the gradients of each output.
    - `loss`: differentiate ℓ(f(x), y) instead of f(x): "mse", "cross_entropy" or a function. Needs a `Dataset`.
    - `memory`: about how many bytes of Jacobians to hold at a time. Samples are processed in chunks of that size, and
      outputs too if one sample needs more.

    **Returns:** a symmetric d × d matrix, positive semi-definite up to rounding. If rounding matters, as for a small
    variance with a large mean, use `agop_factor`.
    **Raises:** ValueError naming `net`, `data`, `layer`, `loss` or `memory`.
    **Source:** Radhakrishnan et al. 2024 (Science), eq. 1; Beaglehole et al. 2024 for deeper layers and convolutions.
    """
    total = jacobian_sum_kind(factor=False, centered=centered)
    K, W = jacobian_sum(net, data, total, layer=layer, loss=loss, memory=memory, where_cheapest=True)
    return K if W is None else _sandwich(K, W)


def agop_factor(
    net: Any,
    data: Samples,
    *,
    layer: Layer | None = None,
    centered: bool = False,
    loss: Loss | None = None,
    memory: int = MEMORY,
) -> Float[Array, "r h"]:
    """A factor F with AGOP = FᵀF; arguments as in `agop`. Its singular values are the roots of AGOP's eigenvalues.

    It has forward derivatives only (`jax.jvp`).
    """
    total = jacobian_sum_kind(factor=True, centered=centered)
    R, W = jacobian_sum(net, data, total, layer=layer, loss=loss, memory=memory, where_cheapest=True)
    return R if W is None else _product(R, W)


def preactivation_agop(
    net: Any,
    data: Samples,
    *,
    layer: Layer = 1,
    factor: bool = False,
    centered: bool = False,
    loss: Loss | None = None,
    memory: int = MEMORY,
) -> Float[Array, "r k"]:
    """K = E[BᵀB] with B = df/dz, z = W_l h + b_l the pre-activation of a layer: AGOP without its d × d matrix.

    AGOP = W_lᵀ K W_l. For a network of one hidden layer K is the (uncentered) second moment of the neurons' gradients;
    for a network of k linear layers and a nonlinear head g, it is E[J_gᵀJ_g] at layer k.

    **Arguments:** as in `agop`; `factor`: return a factor R with K = RᵀR instead; K is never formed.
    **Returns:** k × k, of the layer's width; the factor of a linear network has one row for each output.
    **Raises:** as `agop`; ValueError naming `layer` at the input of a module, which has no pre-activation.
    **Source:** Beaglehole et al. 2024 (the pre-activation tangent kernel's role in the NFA).
    """
    if find_layer(net, layer) is None:
        raise wrong("layer", "a layer with weights (name it by a function)", f"the input of a {type(net).__name__}")
    total = jacobian_sum_kind(factor=factor, centered=centered)
    return jacobian_sum(net, data, total, layer=layer, loss=loss, memory=memory)[0]


def jacobian_sum(
    net: Any,
    data: Samples,
    total: AbstractJacobianSum,
    *,
    layer: Layer | None,
    loss: Loss | None = None,
    memory: int = MEMORY,
    where_cheapest: bool = False,
) -> tuple[Float[Array, "r k"], Float[Array, "k h"] | None]:
    """(the sum over B = df/dz, W_l); at the input of a module (the sum over J, None).

    **Arguments:** as in `agop`; `where_cheapest`: return (the sum over J = B W_l, None) if J has fewer columns.
    """
    require_number("memory", memory, at_least=1)
    net = measurable(net)
    position = find_layer(net, layer)
    function = Function(Tap(net, position), None if loss is None else resolve_of_sample(loss))
    batches = _batches(data, loss is not None, net)
    W = function.tap.weight
    multiply = where_cheapest and W is not None and W.shape[1] < W.shape[0]
    if type(net) is MLP and net.is_linear and loss is None and position is not None:
        for _ in batches:  # read and checked all the same
            pass
        return _of_linear(net, total, position), W
    if is_whole(data):
        return _sum(function, total, next(batches), memory, multiply), None if multiply else W
    state, count, k = None, 0, 0
    for batch in batches:
        state = _continue(function, total, batch, memory, multiply, state)
        count, k = count + len(batch.weight), function.width(batch.samples, multiply)
    return total.finish(state, float(count), k), None if multiply else W


@kernel
def _sum(function: Function, total: AbstractJacobianSum, batch: Batch, memory: int, multiply: bool) -> Array:
    state = _from(function, total, batch, memory, multiply, None)
    return total.finish(state, 1.0, function.width(batch.samples, multiply))


@kernel
def _continue(
    function: Function, total: AbstractJacobianSum, batch: Batch, memory: int, multiply: bool, state: PyTree
) -> PyTree:
    equal = eqx.tree_at(lambda batch: batch.weight, batch, replace_fn=jnp.ones_like)
    return _from(function, total, equal, memory, multiply, state)


def _from(
    function: Function, total: AbstractJacobianSum, batch: Batch, memory: int, multiply: bool, state: PyTree
) -> PyTree:
    (c, z), k, W = function.shapes(batch.samples), function.width(batch.samples, multiply), function.tap.weight
    state = total.start(c, k, z.dtype) if state is None else state
    fold = (lambda state, rows: total.fold(state, rows._replace(B=rows.B @ W))) if multiply else total.fold
    return stream(function, batch, state, fold, total.memory(memory, k, z.dtype.itemsize))


@kernel
def _of_linear(net: MLP, total: AbstractJacobianSum, position: int) -> Array:
    """From B = W_L … W_{l+1}, the same for all samples, multiplied from the output side."""
    W, later = net.weights[position], net.weights[position + 1 :]
    B = later[-1] if later else jnp.eye(W.shape[0], dtype=W.dtype)
    for each in later[-2::-1]:
        B = B @ each
    return total.of_constant(B)


@kernel
def _sandwich(K: Float[Array, "k k"], W: Float[Array, "k h"]) -> Float[Array, "h h"]:
    return W.T @ (K @ W)


@kernel
def _product(R: Float[Array, "r k"], W: Float[Array, "k h"]) -> Float[Array, "r h"]:
    return R @ W


def _batches(data: Samples, with_targets: bool, net: Any) -> Iterator[Batch]:
    """Each batch, with its targets or without."""
    whole = is_whole(data)
    if not whole and not isinstance(data, Iterable):
        raise wrong("data", "samples, a `Dataset`, or an iterable of batches of either", repr(data))
    empty = True
    batches: Iterable[Any] = [data] if whole else data  # pyright: ignore[reportAssignmentType]  (a Dataset is whole)
    for batch in batches:
        empty = False
        if isinstance(batch, Dataset):
            if batch.weight is not None and not whole:
                raise wrong("data", "an iterable of batches without weights", "a batch of a weighted `Dataset`")
            batch = in_precision_of(net, batch)
            samples, targets, weight, sharding = batch.x, batch.y, batch.sample_weight, batch.sharding
        elif with_targets:
            raise wrong("data", "a `Dataset` (or batches of them), because the loss needs targets", _described(batch))
        else:
            samples, targets = in_precision_of(net, _samples(batch)), None
            weight, sharding = jnp.full(len(samples), 1 / len(samples), samples.dtype), rows_of(samples)
        require_inputs(net, samples)
        yield Batch((samples, targets if with_targets else None), weight, sharding)
    if empty:
        raise wrong("data", "an iterable with at least one batch", "empty")


def is_whole(data: Any) -> bool:
    """Whether these are samples in memory, which can be differentiated, rather than batches that are read once."""
    return isinstance(data, Dataset | jax.Array | np.ndarray)


def whole_batch(net: Any, data: Samples) -> Batch:
    """Samples or a `Dataset` without its targets, for measurements that cannot use batches."""
    if not is_whole(data):
        raise wrong("data", "samples or a `Dataset`, all at once", _described(data))
    return next(_batches(data, False, net))


def _samples(x: Any) -> Float[Array, "n ..."]:
    if isinstance(x, np.ma.MaskedArray):
        raise wrong("data", "samples without a mask (drop or fill in what is missing)", "a masked array")
    if not isinstance(x, jax.Array | np.ndarray) or not jnp.issubdtype(x.dtype, jnp.floating):
        raise wrong("data", "an array of floating-point samples", _described(x))
    if x.ndim < 2 or 0 in x.shape:
        raise wrong("data", "samples in rows, with at least one of them and one input", f"of shape {x.shape}")
    return on_automatic_axes(jnp.asarray(x))


def _described(x: Any) -> str:
    return f"of type {x.dtype}" if hasattr(x, "dtype") else f"a {type(x).__name__}"
