"""A flow as a program: compiled once, in bounded memory, and under `vmap` and `jit`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import parameters

import nfa_flow as nf
from nfa_flow.flow.solvers.choice import NDF_VECTORS

QUIET = {"progress": False}


def test_a_second_call_with_the_same_shapes_compiles_nothing(compilations):
    def run(seed, decay, t1, rtol):
        data = nf.data.linear_teacher(30, 5, 3, key=jax.random.key(seed), noise=0.2)
        net = nf.nets.MLP([5, 4, 3], key=jax.random.key(seed), init=nf.nets.Balanced(0.3))
        return nf.gradient_flow(
            net,
            data,
            t1,
            weight_decay=decay,
            observe={"loss": nf.measure.loss, "alignment": nf.measure.alignment(1 / 2)},
            save_at=nf.log_times(1e-2, t1, 12),
            rtol=rtol,
            stop=nf.LossBelow(1e-9 * t1),
            **QUIET,
        )

    run(0, 0.0, 5.0, 1e-6)
    assert compilations() > 0
    run(1, 0.1, 7.0, 1e-5)
    assert compilations() == 0


def test_memory_of_the_compiled_solve_does_not_grow_with_the_steps(net, data):
    """XLA's own account: the same for ten steps as for a million, more for more observations."""

    def bytes_of(max_steps, times):
        def solve(net):
            run = nf.gradient_flow(net, data, 50.0, save_at=times, max_steps=max_steps, **QUIET)
            return run.observed["loss"]

        memory = eqx.filter_jit(solve).lower(net).compile().compiled.memory_analysis()
        return memory.temp_size_in_bytes + memory.output_size_in_bytes

    assert bytes_of(10, [10.0, 50.0]) == bytes_of(1_000_000, [10.0, 50.0])
    assert bytes_of(10, np.linspace(1, 50, 5000)) > bytes_of(10, [10.0, 50.0])


@pytest.mark.parametrize("solver, vectors", [(nf.flow.NDF(), NDF_VECTORS), (nf.flow.TSRKC3(), 18)])
def test_a_solve_needs_the_memory_of_so_many_parameter_vectors(solver, vectors):
    """XLA's own account, network and work space together, where the parameters outweigh the data."""
    data = nf.data.multi_index(4, 5, 2, key=jax.random.key(0))
    net = nf.nets.MLP([5, 300, 300, 1], key=jax.random.key(1), activation="tanh")

    def solve(net):
        return nf.gradient_flow(net, data, 1.0, solver=solver, save_at=[1.0], **QUIET).net

    memory = eqx.filter_jit(solve).lower(net).compile().compiled.memory_analysis()
    used = (memory.temp_size_in_bytes + memory.output_size_in_bytes) / parameters(net).nbytes
    assert 0.8 * vectors < used <= vectors


def test_runs_inside_vmap_agree_with_single_runs(data):
    def one(key, decay):
        net = nf.nets.MLP([5, 6, 1], key=key, activation="tanh")
        return nf.gradient_flow(net, data, 4.0, weight_decay=decay, save_at=[1.0, 4.0], rtol=1e-8, **QUIET)

    keys, decays = jax.random.split(jax.random.key(3), 3), jnp.array([0.0, 0.01, 0.1])
    lanes = eqx.filter_jit(eqx.filter_vmap(one))(keys, decays)
    assert lanes.observed["loss"].shape == lanes.times.shape == (3, 2)
    for i in range(3):
        single = one(keys[i], decays[i])
        lane = jax.tree.map(lambda a, i=i: a[i], lanes).reached()
        assert lane.status == "completed" and lane.observable_status == {"loss": "defined"}
        np.testing.assert_allclose(lane.observed["loss"], single.observed["loss"], rtol=1e-10)
        assert lane.stats["steps"] == single.stats["steps"]
    with pytest.raises(ValueError, match="pick a lane"):
        print(lanes.status)


def test_inside_jit_the_last_entry_is_the_last_save_time_and_what_was_not_reached_is_nan(data):
    net = nf.nets.MLP([5, 6, 1], key=jax.random.key(3), activation="tanh")

    def one(bound):
        return nf.gradient_flow(net, data, 4.0, save_at=[0.0, 1.0, 4.0], stop=nf.flow.LossBelow(bound), **QUIET)

    jitted = eqx.filter_jit(one)
    whole, alone = jitted(jnp.asarray(1e-9)), one(1e-9)
    np.testing.assert_array_equal(whole.times, [0, 1, 4])
    np.testing.assert_allclose(whole.observed["loss"][-1], alone.observed["loss"][-1], rtol=1e-10)
    bound = (whole.observed["loss"][1] + whole.observed["loss"][2]) / 2
    early, alone = jitted(bound), one(bound)
    assert len(early.times) == 3 and early.status == alone.status == "stopped"
    assert 1 < early.end_time < 4
    # 0, 1, and the moment of the stop, up to the tolerance: other programs round otherwise, and steps adapt to that.
    np.testing.assert_allclose(early.reached().times, alone.times, rtol=1e-6)
    at_once = jitted(whole.observed["loss"][0])
    assert np.isnan(at_once.observed["loss"][-1]) and at_once.end_time < 1
    np.testing.assert_allclose(at_once.net.weights[0], one(whole.observed["loss"][0]).net.weights[0], rtol=1e-6)


@pytest.mark.parametrize("what", ["status", "succeeded", "what_happened", "observable_status", "reached"])
def test_inside_jit_what_is_not_known_yet_is_said_in_a_sentence(data, what):
    net = nf.nets.MLP([5, 1], key=jax.random.key(3))

    @jax.jit
    def inside(decay):
        run = nf.gradient_flow(net, data, 1.0, weight_decay=decay, save_at=[1.0], **QUIET)
        value = getattr(run, what)
        return value() if callable(value) else value

    with pytest.raises(ValueError, match="of a run is not known inside `jax.jit`"):
        inside(0.1)


def test_a_checkpoint_inside_vmap_is_refused(data):
    def one(key):
        net = nf.nets.MLP([5, 6, 1], key=key)
        return nf.gradient_flow(net, data, 4.0, save_at=[4.0], checkpoint="run.checkpoint", **QUIET)

    with pytest.raises(ValueError, match="`checkpoint` must be None inside"):
        eqx.filter_vmap(one)(jax.random.split(jax.random.key(3), 3))
