"""The threads of the BLAS that XLA calls for QR and SVD on CPU."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax

from .checks import is_traced

_Function = TypeVar("_Function", bound=Callable[..., Any])


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep that BLAS to one thread.

    Its threads spin against each other: on two cores the tall QRs of an AGOP took up to 87 times as long with two
    threads as with one (medians), and single calls hundreds of times (`benchmarks/blas_threads.py`).
    """
    with _controller().limit(limits=1, user_api="blas"):
        yield


def on_one_blas_thread(function: _Function) -> _Function:
    """The function, which waits for its result with one BLAS thread; inside `jax.jit` it is just itself."""

    @functools.wraps(function)
    def limited(*arguments: Any, **options: Any) -> Any:
        if is_traced(arguments, options):
            return function(*arguments, **options)
        with one_blas_thread():
            return jax.block_until_ready(function(*arguments, **options))

    return limited  # pyright: ignore[reportReturnType]


@functools.cache
def _controller() -> Any:
    import scipy.linalg  # noqa: F401  (loads the library that XLA will call, so that the limit reaches it)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
