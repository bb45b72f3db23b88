"""Powers of a Gram matrix FᵀF from the singular values of F, with derivatives also for zero and for equal ones."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..numerics.factorizations import spectrum


@jax.custom_jvp
def gram_power(F: Float[Array, "q r"], power: Float[Array, ""], unit: Float[Array, ""]) -> Float[Array, "r r"]:
    """(FᵀF / unit)^power for power > 0; `unit` > 0 counts as a constant."""
    return power_from_spectrum(*spectrum(F), power, unit)


@gram_power.defjvp
def _gram_power_jvp(primals, tangents):
    (F, power, unit), (dF, dpower, _) = primals, tangents
    change = dF.T @ F
    _, s, Vt = jnp.linalg.svd(F, full_matrices=True)
    slope = power_derivative(s, Vt, power, unit, change + change.T, dpower)
    return power_from_spectrum(s, Vt[: len(s)], power, unit), slope


def power_from_spectrum(
    s: Float[Array, " k"], Vt: Float[Array, "k r"], power: Float[Array, ""] | float, unit: Float[Array, ""] | float
) -> Float[Array, "r r"]:
    """(FᵀF / unit)^power from the singular values and right singular vectors of F."""
    return (Vt.T * ((s**2 / unit) ** power)[None]) @ Vt


def power_derivative(
    s: Float[Array, " k"],
    Vt: Float[Array, "r r"],
    power: Float[Array, ""],
    unit: Float[Array, ""],
    change: Float[Array, "r r"],
    change_of_power: Float[Array, ""],
) -> Float[Array, "r r"]:
    """The derivative of (G / unit)^power where G = FᵀF changes by `change`.

    In the eigenbasis of G every entry of the change is multiplied by the divided difference of λ ↦ λ^α at its two
    eigenvalues. Between two zero eigenvalues a change of F moves G in second order only: there the derivative is zero,
    although the divided difference may be infinite.

    **Source:** Daleckii & Krein 1965; Higham, Functions of Matrices, theorem 3.11.
    """
    dtype, r = s.dtype, len(Vt)
    lost = len(Vt) * jnp.finfo(dtype).eps * jnp.max(s, initial=0)
    s = jnp.concatenate([s, jnp.zeros(r - len(s), dtype)])
    is_zero = s <= lost
    logs = jnp.where(is_zero, 0, jnp.log(jnp.where(is_zero, 1, s**2 / unit)))
    powers = jnp.where(is_zero, 0, jnp.exp(power * logs))
    values = jnp.where(is_zero, 0, jnp.exp(logs))
    # (e^{αa} − e^{αb})/(e^a − e^b) as a ratio of hyperbolic sines, which neither cancels nor divides by zero.
    mean, half = (logs[:, None] + logs[None]) / 2, (logs[:, None] - logs[None]) / 2
    ratio = jnp.where(half == 0, power, jnp.sinh(power * half) / jnp.where(half == 0, 1, jnp.sinh(half)))
    between = jnp.exp((power - 1) * mean) * ratio
    beside_zero = (powers[:, None] + powers[None]) / jnp.where(
        values[:, None] + values[None] == 0, 1, values[:, None] + values[None]
    )
    some_zero = is_zero[:, None] | is_zero[None]
    divided = jnp.where(some_zero, jnp.where(is_zero[:, None] & is_zero[None], 0, beside_zero), between)
    by_change = Vt.T @ (divided * (Vt @ (change / unit) @ Vt.T)) @ Vt
    return by_change + change_of_power * (Vt.T * (powers * logs)[None]) @ Vt
