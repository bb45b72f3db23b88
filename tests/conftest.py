"""Settings and fixtures shared by all tests: float64, as everything that is called exact needs it."""

import os
from pathlib import Path

# Two test processes on two cores leave nothing for BLAS threads, which would spin against each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import matplotlib
import pytest
from hypothesis import settings

jax.config.update("jax_enable_x64", True)
matplotlib.use("Agg")

# Compilation makes the first example of a property slow, and its time says nothing.
settings.register_profile("nfa_flow", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("nfa_flow")

# Every compiled program keeps some memory maps, of which Linux grants 65 530: a process without any left crashes.
_MANY_MAPS = 30_000
_MAPS = Path("/proc/self/maps")

_compiled: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: _compiled.append(event) if event.endswith("backend_compile_duration") else None
)


@pytest.fixture(autouse=True)
def room_for_programs():
    """Forget what was compiled before there is too much of it."""
    yield
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MANY_MAPS:
        jax.clear_caches()


@pytest.fixture
def compilations():
    """A function that counts the compilations since the last time it was asked."""

    def count() -> int:
        number = len(_compiled)
        _compiled.clear()
        return number

    count()
    return count


@pytest.fixture
def no_type_checks():
    """Switch the run-time type checks off, so that wrong types reach the library as they do for its users."""
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
