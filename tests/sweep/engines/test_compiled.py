"""Compilation ahead of time: once for each signature, and with options that the installed JAX may not know."""

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
    double = compiled.Compiled(lambda x: 2 * x, hastily=True)
    np.testing.assert_array_equal(double(jnp.arange(3)), [0, 2, 4])
    assert compiled._hasty_options() == {"xla_backend_optimization_level": "0"}


def test_each_signature_compiles_once():
    total = compiled.Compiled(lambda x: x.sum())
    assert total(jnp.ones(3)) == 3 and total(jnp.zeros(3)) == 0 and len(total._programs) == 1
    assert total(jnp.ones(4)) == 4 and len(total._programs) == 2
