"""Averages over past steps as continuous functions of time.

An optimizer averages gradients, or their squares x, by x̄ ← β x̄ + (1 − β) x. In continuous time, with k steps so far,
the average obeys dx̄/dk = a (x − x̄). The delay of the two averages is the same if 1/a = β/(1−β) + ½, where half a step
is what the step itself takes: a = 2(1−β)/(1+β). So a flow follows its optimizer to second order in the learning rate,
also for β = 0. For β near 1 this is −log β up to the third order of 1 − β.

At the start of the run the average has seen half a step of its first value, a share (1−β)/(1+β) of it.

Source: equation and delays by expansion in the step, as in Kovachki & Stuart 2021 for momentum.
"""

from typing import Any

import jax.numpy as jnp

from ...checks import is_traced, require_number, wrong


def require_average(name: str, beta: Any) -> None:
    """Raise ValueError unless 0 ≤ β < 1, for an average of this name."""
    require_number(name, beta, at_least=0)
    if not is_traced(beta) and beta >= 1:
        raise wrong(name, "less than 1, the weight of the past in an average", beta)


def root(v: Any) -> Any:
    """√v of an average v ≥ 0, with the derivative 0 at v = 0, where nothing has a gradient."""
    return jnp.where(v > 0, jnp.sqrt(jnp.where(v > 0, v, 1)), 0)


def rate(beta: Any) -> Any:
    """a, per step."""
    return 2 * (1 - beta) / (1 + beta)


def first_share(beta: Any) -> Any:
    """How much of the average the first value is at the start, after half a step."""
    return rate(beta) / 2
