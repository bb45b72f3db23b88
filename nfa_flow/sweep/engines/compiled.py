"""The compilation of programs, and the settings of a thread on which programs depend besides their arguments.

`jax.jit` compiles once for each device and all argument shapes; threads that need the same program wait for each other.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax

# LLVM takes longer to vectorize random numbers than a sweep takes to draw them.
_HASTILY: dict[str, str | bool] = {"xla_backend_optimization_level": "0", "xla_cpu_use_fusion_emitters": False}


def hastily_compiled(function: Callable) -> Callable:
    """The function under `jax.jit`, but with little optimization on a CPU: for functions that run once per lane."""
    return jax.jit(function, compiler_options=_hasty_options() if jax.default_backend() == "cpu" else None)


@functools.cache
def _hasty_options() -> dict[str, str | bool]:
    """Those options of `_HASTILY` that this version of JAX knows."""
    known = {}
    for name, value in _HASTILY.items():
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.jit(lambda: 0).lower().compile({name: value})
            known[name] = value
    return known


def device_of_thread() -> Any:
    """The value of `jax.default_device` in this thread, or None."""
    return jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]


def switches_of_thread() -> dict[str, Any]:
    """The values, in this thread, of those switches of JAX that a context manager sets for one thread only."""
    names = ("enable_x64", "default_prng_impl", "threefry_partitionable", "default_matmul_precision")
    names += ("numpy_dtype_promotion", "numpy_rank_promotion", "debug_nans", "debug_infs", "disable_jit")
    return {name: getattr(jax.config, f"jax_{name}") for name in names}
