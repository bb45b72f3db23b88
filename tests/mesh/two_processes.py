"""Checks in two processes with two devices each, every one a fact; `test_mesh.py` runs this script twice at a time.

Arguments: the number of the process, the port of the coordinator, a folder that both share.
"""

import contextlib
import signal
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

RANK, PORT, FOLDER = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
# Before anything that asks JAX for its devices, such as the data of the imports that follow.
jax.distributed.initialize(f"127.0.0.1:{PORT}", num_processes=2, process_id=RANK)

from mesh.problems import DATA, EVEN, LOSS, OBSERVE, X, Y, assert_same, descent, flow, net  # noqa: E402  (as said above)

import nfa_flow as nf  # noqa: E402  (as said above)
from nfa_flow.run import drive  # noqa: E402  (as said above)

MESH = jax.make_mesh((4,), ("data",))
OBSERVED = LOSS | {"alignment": OBSERVE["alignment"], "agop": nf.measure.agop}


def wait_for_the_other():
    multihost_utils.sync_global_devices("facts")


def runs_are_those_of_one_process():
    assert_same(flow(DATA.on(MESH), net(), observe=OBSERVED), flow(DATA, net(), observe=OBSERVED))
    sgd = optax.sgd(0.1)
    run = descent(DATA.on(MESH), net(), sgd, observe=LOSS)
    assert_same(run, descent(DATA, net(), sgd, observe=LOSS))
    for array in jax.tree.leaves(run):
        assert not isinstance(array, jax.Array) or array.is_fully_addressable
    path = run.save(FOLDER / "run.zarr")
    wait_for_the_other()
    assert nf.Trajectory.load(path).observed["loss"].tolist() == run.observed["loss"].tolist()


def a_process_may_hold_its_part_of_the_data_alone():
    mine = slice(10 * RANK, 10 * RANK + 10)
    sharding = NamedSharding(MESH, PartitionSpec("data"))
    x, y = (jax.make_array_from_process_local_data(sharding, array[mine]) for array in (X, Y))
    data = nf.Dataset(x, y)
    assert data.samples == 20 and not data.x.is_fully_addressable
    np.testing.assert_allclose(nf.measure.loss(net(), data), nf.measure.loss(net(), EVEN), rtol=1e-14)
    labels = jax.make_array_from_process_local_data(sharding, np.arange(20)[mine] % 7)
    assert nf.Dataset(x, labels).outputs == 7
    broken = jax.make_array_from_process_local_data(sharding, np.where(mine == slice(10, 20), np.nan, Y[mine]))
    try:
        nf.Dataset(x, broken)
    except ValueError as error:
        assert "`y` must be finite everywhere, but was NaN or infinite in 30 of 60 entries" in str(error), error
    else:
        raise AssertionError("no error")


def an_interrupt_of_one_process_stops_both_at_one_step_and_both_go_on():
    whole, bars = flow(EVEN, net(), observe=OBSERVED), []

    @contextlib.contextmanager
    def interrupted_bar(label, progress):
        bars.append(progress)
        seen = []

        def show(fraction):
            seen.append(fraction)
            if RANK == 1 and len(seen) == 2:
                signal.raise_signal(signal.SIGINT)

        yield show

    bar, first, checkpoint = drive._progress_bar, drive._FIRST_BUDGET, FOLDER / "flow.npz"
    drive._progress_bar, drive._FIRST_BUDGET = interrupted_bar, 8
    stopped = flow(EVEN.on(MESH), net(), observe=OBSERVED, checkpoint=checkpoint, progress=True, throw=False)
    drive._progress_bar, drive._FIRST_BUDGET = bar, first
    assert stopped.status == "interrupted" and bars == [RANK == 0]
    steps = multihost_utils.process_allgather(jnp.asarray(stopped.stats["steps"]))
    assert steps[0] == steps[1] > 0 and checkpoint.exists()
    wait_for_the_other()
    assert_same(flow(EVEN.on(MESH), net(), observe=OBSERVED, checkpoint=checkpoint), whole)
    wait_for_the_other()
    assert not checkpoint.exists()
    hidden = FOLDER / f"{RANK}.npz"  # at a path that one process alone has
    hidden.write_bytes(b"") if RANK == 0 else None
    try:
        flow(EVEN.on(MESH), net(), observe=OBSERVED, checkpoint=hidden)
    except ValueError as error:
        wanted = "is no checkpoint" if RANK == 0 else "in a file system that they share"
        assert wanted in str(error), error
    else:
        raise AssertionError("no error")


def arrays_that_are_divided_among_processes_are_kept():
    mesh = jax.make_mesh((2, 2), ("model", "data"))
    first = jax.make_array_from_callback(
        (8, 6), NamedSharding(mesh, PartitionSpec("model")), lambda i: net().layers[0].weight[i]
    )
    wide = eqx.tree_at(lambda net: net.layers[0].weight, net(), first)
    run = flow(DATA.on(mesh, "data"), wide, observe=LOSS, checkpoint=FOLDER / "wide.npz")
    assert run.net.layers[0].weight.sharding.spec == PartitionSpec("model")
    path = run.save(FOLDER / "wide.zarr")
    wait_for_the_other()
    assert_same(nf.Trajectory.load(path), flow(DATA, net(), observe=LOSS))


for fact in (
    runs_are_those_of_one_process,
    a_process_may_hold_its_part_of_the_data_alone,
    an_interrupt_of_one_process_stops_both_at_one_step_and_both_go_on,
    arrays_that_are_divided_among_processes_are_kept,
):
    print(fact.__name__, flush=True)
    fact()
    wait_for_the_other()
print("done")
