"""Compilation: once for all threads, and with options that the installed JAX may not know."""

import concurrent.futures
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from nfa_flow.sweep.engines import compiled


@pytest.fixture
def options(monkeypatch):
    """Sets the options of hasty compilation, which are looked up once in a process."""

    def use(chosen):
        monkeypatch.setattr(compiled, "_HASTILY", chosen)
        compiled._hasty_options.cache_clear()

    yield use
    compiled._hasty_options.cache_clear()


def test_options_unknown_to_this_jax_are_left_out(options):
    options({"xla_backend_optimization_level": "0", "xla_no_such_option": "1"})
    double = compiled.hastily_compiled(lambda x: 2 * x)
    np.testing.assert_array_equal(double(jnp.arange(3)), [0, 2, 4])
    assert compiled._hasty_options() == {"xla_backend_optimization_level": "0"}


def test_threads_that_need_one_program_compile_it_once(compilations):
    total, start, numbers = compiled.hastily_compiled(lambda x: jnp.sin(x @ x).sum()), threading.Barrier(4), np.eye(3)

    def call(_):
        start.wait()
        return float(total(numbers))

    compilations()
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(call, range(4)))) == 1
    assert compilations() == 1
