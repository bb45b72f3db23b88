"""Functions of a normal variable by their Hermite coefficients.

With Z ~ N(0, 1) and the polynomials He_k of E[He_j(Z) He_k(Z)] = k! δ_jk, a function with E[f(Z)²] < ∞ is

    f = Σ_k c_k He_k,   c_k = E[f(Z) He_k(Z)] / k!,   E[f(Z)²] = Σ_k k! c_k².
"""

from dataclasses import dataclass
from math import factorial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float
from numpy.polynomial.hermite_e import hermeval

from ..checks import require_instance, require_integer, wrong
from ..nets.activations import Activation, resolve
from ._host import ArrayLike, as_array
from ._quadrature import Rule, adapted_rules

_RANGE = 20.0  # the density at its ends is e^−200
_TAIL = 1e-12
_NONE = 1e-8  # a coefficient that contributes less than this, relative to the function, is none


class Hermite(NamedTuple):
    """A function by its `coefficients` c_0 … c_K and, with all orders, `square` E[f(Z)²] and `slope_square` E[f'(Z)²].

    `error` bounds the quadrature error of each √k! c_k and of the root of `square`, relative to that root. If the
    function has jumps, `slope_square` is infinite, and the value given is an arbitrary large number.
    """

    coefficients: Float[Array | np.ndarray, " k"]
    square: float | Float[Array | np.ndarray, ""]
    slope_square: float | Float[Array | np.ndarray, ""]
    error: float | Float[Array | np.ndarray, ""] = 0.0

    @property
    def variance(self) -> Any:
        """Var f(Z) = Σ_{k≥1} k! c_k²."""
        return self.square - self.coefficients[0] ** 2

    @property
    def nonlinear(self) -> Any:
        """c_{>1}² = Σ_{k≥2} k! c_k²."""
        return self.variance - self.coefficients[1] ** 2

    @property
    def slope_variance(self) -> Any:
        """Var f'(Z) = Σ_{k≥2} k k! c_k², because E[f'(Z)] = c_1."""
        return self.slope_square - self.coefficients[1] ** 2

    def has(self, order: int) -> bool:
        """Whether c_k counts: √k! |c_k| is above 1e-8 of the root of `square`, and above `error`.

        **Raises:** ValueError for an order that was not computed.
        """
        require_integer("order", order, at_least=0)
        if order >= len(self.coefficients):
            raise wrong("order", f"at most {len(self.coefficients) - 1}, the last one that was computed", order)
        share = factorial(order) ** 0.5 * abs(float(self.coefficients[order]))
        return share > max(_NONE, float(self.error)) * float(self.square) ** 0.5


@dataclass(frozen=True)
class HermiteSeries:
    """The polynomial Σ_k c_k He_k, as a function of an array: a link for `nf.data.single_index`, or an activation.

    Series of the same coefficients are equal, so they share compiled programs.
    """

    coefficients: tuple[float, ...]

    def __call__(self, z: Any) -> Any:
        total, before, now = self.coefficients[0] + 0 * z, 0 * z, 1 + 0 * z
        for k, c in enumerate(self.coefficients[1:]):
            before, now = now, z * now - k * before
            total = total + c * now
        return total


def hermite_series(coefficients: ArrayLike) -> HermiteSeries:
    """The function Σ_k c_k He_k: z + (z² − 1)/√2 has the coefficients (0, 1, 1/√2).

    **Arguments:** `coefficients`: c_0 … c_K.
    **Returns:** a `HermiteSeries`.
    **Raises:** ValueError for anything but a vector of finite numbers.
    """
    c = as_array("coefficients", coefficients, "K + 1")
    if not c.size:
        raise wrong("coefficients", "at least one number", "none")
    return HermiteSeries(tuple(c.tolist()))


def hermite(function: Activation | HermiteSeries, *, max_order: int = 12) -> Hermite:
    """The Hermite coefficients of an activation, a link, or any function of an array.

    Kinks and jumps may be anywhere; they are found. A bump that is narrower than 0.01 may be missed.

    **Arguments:** `function`: a name as in `nf.nets.ACTIVATIONS`, or a function of an array, elementwise;
    `max_order`: the last order K ≥ 1.
    **Returns:** a `Hermite`, in float64 for any setting of JAX.
    **Raises:** ValueError for a function that is not finite or not piecewise smooth, or whose E[f(Z)²] is infinite or
    has not converged within |Z| ≤ 20.
    """
    return expanded("function", function, max_order)


def expanded(argument: str, function: Activation | HermiteSeries, max_order: int) -> Hermite:
    """`hermite` of a function that has the name `argument` in errors."""
    require_integer("max_order", max_order, at_least=1)
    if isinstance(function, HermiteSeries):
        c = np.zeros(max(max_order + 1, len(function.coefficients)))
        c[: len(function.coefficients)] = function.coefficients
        squares = factorials(len(c)) * c**2
        return Hermite(c, float(np.sum(squares)), float(np.arange(len(c)) @ squares))
    rules = adapted_rules(argument, resolve(function, argument), _RANGE)
    (scaled, root), (scaled_roughly, root_roughly) = (_moments(rule, max_order) for rule in rules)
    if root == 0:
        return Hermite(np.zeros(max_order + 1), 0.0, 0.0)
    ends = Rule(*(part[[0, -1]] for part in rules[0]))
    if np.max(ends.values * normal_density(ends.nodes) * ends.values) > _TAIL * root**2:
        raise wrong(argument, "of finite E[f(Z)²], converged within |Z| ≤ 20", f"{function}, which grows too fast")
    error = max(np.max(np.abs(scaled - scaled_roughly)), abs(root - root_roughly)) / root
    slope_square = float(np.sum(rules[0].weights * rules[0].slopes ** 2 * normal_density(rules[0].nodes)))
    return Hermite(scaled / np.sqrt(factorials(max_order + 1)), root**2, slope_square, float(error))


def require_expansion(argument: str, value: Any) -> None:
    """Raise unless `value` is a `Hermite`."""
    require_instance(argument, value, Hermite, "an expansion, as from `nf.theory.hermite`")


def information_exponent(expansion: Hermite) -> int | None:
    """The least order k ≥ 1 with c_k ≠ 0, or None if all computed orders have c_k = 0.

    One gradient step learns from a teacher of exponent 1 only.

    **Arguments:** `expansion`: of the teacher.
    **Source:** Ben Arous, Gheissari & Jagannath 2021.
    """
    require_expansion("expansion", expansion)
    return next((k for k in range(1, len(expansion.coefficients)) if expansion.has(k)), None)


def monomials_in_hermite(max_order: int) -> Float[np.ndarray, "j i"]:
    """H of z^j = Σ_i H_ji He_i(z) for j, i ≤ `max_order`: H_ji = j! / (2^m m! i!) where j − i = 2m ≥ 0, else 0."""
    H = np.zeros((max_order + 1, max_order + 1))
    for j in range(max_order + 1):
        for m in range(j // 2 + 1):
            H[j, j - 2 * m] = factorial(j) // (2**m * factorial(m) * factorial(j - 2 * m))
    return H


def normalized_hermite(z: Float[np.ndarray, " n"], max_order: int) -> Float[np.ndarray, "k n"]:
    """He_k(z)/√k! for k = 0 … `max_order`."""
    return hermeval(z, np.diag(factorials(max_order + 1) ** -0.5))


def normal_density(z: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """exp(−z²/2)/√(2π)."""
    return np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


def _moments(rule: Rule, max_order: int) -> tuple[Float[np.ndarray, " k"], float]:
    """√k! c_k and the root of E[f(Z)²]."""
    weighted = rule.weights * rule.values * normal_density(rule.nodes)
    return normalized_hermite(rule.nodes, max_order) @ weighted, float(np.sqrt(np.sum(weighted * rule.values)))


def factorials(count: int) -> Float[np.ndarray, " k"]:
    """k! for k < `count`."""
    return np.array([float(factorial(k)) for k in range(count)])
