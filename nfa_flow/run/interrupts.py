"""Ctrl-C that arrives where Python cannot deliver it.

A `KeyboardInterrupt` inside a callback of the garbage collector or inside `__del__` is printed and ignored. JAX has
such a callback, and some interrupts arrive there while it is imported, and while programs are traced and compiled.
"""

import _thread
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SOON_SECONDS = 0.1


def _interrupt_soon() -> None:
    time.sleep(_SOON_SECONDS)
    _thread.interrupt_main()


@contextmanager
def never_ignored() -> Iterator[None]:
    """Inside, an interrupt that was ignored is sent again; only the main thread receives interrupts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = sys.unraisablehook

    def send_again(ignored: Any) -> None:
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            # Now, or while one waits for a `threading.Timer` to start, it would arrive in here, and be ignored again.
            _thread.start_new_thread(_interrupt_soon, ())
        else:
            before(ignored)

    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = before
