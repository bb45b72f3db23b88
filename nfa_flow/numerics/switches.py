"""JAX's switches for type and rank promotion are for the code of users: the library's own relies on promotion."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def usual_promotion() -> Iterator[None]:
    """Types and ranks are promoted as usual; also a decorator."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
