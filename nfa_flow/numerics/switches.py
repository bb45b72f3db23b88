"""JAX's switches for the library's own code, independent of those that users set for theirs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax

_Function = TypeVar("_Function", bound=Callable[..., Any])


@contextmanager
def usual_promotion() -> Iterator[None]:
    """A context in which types and ranks are promoted as usual, which the library's code needs; also a decorator."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def full_precision(function: _Function) -> _Function:
    """The function with matrix products in the precision of its arrays; a GPU would keep three digits of float32."""
    return jax.default_matmul_precision("highest")(function)
