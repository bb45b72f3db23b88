"""The change of the features by one gradient step at finite size: a matrix of low rank, with all orders at once.

The step shifts the pre-activation Z of neuron j on sample i by η c_1 a_j (β + e_j/c_1)ᵀx̃_i, nearly independent of Z.
With u = X̃β/‖β‖ and v = √N a, both standard normal, τ = η c_1 ‖β‖/√N and the scatter s, that is τ v (u + s ξ) with ξ ~
N(0, 1). The spikes consist of the mean over Z and ξ,

    m(u, v) = E[σ(Z + τ v (u + s ξ))] − E[σ(Z)] = Σ_{k≥1} c_k τ^k v^k E[(u + s ξ)^k],

and in orthonormal polynomials h_i = He_i/√i! it is a small matrix S:

    F = F_0 + √n U S Vᵀ,   U_i = h_i(u)/√n,   V_j = h_j(v)/√N,   S_ij = √N E[h_i(u) h_j(v) m(u, v)].

The powers of the source are its expansion for small τ. At practical sizes the series in k diverges, and S does not.

**Source:** the terms: Moniri, Lee, Hassani & Dobriban 2024; S is ours.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.polynomial.hermite_e import hermegauss

from ...checks import require_instance, require_integer
from ...nets.activations import Activation, resolve
from .._host import Number, as_number
from .._quadrature import adapted_rules
from ..hermite import expanded, normal_density, normalized_hermite
from .spikes import GradientDirection

_NODES = 40  # of u and of v: 1e-7 of S while τ < 1/2, 1e-4 at τ = 1
_NEGLIGIBLE = 1e-18
_RANGE = 20.0  # of Z + sξ, in standard deviations
_REACH = 12.0  # in standard deviations: beyond it the normal density is below 1e-31


def spike_matrix(
    activation: Activation, eta: Number, direction: GradientDirection, width: int, *, max_order: int = 8
) -> Float[np.ndarray, "k k"]:
    """S, by quadrature over u, v and Z.

    **Arguments:** `activation`: σ, a name or a function; its mean is subtracted; `eta`: η > 0; `direction`: from
    `gradient_direction`, or with a measured ‖β‖ instead of the limit (`direction._replace(norm=…)`); `width`: N;
    `max_order`: the last order K of the polynomials.
    **Returns:** S, in units of singular values over √n; row i belongs to h_i(X̃β/‖β‖), column j to h_j(√N a).
    **Raises:** ValueError for an argument out of its range.
    """
    require_integer("width", width, at_least=1)
    require_integer("max_order", max_order, at_least=1)
    require_instance("direction", direction, GradientDirection, "as from `nf.theory.gradient_direction`")
    eta, norm = as_number("eta", eta, above=0), as_number("direction.norm", direction.norm, above=0)
    expansion = expanded("activation", activation, max_order=1)
    tau = eta * expansion.coefficients[1] * norm / width**0.5
    z, weights = hermegauss(_NODES)
    weights = weights / weights.sum()
    z, weights = z[weights > _NEGLIGIBLE], weights[weights > _NEGLIGIBLE]
    v = z[z > 0]
    spread = np.hypot(1, tau * as_number("direction.scatter", direction.scatter, at_least=0) * v)
    half = _smoothed(resolve(activation), tau * np.outer(z, v), spread) - expansion.coefficients[0]
    m = np.concatenate([half[::-1, ::-1], half], axis=1)  # m(u, −v) = m(−u, v), and the nodes are symmetric
    h = normalized_hermite(z, max_order) * weights
    return width**0.5 * h @ m @ h.T


def coupling(t_1: Any, t_2: Any, q: Any, c_1: Any, own: Any, S: Any) -> tuple[Any, Any]:
    """(w, Y): the quantities in Woodbury's identity for F_0 + √n U S Vᵀ with the resolvent R = (F_0F_0ᵀ + λn)^{-1}.

    n UᵀRU = diag(w) with the entries t_1, except t_2 − (own c_1 t_2)²/(1 + q) for h_1(u) = u. VᵀF_0ᵀRF_0V = q/(1 + q)
    I. √n UᵀRF_0V has the one entry −own c_1 t_2/(1 + q) between u and v, because F_0 and β both depend on W_0ᵀa; Y = I
    + √n SᵀUᵀRF_0V. With these, n Uᵀ(FFᵀ + λn)^{-1}U = w − w S (SᵀwS + (1 + q) YYᵀ)^{-1} Sᵀw for quantities independent
    of W_0ᵀa.
    """
    linear = np.eye(len(S))[1]
    w = t_1 + (t_2 - (own * c_1 * t_2) ** 2 / (1 + q) - t_1) * linear
    Y = np.eye(len(S)) - own * c_1 * t_2 / (1 + q) * S[1][:, None] * linear[None]
    return w, Y


def _smoothed(
    function: Callable[[Any], Any], shifts: Float[np.ndarray, "u v"], spread: Float[np.ndarray, " v"]
) -> Float[np.ndarray, "u v"]:
    """E[f(spread · Z + shift)]."""
    rule, _ = adapted_rules("activation", function, _RANGE * np.max(spread) + np.max(np.abs(shifts)))
    nodes, weighted, columns = rule.nodes, rule.weights * rule.values, []
    for column, width in zip(shifts.T, spread, strict=True):
        near = slice(*np.searchsorted(nodes, (column.min() - _REACH * width, column.max() + _REACH * width)))
        columns.append(normal_density((nodes[near] - column[:, None]) / width) @ weighted[near] / width)
    return np.stack(columns, axis=1)
