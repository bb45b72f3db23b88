"""How many samples a network classifies correctly."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..checks import require_integer, wrong
from ..data import Dataset
from ..numerics.kernel import measurable
from ..numerics.precision import in_precision_of
from ..numerics.switches import full_precision
from ..problem.losses import data_loss
from ..problem.trained import prediction_of
from ..run.observation import from_run
from .layer import require_inputs


@from_run("at_once")
@full_precision
def accuracy(net: Any, data: Dataset, *, at_once: int | None = None) -> Float[Array, ""]:
    """The weighted fraction of samples whose largest prediction is that of their class; of equal ones the first counts.

    It is constant between the moments at which the class of a sample changes. `nf.StopWhen("accuracy", above=0.99)`
    ends a flow at such a moment.

    **Arguments:** `net`: maps a sample to scores of classes "c", or "… c" for targets of that shape; `data`: its
    targets are class labels, or one-hot "n … c"; `at_once`: as in `nf.measure.loss`.
    **Returns:** a number from 0 to 1; NaN if a prediction is.
    **Raises:** ValueError naming `at_once`; `data` if its targets are no classes or do not fit the network.
    """
    if not isinstance(data, Dataset):
        raise wrong("data", "a `Dataset`, because accuracy needs targets", f"a {type(data).__name__}")
    if at_once is not None:
        require_integer("at_once", at_once, at_least=1)
    require_inputs(net, data.x)
    net, data = measurable(net), in_precision_of(net, data)
    scores, targets = prediction_of(net, data.x).shape, data.y.shape[1:]
    fits = len(scores) == 1 if data.has_labels else scores == targets
    if not fits or scores[-1] < 2:
        must_be = f"of class labels, or of one-hot targets like the predictions, of shape {scores}"
        raise wrong("data", must_be, "of class labels" if data.has_labels else f"of targets of shape {targets}")
    # Exactly 1 where no sample is wrong, however means are rounded.
    return 1 - data_loss(_share_wrong, net, data, at_once=at_once)


def _share_wrong(prediction: Float[Array, "... c"], target: Any) -> Float[Array, ""]:
    classes = target if jnp.issubdtype(target.dtype, jnp.integer) else jnp.argmax(target, axis=-1)
    share = jnp.mean(jnp.argmax(prediction, axis=-1) != classes, dtype=prediction.dtype)
    return jnp.where(jnp.any(jnp.isnan(prediction)), jnp.nan, share)
