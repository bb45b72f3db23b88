"""Checks on arguments: one clear sentence for each mistake.

Every message names the argument, says what it must be and what it was. Values that JAX is tracing are not known yet and
are not checked: the checks are for calls from Python.
"""

import decimal
import functools
import math
import numbers
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree


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


def require_integers(argument: str, value: Any, *, at_least: int) -> None:
    """Raise unless `value` is a sequence of whole numbers ≥ `at_least`."""
    require_instance(argument, value, Sequence, "a sequence of whole numbers")
    for each in value:
        require_integer(argument, each, at_least=at_least)


def require_choice(argument: str, value: Any, choices: Collection[str]) -> None:
    """Raise unless `value` is one of the names in `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise wrong(argument, "one of " + ", ".join(f'"{choice}"' for choice in choices), repr(value))


def named_function(argument: str, value: Any, named: Mapping[str, Callable], signature: str) -> Callable:
    """The function with this name, or the function itself. Raise for an unknown name and for anything else."""
    if isinstance(value, str):
        require_choice(argument, value, named)
        return named[value]
    if not callable(value):
        raise wrong(argument, f"a name or a function {signature}", repr(value))
    return value


def called(argument: str, must_be: str, function: Callable, *arguments: Any) -> Any:
    """The result of a user's function; a ValueError naming `argument` for its errors.

    ValueErrors are raised unchanged, because they explain themselves, and so are errors that its code did not cause:
    failed runs, devices without memory.
    """
    try:
        return function(*arguments)
    except (ValueError, RuntimeError):
        raise
    except Exception as error:
        raise wrong(argument, must_be, f"one that raises {type(error).__name__}: {error}".rstrip(".")) from error


def require_flag(argument: str, value: Any) -> None:
    """Raise unless `value` is True or False."""
    require_instance(argument, value, (bool, np.bool_), "True or False")


def floating_dtype(argument: str, dtype: Any) -> jnp.dtype:
    """`dtype` as a floating type; ValueError naming `argument` if it is not one."""
    try:
        found = jnp.dtype(dtype)
    except (TypeError, ValueError):
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise wrong(argument, "a floating type such as `jnp.float32`", described(dtype))
    return found


def described(value: Any) -> str:
    """A short description of a value, for a message: of arrays their shape and type."""
    if isinstance(value, np.ndarray | jax.Array):
        return f"an array of shape {value.shape} and type {value.dtype}"
    words = " ".join(repr(value).split())
    return words if len(words) <= 80 else f"{words[:76]} …"


def require_instance(argument: str, value: Any, kind: type | tuple[type, ...], must_be: str) -> None:
    """Raise unless `value` is of a class, or of one of several."""
    if not isinstance(value, kind):
        raise wrong(argument, must_be, described(value))


def require_key(argument: str, value: Any) -> None:
    """Raise unless `value` is one PRNG key, of `jax.random.key` or in the older form of `jax.random.PRNGKey`."""
    if isinstance(value, np.ndarray | jax.Array):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and value.shape == ():
            return
        if value.dtype == np.uint32 and value.shape in ((2,), (4,)):
            return
    raise wrong(argument, "one PRNG key, as from `jax.random.key(0)`", described(value))


def real_array(argument: str, value: Any, *shape: Any) -> Array:
    """`value`, from any container that NumPy can read, as a JAX array of real numbers.

    **Arguments:** `shape`: a size for each axis, or a name if any size is allowed; `...` if any shape is allowed.
    **Raises:** ValueError naming `argument`, also for masked entries, which are not numbers.
    """
    if np.ma.is_masked(value):
        raise wrong(argument, "without masked entries (fill them, or leave their rows out)", "a masked array")
    try:
        is_of_jax = isinstance(value, jax.Array) or (isinstance(value, list | tuple) and is_traced(value))
        array = jnp.asarray(value if is_of_jax else _numbers(value))
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last one of tensors that record gradients
        raise wrong(argument, "an array of real numbers", described(value)) from None
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
        raise wrong(argument, "an array of real numbers", described(array))
    fits = len(shape) == array.ndim and all(
        isinstance(size, str) or size == length for size, length in zip(shape, array.shape, strict=True)
    )
    if shape != (...,) and not fits:
        raise wrong(argument, f"an array of shape ({', '.join(map(str, shape))})", f"of shape {array.shape}")
    return array


def _numbers(value: Any) -> np.ndarray:
    """The array in NumPy, in a type that JAX knows."""
    array = np.asarray(value)
    if array.dtype.kind == "O":  # of data frames whose columns differ, and of numbers that are no floats
        if not all(isinstance(each, numbers.Real | decimal.Decimal) for each in array.flat):
            raise TypeError("not numbers")
        return array.astype(float)
    is_longer = array.dtype.kind == "f" and array.dtype.itemsize > 8
    return array.astype(float if is_longer else array.dtype.newbyteorder("="))


def reduced(of: Callable[[Any, Any], Any], array: Any) -> Any:
    """The number `of(np, array)`, or `of(jnp, array)` for an array that is divided among processes."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return np.asarray(jax.jit(functools.partial(of, jnp))(array))[()]
    return of(np, np.asarray(array))


def require_finite(argument: str, value: PyTree) -> None:
    """Raise if an array in `value` holds NaN or infinity."""
    if is_traced(value):
        return
    for leaf in jax.tree.leaves(value):
        bad = int(np.size(leaf) - reduced(lambda xp, a: xp.isfinite(a).sum(), leaf))
        if bad:
            raise wrong(argument, "finite everywhere", f"NaN or infinite in {bad} of {np.size(leaf)} entries")
