"""Checks on four devices of one process, each a fact; `test_mesh.py` runs this script."""

import contextlib
import re
import signal
import tempfile
from pathlib import Path

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from mesh.problems import DATA, EVEN, LOSS, OBSERVE, WEIGHTED, X, Y, assert_same, descent, flow, net

import nfa_flow as nf
from nfa_flow.problem.memory import within_memory
from nfa_flow.problem.objective import make_objective
from nfa_flow.run import drive

MESH = jax.make_mesh((4,), ("data",))  # with an explicit axis, as JAX makes it by default
AUTO = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))


@contextlib.contextmanager
def raises(sentence):
    try:
        yield
    except (ValueError, RuntimeError) as error:
        assert re.search(sentence, str(error)), error
    else:
        raise AssertionError(f"no error: {sentence}")


def a_flow_is_that_of_one_device_whether_or_not_the_mesh_divides_the_samples():
    assert_same(flow(DATA.on(MESH), net()), flow(DATA, net()))
    alone = flow(EVEN, net(), observe=LOSS)
    assert_same(flow(EVEN.on(MESH), net(), observe=LOSS), alone)
    with jax.set_mesh(AUTO):
        assert_same(flow(EVEN.on(AUTO), net(), observe=LOSS), alone)


def the_moments_of_a_linear_network_are_those_of_all_devices():
    linear, on_mesh = net("identity"), DATA.on(MESH)
    R, whole = nf.data.moment_factor(on_mesh, intercept=True), nf.data.moment_factor(DATA, intercept=True)
    np.testing.assert_allclose(R.T @ R, whole.T @ whole, rtol=0, atol=1e-14)
    observe = LOSS | {"alignment": OBSERVE["alignment"]}
    run = flow(on_mesh, linear, observe=observe)
    assert run.stats["data_enters_as"] == "second moments"
    assert_same(run, flow(DATA, linear, observe=observe), 1e-11)  # R is another one, with other rounding errors


def kinks_are_located_as_on_one_device():
    runs = [flow(data, net("relu", 4), 0.3, observe=LOSS) for data in (EVEN.on(MESH), EVEN)]
    assert runs[0].stats["solver"] == "Piecewise" and runs[0].stats["crossings"] == runs[1].stats["crossings"] > 0
    assert_same(*runs)


def derivatives_are_those_of_one_device():
    def last(decay, data):
        return flow(data, net(), observe=LOSS, weight_decay=decay, solver=diffrax.Tsit5()).observed["loss"][-1]

    slopes = [jax.grad(last)(0.01, data) for data in (EVEN.on(MESH), EVEN)]
    np.testing.assert_allclose(*slopes, rtol=1e-11)


def labels_images_and_total_losses_are_divided_too():
    images = nf.Dataset(X.reshape(-1, 1, 2, 3), np.arange(22) % 3)
    convolution = eqx.nn.Conv2d(1, 3, (2, 3), key=jax.random.key(0))
    model = eqx.nn.Sequential([convolution, eqx.nn.Lambda(jnp.ravel), eqx.nn.Lambda(jnp.tanh)])
    total = nf.TotalLoss(lambda net, data: data.sample_weight @ jax.vmap(net)(data.x)[:, 0] ** 2)
    for loss in ("cross_entropy", total):
        observe = {"loss": eqx.Partial(nf.measure.loss, loss=loss)}
        runs = [
            nf.gradient_flow(model, data, 1.0, loss=loss, observe=observe, progress=False)
            for data in (images.on(MESH), images)
        ]
        np.testing.assert_allclose(runs[0].observed["loss"], runs[1].observed["loss"], rtol=1e-12)
    assert images.on(MESH).outputs == 3


def descent_is_that_of_one_device_also_on_minibatches():
    adam = optax.adam(0.01)
    assert_same(descent(WEIGHTED.on(MESH), net(), adam), descent(WEIGHTED, net(), adam))
    for size in (8, 7):  # of which the mesh divides one
        batches = {"batch_size": size, "key": jax.random.key(2), "observe": LOSS}
        assert_same(descent(EVEN.on(MESH), net(), adam, **batches), descent(EVEN, net(), adam, **batches))


def arrays_of_a_wide_network_stay_divided():
    mesh = jax.make_mesh((2, 2), ("data", "model"))
    where = lambda net: [net.layers[0].weight, net.layers[1].weight]
    specs = [PartitionSpec("model"), PartitionSpec(None, "model")]
    place = lambda net: [
        jax.device_put(W, NamedSharding(mesh, spec)) for W, spec in zip(where(net), specs, strict=True)
    ]
    wide, on_mesh = eqx.tree_at(where, net(), place(net())), DATA.on(mesh, "data")
    by_flow, by_descent = flow(on_mesh, wide, observe=LOSS), descent(on_mesh, wide, optax.adam(0.01), observe=LOSS)
    for run in (by_flow, by_descent):
        assert [W.sharding.spec for W in where(run.net)] == specs
    assert_same(by_flow, flow(DATA, net(), observe=LOSS))
    measured = nf.measure.loss(wide, on_mesh), nf.measure.nfm(wide), nf.measure.agop(wide, on_mesh)
    alone = nf.measure.loss(net(), DATA), nf.measure.nfm(net()), nf.measure.agop(net(), DATA)
    for one, two in zip(measured, alone, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-13 * np.max(np.abs(two)))


def chunks_take_samples_from_every_device_and_no_device_needs_all_samples():
    n = 4 * 97  # no other size is a multiple of 97
    data = nf.Dataset(np.resize(X, (n, 6)), np.resize(Y, (n, 3)))
    parameters, whole = make_objective(net(), data, "mse", 0.0)
    on_mesh = make_objective(net(), data.on(MESH), "mse", 0.0)[1]
    chunked = within_memory(on_mesh, parameters, 20_000)
    assert chunked.at_once == within_memory(whole, parameters, 20_000).at_once < n / 8  # of each device
    gradient = lambda objective: jax.tree.leaves(objective.gradient(parameters))
    for one, two in zip(gradient(chunked), gradient(whole), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-14 * np.max(np.abs(two)))

    def exchanged(function, *arguments):
        """The shapes that devices send each other to compute this function."""
        lines = jax.jit(function).lower(*arguments).compile().as_text().splitlines()
        words = "all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter"
        return [line.split("=")[1] for line in lines if re.search(rf"\b({words})(-start)?\(", line)]

    product = lambda objective, p: objective.hessian_product(p, p)
    measure = lambda net, data: [observe(net, data) for name, observe in OBSERVE.items() if name != "fact"]
    for sent in (
        exchanged(product, on_mesh, parameters),
        exchanged(product, chunked, parameters),
        exchanged(measure, net(), data.on(MESH)),
    ):
        sizes = [int(size) for line in sent for size in re.findall(r"\d+", line.split("(")[0])]
        assert sent and not [size for size in sizes if size > 0 == size % 97], sent


def a_run_that_is_stopped_goes_on_on_any_number_of_devices():
    observe = LOSS | {"alignment": OBSERVE["alignment"]}
    whole = flow(EVEN, net(), observe=observe)
    part = flow(EVEN.on(MESH), net(), 1.0, observe=observe, resumable=True)
    assert part.resume(2.0, progress=False).stats["steps"] == whole.stats["steps"]

    @contextlib.contextmanager
    def interrupted_bar(label, progress):
        yield lambda fraction: signal.raise_signal(signal.SIGINT)

    bar, drive._progress_bar, drive._FIRST_BUDGET = drive._progress_bar, interrupted_bar, 20
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "flow.npz"
        stopped = flow(EVEN.on(MESH), net(), observe=observe, checkpoint=checkpoint, throw=False)
        assert stopped.status == "interrupted" and stopped.stats["steps"] == 20
        drive._progress_bar, content = bar, checkpoint.read_bytes()
        for devices in (4, 2, 1):
            data = EVEN.on(jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices]))
            checkpoint.write_bytes(content)
            assert_same(flow(data, net(), observe=observe, checkpoint=checkpoint), whole)
            assert not checkpoint.exists()
        checkpoint.write_bytes(content)
        with raises("`checkpoint` must be .* belongs to another run"):
            flow(DATA[1:21].on(MESH), net(), observe=observe, checkpoint=checkpoint)


def a_second_run_compiles_nothing_and_its_network_goes_on_with_other_data():
    on_mesh = EVEN.on(MESH)
    first, compiled = flow(on_mesh, net(), observe=LOSS), []
    listener = lambda event, _, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    jax.monitoring.register_event_duration_secs_listener(listener)
    flow(on_mesh, net(), observe=LOSS)
    assert not compiled
    assert_same(flow(EVEN, first.net, observe=LOSS), flow(on_mesh, first.net, observe=LOSS))


def data_say_where_they_are_and_keep_it():
    on_mesh = DATA.on(MESH)
    assert str(on_mesh) == "Dataset(24 samples, 6 inputs -> 3 outputs, float64, weighted, on 4 devices)"
    assert on_mesh.weight[-2:].tolist() == [0, 0] and (on_mesh.x[-2:] == DATA.x[-1]).all()
    assert EVEN.on(MESH).weight is None
    put = lambda a: jax.device_put(a, NamedSharding(MESH, PartitionSpec("data")))
    by_hand = nf.Dataset(put(X[:20]), Y[:20])  # the rest follows
    for data in (on_mesh, by_hand, by_hand.astype("float32")):
        for array in jax.tree.leaves(data):
            assert len(array.addressable_shards) == 4 and array.addressable_shards[0].data.shape[0] == len(array) / 4


def what_is_no_mesh_or_has_not_the_axis_is_refused():
    with raises("`mesh` must be a mesh of devices, as from `jax.make_mesh.*`, but was 4"):
        DATA.on(4)
    with raises("`axis` must be one of the axes of the mesh, 'data', but was 'model'"):
        DATA.on(MESH, "model")
    with raises("`data` must be placed on a mesh outside of `jax.jit` and `jax.vmap`, but was traced by JAX"):
        jax.jit(lambda scale: scale * DATA.on(MESH).x)(2.0)
    on_mesh = EVEN.on(MESH)
    one_run = lambda key: nf.gradient_flow(net(), on_mesh, 1.0, progress=False)
    for batch in ("auto", "off"):
        with raises("`data` must be on one device in a sweep, .*, but was divided among several"):
            nf.sweep(one_run, nf.Grid(seed=range(2)), batch=batch, progress=False)
    with raises("`jax.set_mesh` must be called with a mesh whose axes are of the type Auto, .* with types Explicit"):
        with jax.set_mesh(MESH):
            flow(EVEN.on(MESH), net())


assert jax.device_count() == 4
for fact in (
    a_flow_is_that_of_one_device_whether_or_not_the_mesh_divides_the_samples,
    the_moments_of_a_linear_network_are_those_of_all_devices,
    kinks_are_located_as_on_one_device,
    derivatives_are_those_of_one_device,
    labels_images_and_total_losses_are_divided_too,
    descent_is_that_of_one_device_also_on_minibatches,
    arrays_of_a_wide_network_stay_divided,
    chunks_take_samples_from_every_device_and_no_device_needs_all_samples,
    a_run_that_is_stopped_goes_on_on_any_number_of_devices,
    a_second_run_compiles_nothing_and_its_network_goes_on_with_other_data,
    data_say_where_they_are_and_keep_it,
    what_is_no_mesh_or_has_not_the_axis_is_refused,
):
    print(fact.__name__, flush=True)
    fact()
print("done")
