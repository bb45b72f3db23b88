"""The QR that folds Jacobians into a factor, with as many BLAS threads as there are cores and with one, in turn."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg  # noqa: F401  (loads the library that XLA calls)
from threadpoolctl import threadpool_limits

ROWS, REPEATS = 16384, 15


def folded(columns: int, rows_per_chunk: int):
    """A compiled function from ROWS × columns to their triangular factor, a chunk at a time."""

    def fold(R, chunk):
        return jnp.linalg.qr(jnp.concatenate([R, chunk]), mode="r"), None

    def factor(stack):
        return jax.lax.scan(fold, jnp.zeros((columns, columns)), stack.reshape(-1, rows_per_chunk, columns))[0]

    return jax.jit(factor)


def seconds(function, argument, threads: int | None) -> float:
    """Seconds for one call under a limit of BLAS threads."""
    with threadpool_limits(limits=threads, user_api="blas"):
        began = time.perf_counter()
        jax.block_until_ready(function(argument))
        return time.perf_counter() - began


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    print("columns  rows per chunk   one thread: median (worst) s   all threads: median (worst) s   ratio")
    for columns in (16, 64, 256):
        stack = jax.random.normal(jax.random.key(0), (ROWS, columns))
        for rows in (4 * columns, max(4 * columns, 2**16 // columns)):
            factor = folded(columns, rows)
            seconds(factor, stack, None)
            times = np.array([[seconds(factor, stack, 1), seconds(factor, stack, None)] for _ in range(REPEATS)])
            one, every = np.median(times, axis=0)
            worst = times.max(axis=0)
            print(
                f"{columns:7d}  {rows:14d}   {one:12.4f} ({worst[0]:.4f})"
                f"             {every:12.4f} ({worst[1]:.4f})           {every / one:5.1f}"
            )
