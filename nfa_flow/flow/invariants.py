"""Two laws that the exact flow obeys, whatever the network: checks of a run that need no other run.

Loss identity: F = ℒ + (λ/2)‖θ‖² falls by exactly what the flow dissipates, F(t0) − F(t) = ∫‖√m ∇F‖² dt. The parameters
of an objective are z = θ/√m, in which the integrand is the squared gradient.

Balance: for two layers with nothing between them, V of mobility m' after [W, b] of mobility m, the matrix D = VᵀV/m' −
(WWᵀ + bbᵀ)/m is conserved without weight decay. With weight decay D falls as exp(−2λmt) if m' = m; otherwise there is
no closed law. With an activation between them that is homogeneous, σ(cz) = cσ(z) for c > 0, such as relu, the same
holds for the diagonal of D, one number per neuron, also where the flow crosses kinks or slides along them.

Source: Arora, Cohen & Hazan 2018, Theorem 1; Du, Hu & Lee 2018.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from ..checks import is_traced
from ..nets import MLP
from ..nets.activations import PIECEWISE_LINEAR, name_of
from ..numerics.switches import full_precision
from ..problem.mobility import Mobility
from ..problem.objective import AbstractObjective
from ..run.observation import Observer

LOSS_IDENTITY_ERROR = "loss_identity_error"
BALANCE_ERROR = "balance_error"

# With four nodes the error of the loss identity is that of the solver and its interpolant: twelve change it by a sixth
# at most at tolerances from 1e-4 to 1e-8. With three, the quadrature is up to two thirds of it at 1e-4.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)
_HOMOGENEOUS = PIECEWISE_LINEAR | {"identity"}
_ROUNDING = 10.0  # times what one rounding of F and of θ changes in F


class LossBudget(eqx.Module):
    """What the objective was at the start of a flow, and what the flow has dissipated since."""

    checks: Bool[Array, ""]
    initial: Float[Array, ""]
    rounding: Float[Array, ""]  # up to which a difference of two values of F means nothing
    dissipated: Float[Array, ""]
    excess: Float[Array, ""]  # what rounding has added to `dissipated`

    def spend(self, amount: Float[Array, ""]) -> "LossBudget":
        """The budget after a step; by compensated summation (Kahan), as small steps would vanish in float32."""
        amount = amount - self.excess
        dissipated = self.dissipated + amount
        return dataclasses.replace(self, dissipated=dissipated, excess=(dissipated - self.dissipated) - amount)

    def error(self, value: Float[Array, ""]) -> Float[Array, ""]:
        """|F(t0) − F(t) − ∫‖∇F‖² dt| / (F(t0) − F(t)), minus rounding errors; 0 if nothing has changed."""
        lost = self.initial - value
        missing = jnp.maximum(jnp.abs((lost - self.dissipated) + self.excess) - self.rounding, 0)
        error = missing / jnp.where(missing == 0, 1, jnp.maximum(jnp.abs(lost), self.rounding))
        return jnp.where(self.checks, error, 0)


class CertifyingObserver(Observer):
    """An observer that also records the error of the loss identity, which the loop computes.

    If `checks` is false, that error is zero and costs nothing, in the same compiled program.
    """

    checks: Bool[Array, ""]

    def __call__(
        self, objective: AbstractObjective, parameters: PyTree, known: Mapping[str, Array] = MappingProxyType({})
    ) -> PyTree:
        observed, kept = super().__call__(objective, parameters, known)
        return (*observed, known.get(LOSS_IDENTITY_ERROR, jnp.zeros_like(objective.weight_decay))), kept


def certifying_observer(observer: Observer, *, checks: bool) -> CertifyingObserver:
    """The same observer, which also records the loss identity."""
    names = (*observer.names, LOSS_IDENTITY_ERROR)
    kept = observer.keep_parameters
    return CertifyingObserver(names, observer.observables, observer.data, kept, jnp.asarray(checks))


def loss_budget(observer: Observer, objective: AbstractObjective, parameters: PyTree) -> LossBudget | None:
    """The budget at the start of a flow; None if it is not needed."""
    if not isinstance(observer, CertifyingObserver):
        return None
    value, slope = objective.energy(parameters), squared(objective.gradient(parameters))
    rounding = _ROUNDING * jnp.finfo(value.dtype).eps * (jnp.abs(value) + jnp.sqrt(slope * squared(parameters)))
    return LossBudget(observer.checks, value, rounding, jnp.zeros_like(value), jnp.zeros_like(value))


def dissipation(
    rate: Callable[[PyTree], Float[Array, ""]], path: Callable[[Any], PyTree], end: Float[Array, ""]
) -> Float[Array, ""]:
    """∫rate(path(s)) ds from 0 to `end`, by Gauss-Legendre quadrature."""
    nodes = end * jnp.asarray((1 + _NODES) / 2, end.dtype)
    rates = jax.lax.map(lambda s: rate(path(s)), nodes)
    return end / 2 * (jnp.asarray(_WEIGHTS, end.dtype) @ rates)


def squared(tree: PyTree) -> Float[Array, ""]:
    """‖tree‖²."""
    return jnp.asarray(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


@full_precision
def balance_error(
    net: Any,
    nets: Any,
    elapsed: Float[Array, " t"],
    weight_decay: Any,
    mobility: Mobility | None,
    trainable: PyTree | None = None,
) -> Float[Array, " t"] | None:
    """The largest ‖D(t) − exp(−2λmt) D(0)‖_F / (‖V‖_F²/m' + ‖[W, b]‖_F²/m) among the layers with a law.

    **Arguments:** `net`: at the start; `nets`: at the elapsed times, each array leading with "t"; `trainable`: True in
    the place of each array that is trained; None if all are.
    **Returns:** one number per time; None if no two layers are known to have a law.
    """
    if type(net) is not MLP:
        return None
    m, errors = _per_layer(mobility, net), []
    for l in range(len(m) - 1):
        between = name_of(net.activations[l])
        moves = trainable is None or all(jax.tree.leaves(trainable.layers[l : l + 2]))
        if moves and between in _HOMOGENEOUS and _has_law(weight_decay, m[l], m[l + 1]):
            before, _ = _balance(net.layers[l], net.layers[l + 1], m[l], m[l + 1])
            after, size = _balance(nets.layers[l], nets.layers[l + 1], m[l], m[l + 1])
            left = jnp.exp(-2 * weight_decay * m[l] * elapsed)[:, None, None]
            off = after - left * before
            off = off if between == "identity" else jnp.diagonal(off, axis1=1, axis2=2)[..., None]
            distance = jnp.linalg.norm(off, axis=(1, 2))
            errors.append(distance / jnp.where(distance == 0, 1, size))
    return jnp.max(jnp.stack(errors), axis=0) if errors else None


def _per_layer(mobility: Any, net: MLP) -> Any:
    """One mobility per layer; none if they are given as a tree, in which they may differ within a layer."""
    if mobility is None:
        return (1.0,) * net.depth
    if isinstance(mobility, Sequence):
        return mobility
    if getattr(mobility, "ndim", 0) == 1:
        return mobility if is_traced(mobility) else np.asarray(mobility)
    return ()


def _has_law(weight_decay: Any, m: Any, m_next: Any) -> bool:
    # In Python's numbers: inside `jax.jit` a comparison of arrays that are known is traced all the same.
    if not is_traced(weight_decay) and float(weight_decay) == 0:
        return True
    return not is_traced(m, m_next) and float(m) == float(m_next)


def _balance(
    layer: eqx.nn.Linear, following: eqx.nn.Linear, m: Any, m_next: Any
) -> tuple[Float[Array, "... h h"], Float[Array, "..."]]:
    """VᵀV/m' − [W, b][W, b]ᵀ/m, and ‖V‖²/m' + ‖[W, b]‖²/m."""
    W, V = layer.weight, following.weight / jnp.sqrt(m_next)
    W = (W if layer.bias is None else jnp.concatenate([W, layer.bias[..., None]], axis=-1)) / jnp.sqrt(m)
    return V.mT @ V - W @ W.mT, jnp.sum(V**2, axis=(-2, -1)) + jnp.sum(W**2, axis=(-2, -1))
