import jax
import jax.numpy as jnp

import nfa_flow as nf
from nfa_flow.numerics import programs


def test_a_sweep_of_many_programs_forgets_those_of_other_settings(monkeypatch):
    monkeypatch.setattr(programs, "_MANY", 0)
    forgotten = []
    monkeypatch.setattr(jax, "clear_caches", lambda: forgotten.append(True))
    net = nf.nets.MLP([1, 1], key=jax.random.key(0))
    data = nf.Dataset(jnp.ones((2, 1)), jnp.ones((2, 1)))
    one_run = lambda key, t1: nf.gradient_flow(net, data, t1, save_at=[t1], progress=False)
    runs = nf.sweep(one_run, nf.Grid(t1=nf.looped([1.0, 2.0]), seed=[0]), progress=False)
    assert len(forgotten) == 2 and runs.sizes["t1"] == 2
