"""The data loss as an observable."""

from typing import Any

from jaxtyping import Array, Float

from ..checks import require_integer, wrong
from ..data import Dataset
from ..numerics.kernel import measurable
from ..numerics.precision import in_precision_of
from ..numerics.switches import full_precision
from ..problem.losses import Loss, TotalLoss, data_loss, loss_or_default, require_fitting, require_scalar
from ..problem.trained import prediction_of
from ..run.observation import from_run
from .layer import require_inputs


@from_run("loss", "at_once")
@full_precision
def loss(net: Any, data: Dataset, *, loss: Loss | None = None, at_once: int | None = None) -> Float[Array, ""]:
    """The weighted mean loss ℒ of the samples; for "mse" (1/2n) Σ‖f(x_i) − y_i‖². It does not include weight decay.

    As an observable of a run it is the loss that the run minimizes; for another loss use
    `equinox.Partial(nf.measure.loss, loss="cross_entropy")`.

    **Arguments:** `net`: maps a sample "d" to a prediction "c"; `data`; `loss`: a name, a function
    `(prediction, target) -> scalar`, or a `TotalLoss`, by default that of the run, and "mse" in a direct call;
    `at_once`: how many samples to evaluate at a time (on each device), by default as many as the `memory` of the run
    allows, and all in a direct call.
    **Returns:** a scalar ≥ 0 for the named losses.
    **Raises:** ValueError naming `at_once`; `data` or `loss` if they do not fit the network or each other.
    """
    loss = loss_or_default(loss)
    if at_once is not None:
        require_integer("at_once", at_once, at_least=1)
    if not isinstance(data, Dataset):
        raise wrong("data", "a `Dataset`, because the loss needs targets", f"a {type(data).__name__}")
    if isinstance(loss, TotalLoss):
        net, data = measurable(net), in_precision_of(net, data)
        require_scalar(loss, net, data)
    else:
        require_inputs(net, data.x)
        net, data = measurable(net), in_precision_of(net, data)
        require_fitting(loss, prediction_of(net, data.x), data.y)
    return data_loss(loss, net, data, at_once=at_once)
