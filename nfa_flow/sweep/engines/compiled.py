"""A function compiled once per argument shapes and device, whichever thread comes first."""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

import jax
from jaxtyping import PyTree


def device_of_thread() -> Any:
    """What `jax.default_device` says in this thread; None where it says nothing."""
    return jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]


def switches_of_thread() -> dict[str, Any]:
    """The values, in this thread, of those switches of JAX that a context manager sets for one thread only."""
    names = ("enable_x64", "default_prng_impl", "threefry_partitionable", "default_matmul_precision")
    names += ("numpy_dtype_promotion", "numpy_rank_promotion", "debug_nans", "debug_infs", "disable_jit")
    return {name: getattr(jax.config, f"jax_{name}") for name in names}


# LLVM takes longer to vectorize random numbers than a sweep takes to draw them.
_HASTILY: dict[str, str | bool] = {"xla_backend_optimization_level": "0", "xla_cpu_use_fusion_emitters": False}


@functools.cache
def _hasty_options() -> dict[str, str | bool]:
    """Those options of `_HASTILY` that this version of JAX knows."""
    known = {}
    for name, value in _HASTILY.items():
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.jit(lambda: 0).lower().compile({name: value})
            known[name] = value
    return known


class Compiled:
    """Calls `function` compiled ahead of time; threads that need the same program wait for one compilation.

    **Arguments:** `function`; `donate`: its arguments whose memory it may use; `hastily`: on a CPU, optimize less, for
    a function that runs once per lane.
    """

    def __init__(self, function: Callable, *, donate: tuple[int, ...] = (), hastily: bool = False):
        self._function = jax.jit(function, donate_argnums=donate)
        self._options = _hasty_options() if hastily and jax.default_backend() == "cpu" else {}
        self._programs: dict[Hashable, Any] = {}
        self._lock, self._locks = threading.Lock(), {}
        self.compile_seconds = 0.0  # of all programs

    @property
    def seconds_per_program(self) -> float:
        """How long a compilation took, on average."""
        return self.compile_seconds / max(1, len(self._programs))

    def __call__(self, *arguments: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(arguments)
        signature = (structure, *(jax.typeof(leaf) for leaf in leaves), device_of_thread())
        with self._lock:
            lock = self._locks.setdefault(signature, threading.Lock())
        with lock:
            if signature not in self._programs:
                began = time.perf_counter()
                self._programs[signature] = self._function.lower(*arguments).compile(self._options)
                self.compile_seconds += time.perf_counter() - began
        return self._programs[signature](*arguments)
