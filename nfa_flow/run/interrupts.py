"""Ctrl-C that arrives where Python cannot deliver it.

A `KeyboardInterrupt` inside a callback of the garbage collector or inside `__del__` is printed and ignored. JAX has
such a callback, and some interrupts arrive there while it is imported, and while programs are traced and compiled.
"""

import _thread
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SOON_SECONDS = 0.01


@contextmanager
def never_ignored() -> Iterator[None]:
    """Inside, an interrupt that was ignored is sent again; only the main thread receives interrupts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = sys.unraisablehook

    def send_again(ignored: Any) -> None:
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            threading.Timer(_SOON_SECONDS, _thread.interrupt_main).start()  # now, it would arrive in here
        else:
            before(ignored)

    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = before
