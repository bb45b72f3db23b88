"""The data loss as an observable."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..checks import wrong
from ..data import Dataset
from ..losses import Loss, require_fitting
from ..observation import from_run, loss_or_default
from .layer import require_inputs


@from_run("loss")
@jax.default_matmul_precision("highest")  # a GPU would otherwise multiply float32 in TF32, with three digits
def loss(net: Any, data: Dataset, loss: Loss | None = None) -> Float[Array, ""]:
    """The weighted mean loss ℒ of the samples; for "mse" that is (1/2n) Σ‖f(x_i) − y_i‖². No weight decay.

    As an observable of a run it is the loss that the run minimizes; of a given loss use
    `equinox.Partial(nf.measure.loss, loss="cross_entropy")`.

    **Arguments:** `net`: maps a sample "d" to a prediction "c"; `data`; `loss`: a name or a function
    `(prediction, target) -> scalar`. By default that of the run, and "mse" in a call by hand.
    **Returns:** a scalar ≥ 0 for the named losses.
    **Raises:** ValueError naming `data` or `loss` where they do not fit the network or each other.
    """
    require_inputs("data", net, data.x)
    prediction = eqx.filter_eval_shape(net, data.x[0])
    if getattr(prediction, "shape", None) != data.y.shape[1:]:
        raise wrong("data", f"of as many outputs as the network, {getattr(prediction, 'shape', '?')}", data.y.shape[1:])
    loss = loss_or_default(loss)
    require_fitting(loss, prediction, data.y)
    losses = jax.vmap(loss)(jax.vmap(net)(data.x), data.y)
    return jnp.mean(losses) if data.weight is None else data.weight @ losses
