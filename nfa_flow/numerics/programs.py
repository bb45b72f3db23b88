"""Room for compiled programs. Each keeps some memory maps, of which Linux grants a process 65 530 by default; without
any left it crashes."""

from pathlib import Path

import jax

_MANY = 30_000
_MAPS = Path("/proc/self/maps")


def make_room_for_programs() -> None:
    """Let JAX forget all compiled programs if there are many; counting takes 20 ms."""
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MANY:
        jax.clear_caches()
