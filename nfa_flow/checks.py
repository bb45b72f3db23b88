"""Checks on arguments: one clear sentence for each mistake.

Every message names the argument, says what it must be and what it was. Values that are being traced by
JAX are not known yet, so they pass: the check is for the person who calls from Python.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree


def is_traced(*values: PyTree) -> bool:
    """Whether any array in `values` is a JAX tracer, so that its numbers are not known yet."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def wrong(argument: str, must_be: str, was: Any) -> ValueError:
    """The ValueError that this library raises for a bad argument."""
    return ValueError(f"`{argument}` must be {must_be}, but was {was}.")


def require_number(
    argument: str, value: Any, *, above: float | int = -math.inf, at_least: float | int = -math.inf
) -> None:
    """Raise unless `value` is one finite real number, > `above` and ≥ `at_least`."""
    if is_traced(value):
        return
    bound = "a finite number"
    if above > -math.inf:
        bound = "a positive number" if above == 0 else f"a finite number above {above:g}"
    elif at_least > -math.inf:
        bound = "a non-negative number" if at_least == 0 else f"a finite number of at least {at_least:g}"
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        raise wrong(argument, bound, repr(value)) from None
    if not (math.isfinite(number) and number > above and number >= at_least):
        raise wrong(argument, bound, repr(value) if isinstance(value, str) else f"{number:g}")


def require_integer(argument: str, value: Any, *, at_least: int) -> None:
    """Raise unless `value` is a whole number ≥ `at_least` that fits the 32 bits in which steps are counted."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < at_least:
        raise wrong(argument, f"a whole number of at least {at_least}", repr(value))
    if value >= 2**31:
        raise wrong(argument, f"a whole number below 2³¹ = {2**31}", repr(value))


def require_choice(argument: str, value: Any, choices: Collection[str]) -> None:
    """Raise unless `value` is one of the names in `choices`."""
    if value not in choices:
        raise wrong(argument, "one of " + ", ".join(f'"{choice}"' for choice in choices), repr(value))


def named_function(argument: str, value: Any, named: Mapping[str, Callable], signature: str) -> Callable:
    """The function behind a name; a callable is its own function. Raise for an unknown name and for anything else."""
    if isinstance(value, str):
        require_choice(argument, value, named)
        return named[value]
    if not callable(value):
        raise wrong(argument, f"a name or a function {signature}", repr(value))
    return value


def require_finite(argument: str, value: PyTree) -> None:
    """Raise if an array in `value` holds NaN or infinity."""
    if is_traced(value):
        return
    for leaf in jax.tree.leaves(value):
        bad = int(np.size(leaf) - np.isfinite(np.asarray(leaf)).sum())
        if bad:
            raise wrong(argument, "finite everywhere", f"NaN or infinite in {bad} of {np.size(leaf)} entries")
