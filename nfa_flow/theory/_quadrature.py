"""Quadrature of a piecewise smooth function with kinks and jumps at unknown places.

Gauss–Legendre rules on panels. A Gauss–Hermite rule over the whole line is enough for smooth functions, but with a kink
its error falls only like 1/nodes. Here a panel on which rules of 20 and 10 nodes disagree is halved, until the
difference is negligible.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64
from numpy.polynomial.legendre import legder, leggauss, legvander

from ..checks import called, require_finite, wrong

_NODES = 20, 10
_PANEL_ERROR = 1e-14  # relative to the function on the panel, or near zero where it is larger
_MOST_PANELS = 5_000
_PANELS_PER_UNIT = 16  # to begin with: the nodes are .01 apart at most, so nothing wider goes unseen


class Rule(NamedTuple):
    """∫ f g ≈ Σ `weights` · `values` · g(`nodes`) for smooth g; `slopes` are f'. The nodes increase."""

    nodes: Float64[np.ndarray, "*n"]
    weights: Float64[np.ndarray, "*n"]
    values: Float64[np.ndarray, "*n"]
    slopes: Float64[np.ndarray, "*n"]


def adapted_rules(argument: str, function: Callable[[Any], Any], bound: float) -> tuple[Rule, Rule]:
    """Rules of 20 and of 10 nodes on panels of [−bound, bound] that fit a function; they differ by the latter's error.

    **Raises:** ValueError naming `argument` if the function is not finite, or not piecewise smooth.
    """
    ends = np.linspace(-bound, bound, 2 * int(np.ceil(bound)) * _PANELS_PER_UNIT + 1)
    left, right, settled = ends[:-1], ends[1:], []
    near_zero = np.max(np.abs(values_of(argument, function, np.linspace(-1, 1, 101))))
    while left.size:
        fine, rough = (_on_panels(argument, function, left, right, nodes) for nodes in _NODES)
        # The integral alone would not show a jump in the middle, which is a half by any symmetric rule.
        gap = np.max([np.abs(_moment(fine, k) - _moment(rough, k)) for k in (0, 1)], axis=0)
        good = gap <= _PANEL_ERROR * np.maximum(np.max(np.abs(fine.values), axis=1), near_zero)
        settled.append([Rule(*(part[good] for part in rule)) for rule in (fine, rough)])
        middle = (left + right)[~good] / 2
        left, right = np.concatenate([left[~good], middle]), np.concatenate([middle, right[~good]])
        if left.size > _MOST_PANELS:
            raise wrong(argument, "piecewise smooth", f"{function}, which quadrature cannot integrate")
    return _joined([fine for fine, _ in settled]), _joined([rough for _, rough in settled])


def _on_panels(argument, function, left, right, nodes) -> Rule:
    """The rule on each panel, panels × nodes."""
    x, w, D = _reference(nodes)
    half = (right - left)[:, None] / 2
    z = (left + right)[:, None] / 2 + half * x
    values = values_of(argument, function, z)
    return Rule(z, half * w, values, values @ D.T / half)


def _moment(rule: Rule, k: int) -> Float64[np.ndarray, " panels"]:
    """∫ f xᵏ over each panel, x from −1 to 1 in it."""
    x, _, _ = _reference(rule.nodes.shape[1])
    return np.sum(rule.weights * rule.values * x**k, axis=1)


@lru_cache
def _reference(nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes and weights on [−1, 1], and the matrix from values to slopes of the polynomial through them."""
    x, w = leggauss(nodes)
    return x, w, legvander(x, nodes - 2) @ legder(np.linalg.inv(legvander(x, nodes - 1)))


def values_of(
    argument: str, function: Callable[[Any], Any], z: Float64[np.ndarray, "..."]
) -> Float64[np.ndarray, "..."]:
    """f(z) in float64, even if JAX is set to float32 or is tracing."""
    elementwise = "a function of an array, elementwise"
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        values = called(argument, elementwise, lambda: np.asarray(function(jnp.asarray(z)), np.float64))
    if values.shape != z.shape:
        raise wrong(argument, elementwise, f"one from shape {z.shape} to {values.shape}")
    require_finite(f"{argument}(z)", values)
    return values


def _joined(rules: list[Rule]) -> Rule:
    joined = Rule(*(np.concatenate([part.ravel() for part in parts]) for parts in zip(*rules, strict=True)))
    order = np.argsort(joined.nodes)
    return Rule(*(part[order] for part in joined))
