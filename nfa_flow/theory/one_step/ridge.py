"""Ridge regression on the features after one large gradient step, for n, N, d → ∞ with d/n → φ and d/N → ψ.

On a fresh batch (X̃, ỹ) the readout minimizes (1/n)‖ỹ − Fa‖² + λ‖a‖². The training loss is that minimum, and the test
loss is E(y − f(x))² on new samples, with their noise. With the traces t_1, t_2 of the features before the step (see the
module `bulk`), the cosine ρ between β and β_*, and the columns B of polynomials in u = X̃β/‖β‖ that the step adds,

    L_tr = λ [q_0 − vᵀB (BᵀwB + P)^{-1} Bᵀv],
    q_0 = c_{*1}² t_2 + (c_*² − c_{*1}² + σ_ε²) t_1,   v_i = √i! ρ^i c_{*i} w_i,

in the basis He_i/√i!, with w_1 = t_2 and w_i = t_1 otherwise. In the limit the spikes are infinitely large: each order
k adds E[(u + sξ)^k] with the scatter s (u^k in the source), and P = 0. At finite size B is S of `spike_matrix`, and P
is (1 + q) YYᵀ. In both cases the test loss is

    L_te = −∂_λ[L_tr/λ] / t_1²,

where the derivative is taken automatically.

This module uses JAX, in the precision of its settings: all numbers can be traced, batched and differentiated.

**Source:** Moniri, Lee, Hassani & Dobriban 2024 (arXiv 2310.07891), for the orders (), (1,) and (1, 2) without
scatter and own output; the rest is ours.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...checks import is_traced, real_array, require_instance, require_integers, require_number, wrong
from .._host import ArrayLike, Number
from ..hermite import Hermite, factorials, monomials_in_hermite, require_expansion
from .low_rank import coupling
from .spikes import GradientDirection, gradient_direction

_BISECTIONS = 64


class ResolventTraces(NamedTuple):
    """`t_1` = tr R, `t_2` = tr(X̃ᵀRX̃)/d and `q` = c_1² t_2 + c_{>1}² t_1, with R = (F_0F_0ᵀ + λn)^{-1}."""

    t_1: Float[Array, ""]
    t_2: Float[Array, ""]
    q: Float[Array, ""]


class RidgeLosses(NamedTuple):
    """`train`: the least (1/n)‖ỹ − Fa‖² + λ‖a‖²; `test`: E(y − f(x))² with that readout, including the noise."""

    train: Float[Array, ""]
    test: Float[Array, ""]


def resolvent_traces(penalty: Number, phi: Number, psi: Number, activation: Hermite) -> ResolventTraces:
    """The traces of the features before the step.

    **Arguments:** `penalty`: λ > 0; `phi`: φ = d/n; `psi`: ψ = d/N; `activation`: the expansion of σ.
    **Returns:** `ResolventTraces`.
    **Raises:** ValueError for an argument out of its range.
    **Source:** Adlam & Pennington 2020; Moniri et al. 2024.
    """
    require_expansion("activation", activation)
    return _traces(*_positive(penalty=penalty, phi=phi, psi=psi), activation)


def ridge_losses(
    penalty: Number,
    phi: Number,
    psi: Number,
    activation: Hermite,
    teacher: Hermite,
    *,
    noise: Number = 0.0,
    orders: Sequence[int] = (),
    direction: GradientDirection | None = None,
) -> RidgeLosses:
    """The limits of both losses with spikes of the given orders, each infinitely large; no orders: without a step.

    **Arguments:** `penalty`, `phi`, `psi`, `activation`: as in `resolvent_traces`; `teacher`: the expansion of σ_*, of
    mean zero; `noise`: σ_ε ≥ 0; `orders`: of the spikes, as from `spike_orders` (static); `direction`: from
    `gradient_direction`; by default that of the source, without scatter and own output.
    **Returns:** `RidgeLosses`.
    **Raises:** ValueError for an argument out of its range. Warns of a teacher from which nothing is learned.
    **Source:** Moniri et al. 2024, where the orders are (1,) and (1, 2).
    """
    require_integers("orders", orders, at_least=1)
    if len(set(orders)) < len(orders):
        raise wrong("orders", "different from one another", list(orders))
    require_expansion("activation", activation)
    penalty, phi, psi = _positive(penalty=penalty, phi=phi, psi=psi)
    noise = _noise(noise, teacher)
    if direction is None:
        direction = gradient_direction(teacher, phi, noise=noise) if orders else GradientDirection(1.0, 0.0)
    _require_direction(direction)
    return _limit(tuple(orders), penalty, phi, psi, activation, teacher, noise, direction)


def finite_ridge_losses(
    penalty: Number,
    phi: Number,
    psi: Number,
    activation: Hermite,
    teacher: Hermite,
    S: ArrayLike,
    direction: GradientDirection,
    *,
    noise: Number = 0.0,
) -> RidgeLosses:
    """Both losses with spikes of the size that they have at a finite step, width and sample.

    As the step grows, they pass smoothly from one of the limits of `ridge_losses` to the next. Changes of the features
    other than the spikes are left out; their relative size is η‖β‖/√N, which is visible at practical sizes.

    **Arguments:** `penalty` … `teacher`, `noise`: as in `ridge_losses`; `S`: from `spike_matrix`; `direction`: from
    `gradient_direction`.
    **Returns:** `RidgeLosses`.
    **Raises:** ValueError for an argument out of its range.
    """
    S = real_array("S", S, ...).astype(jnp.zeros(()).dtype)
    if S.ndim != 2 or S.shape[0] != S.shape[1] or len(S) < 2:
        raise wrong("S", "a square matrix, as from `spike_matrix`", f"of shape {S.shape}")
    require_expansion("activation", activation)
    _require_direction(direction)
    penalty, phi, psi = _positive(penalty=penalty, phi=phi, psi=psi)
    return _finite(penalty, phi, psi, activation, teacher, _noise(noise, teacher), S, direction)


def linear_losses(penalty: Number, phi: Number, teacher: Hermite, *, noise: Number = 0.0) -> RidgeLosses:
    """The limits of both losses of ridge regression on the inputs instead of features, f(x) = aᵀx: the baseline.

    **Arguments:** as in `ridge_losses`.
    **Returns:** `RidgeLosses`.
    **Raises:** ValueError for an argument out of its range.
    **Source:** Dobriban & Wager 2018; here λt_1 + φt_2 = 1 and t_2 = t_1/(1 + t_1) with R = (X̃X̃ᵀ + λn)^{-1}.
    """
    return _linear(*_positive(penalty=penalty, phi=phi), teacher, _noise(noise, teacher))


@jax.jit
def _traces(penalty: Array, phi: Array, psi: Array, activation: Hermite) -> ResolventTraces:
    c_1, nonlinear = activation.coefficients[1], jnp.maximum(activation.nonlinear, 0)

    def traces(log_k: Float[Array, ""]) -> ResolventTraces:
        k = jnp.exp(log_k)
        t_1, t_2 = _traces_at(penalty + k * nonlinear, k * c_1**2, phi)
        return ResolventTraces(t_1, t_2, c_1**2 * t_2 + nonlinear * t_1)

    surplus = lambda log_k: jnp.exp(log_k) * (1 + traces(log_k).q) - phi / psi
    # q is at most Var σ(Z)/λ.
    low, high = jnp.log(phi / psi / (1 + (c_1**2 + nonlinear) / penalty)), jnp.log(phi / psi)
    return traces(_rising_root(surplus, low, high))


@partial(jax.jit, static_argnums=0)
def _limit(orders, penalty, phi, psi, activation, teacher, noise, direction) -> RidgeLosses:
    B = _smoothed_powers(orders, direction.scatter)

    def gain(t: ResolventTraces) -> Float[Array, ""]:
        w = _weights(t, len(B))
        return _explained(B.T @ _seen(w, direction.cosine, teacher), B.T @ (w[:, None] * B))

    return _losses(penalty, lambda penalty: _traces(penalty, phi, psi, activation), teacher, noise, gain)


@jax.jit
def _finite(penalty, phi, psi, activation, teacher, noise, S, direction) -> RidgeLosses:
    def gain(t: ResolventTraces) -> Float[Array, ""]:
        w, Y = coupling(*t, activation.coefficients[1], direction.own, S)
        seen = S.T @ _seen(_weights(t, len(S)), direction.cosine, teacher)
        return _explained(seen, S.T @ (w[:, None] * S) + (1 + t.q) * Y @ Y.T)

    return _losses(penalty, lambda penalty: _traces(penalty, phi, psi, activation), teacher, noise, gain)


@jax.jit
def _linear(penalty, phi, teacher, noise) -> RidgeLosses:
    traces = lambda penalty: ResolventTraces(*_traces_at(penalty, phi, phi), jnp.zeros(()))
    return _losses(penalty, traces, teacher, noise, lambda t: jnp.zeros(()))


def _losses(
    penalty: Array,
    traces: Callable[[Array], ResolventTraces],
    teacher: Hermite,
    noise: Array,
    gain: Callable[[ResolventTraces], Array],
) -> RidgeLosses:
    """L_tr, and L_te by its derivative; `gain` is vᵀB (BᵀwB + P)^{-1} Bᵀv."""
    along = teacher.coefficients[1] ** 2

    def train_over_penalty(penalty: Array) -> tuple[Array, Array]:
        t = traces(penalty)
        return along * t.t_2 + (teacher.square - along + noise**2) * t.t_1 - gain(t), t.t_1

    (level, t_1), slope = jax.value_and_grad(train_over_penalty, has_aux=True)(penalty)
    return RidgeLosses(penalty * level, -slope / t_1**2)


def _weights(t: ResolventTraces, count: int) -> Float[Array, " i"]:
    """w: t_1, except t_2 for the linear part."""
    return t.t_1 + (t.t_2 - t.t_1) * jnp.asarray(np.eye(count)[1])


def _seen(w: Float[Array, " i"], cosine: Any, teacher: Hermite) -> Float[Array, " i"]:
    """v_i = √i! ρ^i c_{*i} w_i: how much of the teacher is along h_i(X̃β/‖β‖)."""
    known = min(len(w), len(teacher.coefficients))
    c = jnp.zeros(len(w)).at[:known].set(jnp.asarray(teacher.coefficients, w.dtype)[:known])
    powers = jnp.cumprod(jnp.full(len(w), cosine, w.dtype).at[0].set(1))
    return jnp.asarray(np.sqrt(factorials(len(w))), w.dtype) * powers * c * w


def _smoothed_powers(orders: Sequence[int], scatter: Any) -> Float[Array, "i s"]:
    """E[(u + sξ)^k] = Σ_i H_ki (1 + s²)^{(k−i)/2} He_i(u) in the basis He_i/√i!, a column of length 1 for each k."""
    last = max(orders, default=1)
    i, k = np.arange(last + 1), np.asarray(orders, int)[:, None]
    H = monomials_in_hermite(last)[list(orders)] * np.sqrt(factorials(last + 1))
    B = H * (1 + jnp.asarray(scatter) ** 2) ** (np.maximum(k - i, 0) / 2)
    return (B / jnp.linalg.norm(B, axis=1, keepdims=True)).T


def _explained(seen: Float[Array, " s"], M: Float[Array, "s s"]) -> Float[Array, ""]:
    """seenᵀ M^{-1} seen for a small positive definite M, by elimination; its pivots are never small."""
    A = jnp.block([[M, seen[:, None]], [seen[None], jnp.zeros((1, 1))]])
    for _ in range(len(seen)):
        A = A[1:, 1:] - A[1:, :1] * A[:1, 1:] / A[0, 0]
    return -A[0, 0]


def _traces_at(A: Array, B: Array, phi: Array) -> tuple[Array, Array]:
    """The positive (t_1, t_2) of A t_1 + B t_2 = 1 and t_2 = t_1/(1 + B t_1/φ); a quadratic, without cancellation."""
    a, b = A * B / phi, A + B - B / phi
    root = jnp.sqrt(b**2 + 4 * a)
    falling = b < 0
    t_1 = jnp.where(falling, (root - b) / jnp.where(falling, 2 * a, 1), 2 / jnp.where(falling, 1, b + root))
    return t_1, t_1 / (1 + B * t_1 / phi)


def _rising_root(function: Callable[[Array], Array], *ends: Array) -> Float[Array, ""]:
    """The root of a rising function, to rounding, with derivatives of any order."""

    def bisected(f: Callable[[Array], Array], _: Array) -> Array:
        def halved(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            below = f(middle) < 0
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        low, high = jax.lax.fori_loop(0, _BISECTIONS, halved, ends)
        return (low + high) / 2

    return jax.lax.custom_root(function, ends[0], bisected, lambda slope, y: y / slope(jnp.ones_like(y)))


def _positive(**arguments: Any) -> tuple[Array, ...]:
    """The arguments as arrays of JAX's default float."""
    for name, value in arguments.items():
        require_number(name, value, above=0)
    return tuple(jnp.asarray(value, jnp.zeros(()).dtype) for value in arguments.values())


def _require_direction(value: Any) -> None:
    require_instance("direction", value, GradientDirection, "as from `nf.theory.gradient_direction`")


def _noise(noise: Any, teacher: Hermite) -> Array:
    """The noise as an array, for a teacher of mean zero."""
    require_number("noise", noise, at_least=0)
    require_expansion("teacher", teacher)
    if not is_traced(teacher) and teacher.has(0):
        mean = float(teacher.coefficients[0])
        raise wrong("teacher", "of mean zero (subtract c_0 from the targets)", f"of mean {mean:g}")
    return jnp.asarray(noise, jnp.zeros(()).dtype)
