"""The number of threads of the BLAS library that XLA uses for QR and SVD on CPU."""

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import jax

from ..checks import is_traced

_Function = TypeVar("_Function", bound=Callable[..., Any])


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit that BLAS library to one thread.

    Several threads would wait for each other in busy loops: on two cores the tall QRs of an AGOP took up to 87 times as
    long with two threads as with one (medians), and single calls hundreds of times (`benchmarks/blas_threads.py`).
    """
    _limit.enter()
    try:
        yield
    finally:
        _limit.leave()


def on_one_blas_thread(function: _Function) -> _Function:
    """The function, evaluated to its end with one BLAS thread; unchanged inside `jax.jit`."""

    @functools.wraps(function)
    def limited(*arguments: Any, **options: Any) -> Any:
        if is_traced(arguments, options):
            return function(*arguments, **options)
        with one_blas_thread():
            return jax.block_until_ready(function(*arguments, **options))

    return limited  # pyright: ignore[reportReturnType]


class _Limit:
    """The limit is one for the whole process: the first user sets it, and the last one removes it.

    If each user set and removed it, two overlapping ones would leave the limit of one thread behind.
    """

    def __init__(self):
        self._lock, self._users, self._before = threading.Lock(), 0, ()

    def enter(self) -> None:
        with self._lock:
            if self._users == 0:
                libraries = _controller().select(user_api="blas").lib_controllers
                self._before = [(library, library.num_threads) for library in libraries]
                self._set([(library, 1) for library in libraries])
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._set(self._before)

    @staticmethod
    def _set(numbers: Sequence[tuple[Any, int]]) -> None:
        for library, number in numbers:
            # Since its version 3.8, threadpoolctl obeys but one thread at a time; here the last to leave may be another
            # thread than the first to enter.
            release = getattr(library, "clear_controlling_thread", lambda force: None)
            release(force=True)
            library.set_num_threads(number)
            release(force=True)


_limit = _Limit()


@functools.cache
def _controller() -> Any:
    import scipy.linalg  # noqa: F401  (loads the library that XLA will call, so that the limit reaches it)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
