"""What the tests of the command line share: data, finished runs, and a cache folder of their own."""

import shutil

import jax
import matplotlib.pyplot as plt
import numpy as np
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


@pytest.fixture(autouse=True)
def as_before():
    """`main` sets the precision of JAX and leaves a figure open."""
    yield
    plt.close("all")
    jax.config.update("jax_enable_x64", True)


@pytest.fixture(scope="module")
def two_outputs(tmp_path_factory):
    """The file of a dataset with two outputs, so that the exponent is defined."""
    file = tmp_path_factory.mktemp("data") / "data.npz"
    rng = np.random.default_rng(0)
    np.savez(file, x=rng.normal(size=(20, 3)), y=rng.normal(size=(20, 2)))
    return str(file)


@pytest.fixture
def finished(said_and_finished):
    """What the call of a module has written, which no test changes."""
    return said_and_finished[1]


@pytest.fixture
def copy(finished, tmp_path):
    """What the call of a module has written, for one test to change."""
    return shutil.copytree(finished, tmp_path / finished.name)
