"""Losses: of one sample, (prediction, target) -> scalar, by name, or of the whole network on the whole data."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree, Shaped

from ..checks import described, is_traced, named_function, reduced, wrong
from ..data import Dataset
from ..numerics.chunks import fold_chunks
from ..numerics.meshes import blocks_of

# The loss that a run minimizes, while it calls its observables.
_minimized: ContextVar[Callable | None] = ContextVar("_minimized", default=None)


class TotalLoss(eqx.Module):
    """The data loss ℒ as one function of the network and the data, in place of the mean over samples.

    For what is no such mean: regularizers such as the trace of AGOP, batch normalization over all samples, contrastive
    losses. It is a `loss` of runs, of `nf.measure.loss` and of the Hessian. Weight decay is added to it as to others.

        regularized = lambda net, data: nf.measure.loss(net, data) + 0.1 * jnp.trace(nf.measure.agop(net, data))
        run = nf.gradient_flow(net, data, 10.0, loss=nf.TotalLoss(regularized))

    **Arguments:** `function`: `(net, data) -> scalar`. The network is any tree of arrays that the function takes; the
    data are the `Dataset` of the run, of which the function uses the sample weights itself, or one minibatch. To change
    numbers in it without another compilation, and in a sweep, make them arrays of an `equinox.Partial` or a module.
    **Raises:** ValueError naming `function` for something that cannot be called.
    """

    function: Callable[[Any, Dataset], Float[Array, ""]]

    def __check_init__(self):
        if not callable(self.function):
            raise wrong("function", "a function (net, data) -> scalar", described(self.function))

    def __call__(self, net: Any, data: Dataset) -> Float[Array, ""]:
        """The loss of a network on data."""
        with minimizing(None):  # a loss that is measured in it is "mse" unless it is given, as everywhere by hand
            return self.function(net, data)


Loss = str | Callable[[Float[Array, " c"], Float[Array, " c"]], Float[Array, ""]] | TotalLoss


def mse(prediction: Float[Array, "..."], target: Float[Array, "..."]) -> Float[Array, ""]:
    """½‖prediction − target‖², so that its mean over samples is ℒ = (1/2n) Σ‖f(x_i) − y_i‖²."""
    return 0.5 * jnp.sum((prediction - target) ** 2)


def cross_entropy(prediction: Float[Array, " c"], target: Float[Array, " c"] | Int[Array, ""]) -> Float[Array, ""]:
    """−Σ_k target_k · log softmax(prediction)_k; the target is a class, one-hot, or a distribution over the classes."""
    log_probabilities = jax.nn.log_softmax(prediction)
    is_label = jnp.issubdtype(target.dtype, jnp.integer)
    return -log_probabilities[target] if is_label else -jnp.sum(target * log_probabilities)


LOSSES: dict[str, Callable] = {"mse": mse, "cross_entropy": cross_entropy}


def resolve(loss: Loss) -> Callable:
    """The function behind a name; a callable, also a `TotalLoss`, is its own function.

    **Raises:** ValueError for an unknown name or something that cannot be called.
    """
    return named_function("loss", loss, LOSSES, "(prediction, target) -> scalar")


@contextmanager
def minimizing(loss: Callable | None) -> Iterator[None]:
    """A context in which a run that minimizes this loss calls its observables."""
    token = _minimized.set(loss)
    try:
        yield
    finally:
        _minimized.reset(token)


def loss_or_default(loss: Loss | None) -> Callable:
    """The function behind `loss`; the squared loss if it is None.

    **Raises:** ValueError naming `loss` if a run that minimizes another loss calls a function of the user in which the
    loss is not given.
    """
    minimized = _minimized.get()
    if loss is None and minimized is not None and minimized is not mse:
        example = getattr(minimized, "__name__", type(minimized).__name__)
        raise wrong("loss", f"given in an observable of your own, as this run minimizes `{example}`", None)
    return mse if loss is None else resolve(loss)


def resolve_of_sample(loss: Loss) -> Callable:
    """The function behind a loss of one sample.

    **Raises:** ValueError as `resolve`, and for a `TotalLoss`.
    """
    if isinstance(loss, TotalLoss):
        raise wrong("loss", "one of single samples for this measurement, (prediction, target) -> scalar", "`TotalLoss`")
    return resolve(loss)


def data_loss(loss: Callable, net: Any, data: Dataset, *, at_once: int | None = None) -> Float[Array, ""]:
    """ℒ: the value of a `TotalLoss`, or the weighted mean loss of the samples.

    **Arguments:** `at_once`: how many samples to evaluate at a time, on each device; None for all. A backward pass
    evaluates them again, so that the activations of so many are in memory, and not those of all samples.
    """
    if isinstance(loss, TotalLoss):
        return loss(net, data)
    losses = lambda x, y: jax.vmap(loss)(jax.vmap(net)(x), y)
    blocks = blocks_of(data.sharding)
    if at_once is not None and at_once * blocks < data.samples:
        add = lambda total, rows, weight, _: total + weight @ losses(*rows)
        rows, zero = (data.x, data.y), jnp.zeros((), data.dtype)
        return fold_chunks(add, zero, rows, data.sample_weight, at_once, blocks)
    return jnp.mean(losses(data.x, data.y)) if data.weight is None else data.weight @ losses(data.x, data.y)


def require_scalar(loss: TotalLoss, net: Any, data: PyTree) -> None:
    """Raise unless a `TotalLoss` gives one real number for this network and data, or for their shapes.

    **Raises:** ValueError naming `loss`.
    """
    try:
        value = eqx.filter_eval_shape(loss, net, data)
    except Exception as error:
        must_be = f"a `TotalLoss` of a function of this network and {described(data)}"
        raise wrong("loss", must_be, f"one that raises {type(error).__name__}: {error}".rstrip(".")) from error
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise wrong("loss", "a `TotalLoss` of a function whose result is one real number", described(value))


def require_fitting(loss: Callable, prediction: Any, targets: Shaped[Array, "n ..."]) -> None:
    """Raise unless the loss gives one scalar for a prediction of this shape, and the targets fit the loss.

    The named losses need predictions and targets of the same shape; others may be of any two shapes.

    **Raises:** ValueError naming `loss`; `net`, if a named loss needs predictions of another shape; `data`, if targets
    of the cross entropy are not distributions.
    """
    shape, wanted = getattr(prediction, "shape", None), targets.shape[1:]
    has_labels = jnp.issubdtype(targets.dtype, jnp.integer)
    if loss is mse and has_labels:
        must_be = "of targets that are numbers for the squared loss (of classes: `data.one_hot()`)"
        raise wrong("data", must_be, "of class labels, a vector of integers")
    if loss is cross_entropy and wanted == (1,) and shape not in ((), (1,), None):
        must_be = "of class labels (a vector of integers) or one-hot targets for the cross entropy"
        raise wrong("data", must_be, "of targets in one column")
    if loss is cross_entropy and has_labels:
        _require_classes(shape, targets)
    elif loss in LOSSES.values() and shape != wanted:
        a_map = f"to {_outputs(wanted[0])}" if len(wanted) == 1 else f"to an array of shape {wanted}"
        raise wrong("net", f"a map {a_map}, like the data", prediction if shape is None else shape)
    target = jax.ShapeDtypeStruct(targets.shape[1:], targets.dtype)
    try:
        value = eqx.filter_eval_shape(loss, prediction, target)
    except Exception as error:
        must_be = f"a function of one prediction, of shape {shape}, and one target, of shape {target.shape}"
        raise wrong("loss", must_be, f"one that raises {type(error).__name__}: {error}") from error
    if getattr(value, "shape", None) != ():
        raise wrong("loss", "a function with one scalar per sample", f"of shape {getattr(value, 'shape', value)}")
    if loss is not cross_entropy or has_labels or is_traced(targets):
        return
    off = lambda xp, y: xp.maximum(-y.min(), abs(y.astype(float).sum(axis=-1) - 1).max())
    if targets.shape[-1] < 2 or reduced(off, targets) > 1e-5:
        raise wrong("data", "of one-hot or probability targets for the cross entropy", "of targets that are neither")


def _require_classes(shape: Any, labels: Int[Array, " n"]) -> None:
    """Raise unless a prediction of this shape has an entry for every label."""
    if shape is None or len(shape) != 1:
        raise wrong("net", "a map to one output for every class", "no array" if shape is None else shape)
    if not is_traced(labels) and (largest := int(reduced(lambda xp, labels: xp.max(labels), labels))) >= shape[0]:
        raise wrong("data", f"of labels below {shape[0]}, like the {_outputs(shape[0])} of the network", largest)


def _outputs(count: int) -> str:
    return f"{count} output{'' if count == 1 else 's'}"
