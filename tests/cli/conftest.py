"""A user's cache folder of their own."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

SETTINGS = ("compilation_cache_dir", "persistent_cache_min_compile_time_secs", "enable_compilation_cache")


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder of a user who has never called the command, as a new process finds it."""
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in SETTINGS}
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield tmp_path / "caches" / "nfa-flow"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
