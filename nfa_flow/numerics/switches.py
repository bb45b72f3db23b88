"""JAX's switches as the library's own code needs them, whatever users set for theirs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax

_Function = TypeVar("_Function", bound=Callable[..., Any])


@contextmanager
def usual_promotion() -> Iterator[None]:
    """Types and ranks are promoted as usual, because the library's code relies on it; also a decorator."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def full_precision(function: _Function) -> _Function:
    """The function with matrix products in the precision of its arrays: a GPU would keep three digits of float32."""
    return jax.default_matmul_precision("highest")(function)
