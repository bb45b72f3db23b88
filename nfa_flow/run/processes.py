"""A run of several processes (`jax.distributed`), each of which holds a part of its arrays.

All of them execute the same programs with the same numbers, or wait for each other for ever. So whatever a process
knows alone, such as its clock, an interrupt or what it finds in a file, is agreed upon before anybody acts on it.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int, PyTree

from ..checks import is_traced

_ROWS_AT_ONCE = 2**26  # bytes


class Processes:
    """The processes that hold the arrays of a run; this one alone unless some arrays are divided among several."""

    def __init__(self, arrays: PyTree):
        divided = [a for a in jax.tree.leaves(arrays) if isinstance(a, jax.Array) and not a.is_fully_addressable]
        devices = _devices_of(divided[0]) if divided else []
        self._mesh = Mesh(np.array(devices), "device") if devices else None
        self.is_leader = not devices or devices[0].process_index == jax.process_index()

    def gather(self, numbers: Sequence[int]) -> Int[np.ndarray, "devices k"]:
        """What each process calls this with, the leader first; a row for each of its devices."""
        mine = np.asarray([numbers], np.int32)
        if self._mesh is None:
            return mine
        shape, sharding = (self._mesh.size, len(numbers)), NamedSharding(self._mesh, PartitionSpec("device"))
        return on_host(jax.make_array_from_callback(shape, sharding, lambda _: mine))

    @contextmanager
    def interrupts(self) -> Iterator[Callable[[], bool]]:
        """Inside, whether there was an interrupt; alone, a process does not hold it back, and a second one never."""
        if self._mesh is None or threading.current_thread() is not threading.main_thread():
            yield lambda: False
            return
        came, before = threading.Event(), signal.getsignal(signal.SIGINT)

        def note(*_: Any) -> None:
            came.set()
            signal.signal(signal.SIGINT, before)

        signal.signal(signal.SIGINT, note)
        try:
            yield came.is_set
        finally:
            signal.signal(signal.SIGINT, before)


def complete(leaf: Any) -> Any:
    """An array that several processes hold, as one of each of them alone; anything else unchanged."""
    is_shared = isinstance(leaf, jax.Array) and not is_traced(leaf) and not leaf.is_fully_addressable
    return jnp.asarray(on_host(leaf)) if is_shared else leaf


def on_host(array: Any) -> np.ndarray:
    """All entries of an array. All processes that hold a part of it must call this together."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    devices = Mesh(np.array(_devices_of(array)), "device")
    everywhere = NamedSharding(devices, PartitionSpec())
    # Positions, not slices, for which every device would need the whole array.
    rows = jax.jit(lambda array, at: array[at], out_shardings=everywhere)
    count = max(1, _ROWS_AT_ONCE * len(array) // max(1, array.nbytes))
    parts = [np.arange(first, min(first + count, len(array))) for first in range(0, len(array), count)]
    return np.concatenate([np.asarray(rows(array, at)) for at in parts])


def _devices_of(array: jax.Array) -> list[Any]:
    return sorted(array.sharding.device_set, key=lambda device: device.id)
