"""How the library compiles its measurements: in full precision, and with one BLAS thread."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx

from .blas import on_one_blas_thread
from .switches import full_precision

_Function = TypeVar("_Function", bound=Callable[..., Any])


def kernel(function: _Function) -> _Function:
    """The compiled function; arguments that are not arrays are static. Inside `jax.jit` it is traced as usual."""
    return on_one_blas_thread(eqx.filter_jit(full_precision(function)))  # pyright: ignore[reportReturnType]
