"""Balance between consecutive layers."""

from typing import Any

from jaxtyping import Array, Float

from ..checks import wrong
from ..nets import MLP
from ..numerics.kernel import measurable
from ..numerics.switches import full_precision


@full_precision
def balance(net: MLP, data: Any = None) -> tuple[Float[Array, "_ _"], ...]:
    """Balance matrices D_l = W_{l+1}ᵀW_{l+1} − W_lW_lᵀ between consecutive layers, l = 1 … L−1.

    Gradient flow conserves D_l if the activation between the two layers is the identity; with weight decay λ it shrinks
    as exp(−2λt), for any loss and any data. If layer l has a bias b_l, this is true of D_l − b_lb_lᵀ instead. In a
    network with a parametrization, W_l/√m_l takes the place of W_l, with the mobilities m_l of the flow; the decay then
    has a law only if m_l = m_{l+1}.

    **Arguments:** `net`: the network; `data`: not used; with it the function is an observable.
    **Returns:** one symmetric matrix per hidden layer, of that layer's width.
    **Raises:** ValueError naming `net`.
    **Source:** Arora, Cohen & Hazan 2018, Theorem 1; Du, Hu & Lee 2018.
    """
    if not isinstance(net, MLP):
        raise wrong("net", "an `nfa_flow.nets.MLP`", f"a {type(net).__name__}")
    weights = measurable(net).weights
    if net.parametrization is not None:
        m = net.parametrization.effective(net.widths).mobility
        weights = tuple(W / each**0.5 for W, each in zip(weights, m, strict=True))
    return tuple(after.T @ after - before @ before.T for before, after in zip(weights[:-1], weights[1:], strict=True))
