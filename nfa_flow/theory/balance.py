"""The law that weight decay imposes on the balance of linear layers."""

import numpy as np
from jaxtyping import Float64

from ._host import ArrayLike, Number, as_number, as_times


def balance_decay(times: ArrayLike, weight_decay: Number) -> Float64[np.ndarray, "..."]:
    """exp(−2λt): the factor by which D_l = W_{l+1}ᵀW_{l+1} − W_lW_lᵀ has shrunk at time t.

    It holds between any two consecutive linear layers of any network under gradient flow of any loss plus
    (λ/2) Σ‖W_l‖², on any data; without decay D_l is conserved.

    **Arguments:** `times`: of any shape, non-negative; `weight_decay`: λ ≥ 0.
    **Returns:** the factor, of the shape of `times`.
    **Raises:** ValueError for a negative time or decay.
    **Source:** Arora, Cohen & Hazan 2018, Thm 1; Du, Hu & Lee 2018 (both for λ = 0).
    """
    decay = as_number("weight_decay", weight_decay, at_least=0)
    return np.asarray(np.exp(-2 * decay * as_times(times)))
