"""Sweeps: the same results as single runs, labeled, whatever is batched with what."""

from concurrent.futures import ThreadPoolExecutor

import equinox as eqx
import jax
import numpy as np
import optax
import pytest
from sweep.problems import DATA, OBSERVE, TIMES, TSIT5, linear

import nfa_flow as nf
from nfa_flow.sweep.engines.sequence import InSequence
from nfa_flow.sweep.workers import local

SGD = optax.sgd(0.05)

# In lockstep sums are ordered differently. Divided by an error estimate near rtol = 1e-6, that changes steps by about
# 1e-10, and what the steps leave of an error of 1e-6 or less accordingly.
ROUNDING = {"sequential": 1e-12, "off": 0, "vmap": 1e-11}
GRID = nf.Grid(depth=[2, 3], weight_decay=[0, 0.1], seed=range(3))


@pytest.fixture(scope="module")
def dataset():
    return nf.sweep(linear, GRID, progress=False)


def test_the_axes_and_time_are_the_dimensions(dataset):
    assert dataset["loss"].dims == ("depth", "weight_decay", "seed", "time")
    assert dataset["loss"].shape == (2, 2, 3, 4)
    assert dataset["nfm"].dims[4:] == ("nfm[1]", "nfm[2]")
    np.testing.assert_array_equal(dataset["time"], TIMES)
    assert dataset["depth"].values.tolist() == [2, 3]
    assert dataset["seed"].values.tolist() == [0, 1, 2]


@pytest.mark.parametrize("batch", ["sequential", "vmap", "off"])
def test_each_run_is_that_of_a_single_call(batch):
    dataset = nf.sweep(linear, GRID, batch=batch, progress=False)
    for depth, decay, seed in [(2, 0.0, 0), (3, 0.1, 2)]:
        alone = linear(jax.random.key(seed), weight_decay=decay, depth=depth)
        run = dataset.sel(depth=depth, weight_decay=decay, seed=seed)
        assert run["total_steps"] == alone.stats["steps"]
        for name in OBSERVE:
            expected = np.asarray(alone.observed[name])
            np.testing.assert_allclose(run[name], expected, rtol=0, atol=ROUNDING[batch] * abs(expected).max())
            np.testing.assert_array_equal(run[f"{name}_at_end"], run[name][-1])
    assert (dataset["status"] == "completed").all()


def test_the_default_on_a_cpu_is_in_sequence(dataset):
    assert dataset.attrs["batching"] == "sequential"


def test_in_sequence_the_bits_do_not_depend_on_the_other_lanes(dataset):
    few = nf.sweep(linear, nf.Grid(depth=[3], weight_decay=[0.1], seed=[2]), progress=False)
    for name in OBSERVE:
        np.testing.assert_array_equal(few[name].squeeze(), dataset[name].sel(depth=3, weight_decay=0.1, seed=2))


def test_runs_of_one_seed_share_their_key(dataset):
    start = dataset["loss"].isel(time=0)
    np.testing.assert_array_equal(start.sel(weight_decay=0.0), start.sel(weight_decay=0.1))


def test_a_seed_is_passed_where_it_is_asked_for():
    seen = []

    def one_run(key, seed):
        seen.append(seed)
        return linear(key)

    nf.sweep(one_run, nf.Grid(seed=[3, 4]), batch="off", progress=False)
    assert sorted(seen) == [3, 4]


def test_several_runs_inside_one_function_go_on_from_one_another():
    first, second = optax.sgd(0.1), optax.sgd(0.05, momentum=0.9)

    def one_run(key, scale):
        net = nf.nets.MLP([4, 5, 1], key=key, activation="identity", init=nf.nets.Gaussian(scale))
        net = nf.gradient_descent(net, DATA, first, 30, observe={}, save_at=[30]).net
        return nf.gradient_descent(net, DATA, second, 20, time_per_step=0.5, batch_size=6, key=key, save_at=[0, 20])

    for batch in ("sequential", "vmap"):
        dataset = nf.sweep(one_run, nf.Grid(scale=[0.3, 0.6], seed=range(3)), batch=batch, progress=False)
        for scale, seed in [(0.3, 1), (0.6, 2)]:
            alone = one_run(jax.random.key(seed), scale).observed["loss"]
            np.testing.assert_allclose(dataset["loss"].sel(scale=scale, seed=seed), alone, rtol=1e-12)


def test_a_failed_run_is_recorded_and_disturbs_no_other():
    optimizer = optax.sgd(0.1)

    def one_run(key, scale):
        net = nf.nets.MLP([4, 5, 1], key=key, activation="identity", init=nf.nets.Gaussian(scale))
        return nf.gradient_descent(net, DATA, optimizer, 50, save_at=[0, 1, 50])

    for batch in ("sequential", "vmap", "off"):
        dataset = nf.sweep(one_run, nf.Grid(scale=[0.1, 30.0], seed=range(2)), batch=batch, progress=False)
        assert dataset["status"].values.tolist() == [["completed"] * 2, ["diverged"] * 2]
        assert "stopped being finite" in str(dataset["reason"].values[1, 0])
        assert np.isfinite(dataset["loss"].sel(scale=0.1)).all()
        assert np.isnan(dataset["loss"].sel(scale=30.0).isel(time=-1)).all()
        assert (dataset["total_steps"].sel(scale=30.0) < 50).all()


def small(key, scale=0.5):
    return nf.nets.MLP([4, 5, 1], key=key, activation="identity", init=nf.nets.Gaussian(scale))


def learning_rate(key, a):
    return nf.gradient_descent(small(key), DATA, optax.sgd(a), 20, save_at=[20])


def closure(key, a):
    observe = {"loss": lambda net, data: a * nf.measure.loss(net, data)}
    return nf.gradient_descent(small(key), DATA, SGD, 20, observe=observe, save_at=[20])


def compiled(key, a):
    return jax.jit(lambda key, a: nf.gradient_descent(small(key, a), DATA, SGD, 20, save_at=[20]))(key, a)


def vmapped(key, a):
    inner = jax.vmap(lambda key: nf.gradient_descent(small(key, a), DATA, SGD, 20, save_at=[20]).net.weights[0])
    return nf.gradient_descent(small(key, inner(jax.random.split(key)).std()), DATA, SGD, 20, save_at=[20])


@pytest.mark.parametrize("one_run", [learning_rate, closure, compiled, vmapped])
@pytest.mark.parametrize("batch", ["sequential", "vmap"])
def test_settings_may_enter_by_closures_and_transformations_of_the_users_own(one_run, batch):
    dataset = nf.sweep(one_run, nf.Grid(a=[0.1, 0.2], seed=range(2)), batch=batch, progress=False)
    for a, seed in [(0.1, 1), (0.2, 0)]:
        alone = one_run(jax.random.key(seed), a).observed["loss"][0]
        np.testing.assert_allclose(dataset["loss_at_end"].sel(a=a, seed=seed), alone, rtol=1e-12)


@pytest.mark.parametrize("batch", ["sequential", "off"])
def test_where_an_earlier_run_fails_and_raises_the_whole_has_failed(batch):
    def one_run(key, scale):
        first = nf.gradient_descent(small(key, scale), DATA, SGD, 20, save_at=[20])
        net = eqx.tree_at(lambda net: net.layers, first.net, small(key).layers)
        return nf.gradient_descent(net, DATA, SGD, 20, save_at=[20])

    dataset = nf.sweep(one_run, nf.Grid(scale=[0.1, 1e3]), batch=batch, progress=False)
    assert dataset["status"].values.tolist() == ["completed", "diverged"]
    with pytest.raises(nf.RunError) as raised:
        one_run(jax.random.key(0), 1e3)
    failed = raised.value.trajectory.reached()  # everything is of the run that failed
    assert float(failed.end_time) == dataset["end_time"].values[1] < dataset["end_time"].values[0]
    assert dataset["reason"].values[1] == failed.what_happened
    assert dataset["total_steps"].values[1] == failed.stats["steps"]
    np.testing.assert_allclose(dataset["loss_at_end"][1], failed.observed["loss"][-1])


def test_whole_numbers_are_pythons_own():
    def one_run(key, exponent):
        return nf.gradient_descent(small(key), DATA, SGD, 20, weight_decay=float(10**exponent), save_at=[20])

    dataset = nf.sweep(one_run, nf.Grid(exponent=[-1, 0]), progress=False)
    alone = [float(one_run(jax.random.key(0), exponent).observed["loss"][0]) for exponent in (-1, 0)]
    np.testing.assert_allclose(dataset["loss_at_end"], alone, rtol=1e-12)


def test_another_choice_of_batched_settings_is_another_program():
    one_run = lambda key, a=0.1, scale=0.5: nf.gradient_descent(
        small(key, scale), DATA, SGD, 20, weight_decay=a, save_at=[20]
    )
    grids = [nf.Grid(a=[0.2]), nf.Grid(), nf.Grid(scale=[0.3]), nf.Grid(a=[0.2], scale=[0.5])]
    ends = [nf.sweep(one_run, grid, progress=False)["loss_at_end"].item() for grid in grids]
    alone = [one_run(jax.random.key(0), **settings.values) for grid in grids for settings in grid]
    np.testing.assert_allclose(ends, [run.observed["loss"][0] for run in alone], rtol=1e-12)


def test_what_is_set_for_this_thread_holds_for_the_workers():
    with jax.default_prng_impl("rbg"):
        dataset = nf.sweep(learning_rate, nf.Grid(a=[0.1], seed=[3]), progress=False)
        alone = learning_rate(jax.random.key(3), 0.1).observed["loss"]
    np.testing.assert_allclose(dataset["loss"].squeeze("a").squeeze("seed"), alone, rtol=1e-12)


def test_an_error_that_passes_fails_the_runs_it_met_and_no_others(monkeypatch):
    run, calls = InSequence._run, []

    def sometimes(self, one_run, lanes, cancelled):
        calls.append(len(lanes))
        if len(calls) == 2:
            raise MemoryError("for a moment")
        return run(self, one_run, lanes, cancelled)

    monkeypatch.setattr(InSequence, "_run", sometimes)
    monkeypatch.setattr(local, "_places", lambda: jax.local_devices()[:1])
    dataset = nf.sweep(learning_rate, nf.Grid(a=[0.1], seed=range(20)), progress=False)
    failed = dataset["status"].values == "error"
    assert failed.sum() == calls[1] < 20
    assert "for a moment" in dataset["reason"].values[failed][0]


def test_an_error_in_python_fails_its_own_runs_only():
    def one_run(key, depth):
        if depth == 3:
            raise ZeroDivisionError("three is one too many")
        return linear(key, depth=depth)

    dataset = nf.sweep(one_run, nf.Grid(depth=[2, 3], seed=range(2)), batch="off", progress=False)
    assert dataset["status"].values.tolist() == [["completed"] * 2, ["error"] * 2]
    assert "three is one too many" in str(dataset["reason"].values[1, 0])
    with pytest.raises(RuntimeError, match="every run of the sweep raised an error"):
        nf.sweep(one_run, nf.Grid(depth=[3]), batch="off", progress=False)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("is_remote", [False, True])
def test_what_ends_the_program_in_one_run_is_recorded_and_raised(kind, is_remote, tmp_path):
    def one_run(key, seed):
        if seed == 1:
            raise kind("enough")
        return linear(key)

    with ThreadPoolExecutor(1) as pool:
        options = {"batch": "off", "progress": False, "executor": pool if is_remote else None}
        with pytest.raises(kind):
            nf.sweep(one_run, nf.Grid(seed=range(3)), store=tmp_path / "a.zarr", **options)
        with pytest.raises(kind):
            nf.sweep(one_run, nf.Grid(seed=[1]), **options)
    dataset = nf.load_sweep(tmp_path / "a.zarr")
    assert dataset["status"].values[1] == "error"
    assert dataset["reason"].values[1] == f"{kind.__name__}: enough"


def test_a_function_that_jax_cannot_trace_is_called_run_by_run():
    def one_run(key, scale):
        run = linear(key, scale)
        return run if float(run.observed["loss"][-1]) > 0 else None

    with pytest.warns(UserWarning, match="called run by run"):
        dataset = nf.sweep(one_run, nf.Grid(scale=[0.5], seed=range(2)), progress=False)
    assert dataset.attrs["batching"] == "off"
    np.testing.assert_array_equal(
        dataset["loss"].sel(scale=0.5, seed=1), linear(jax.random.key(1), 0.5).observed["loss"]
    )


def test_different_save_times_leave_time_without_labels():
    def one_run(key, t1):
        net = nf.nets.MLP([4, 5, 1], key=key, activation="identity")
        return nf.gradient_flow(net, DATA, t1, save_at=t1 * np.array([0.0, 1.0]), solver=TSIT5)

    dataset = nf.sweep(one_run, nf.Grid(t1=[1.0, 2.0], seed=range(2)), progress=False)
    assert "time" not in dataset.coords
    np.testing.assert_array_equal(dataset["times"].isel(seed=0), [[0, 1], [0, 2]])


def test_a_repeated_sweep_does_not_compile_again(compilations):
    grid = lambda seeds: nf.Grid(weight_decay=[0.0, 0.2], seed=seeds)
    nf.sweep(linear, grid(range(2)), progress=False)
    compilations()
    nf.sweep(linear, grid(range(2, 9)), progress=False)
    assert compilations() == 0


def test_data_are_shared_and_not_repeated_for_each_lane():
    from nfa_flow.sweep.engines.stages import Stage
    from nfa_flow.sweep.one_run import OneRun
    from nfa_flow.sweep.plan import make_plan

    def one_run(key, scale):
        net = nf.nets.MLP([4, 5, 1], key=key, activation="tanh", init=nf.nets.Gaussian(scale))
        return nf.gradient_flow(net, DATA, 1.0, solver=TSIT5)

    function, grid = OneRun(one_run, {}), nf.Grid(scale=[1.0], seed=[0])
    (group,) = make_plan(function, grid, "sequential").groups(grid)
    stage = Stage(function, group.fixed, group.lanes[0].row, ())
    own, _ = jax.eval_shape(stage.prepare, stage.shared(group.lanes[0].row, ()), group.lanes[0].row, ())
    assert all(leaf.size == 1 for leaf in jax.tree.leaves(own))


@pytest.mark.parametrize(
    ("grid", "options", "message"),
    [
        (nf.Grid(lr=[1.0]), {}, "`grid` must be of axes that `one_run` takes .*, but was with lr"),
        (nf.Grid(weight_decay=[0.1, -0.1]), {}, "refuses weight_decay = -0.1: `weight_decay` must be a non-negative"),
        (nf.Grid(depth=nf.batched([2, 3])), {}, "`depth` must be an axis whose values leave all shapes alone"),
        (nf.Grid(width=nf.batched(["two"])), {}, "`width` must be an axis of numbers when it is declared batched"),
        (nf.Grid(), {"batch": "pmap"}, "`batch` must be one of"),
        ({"depth": [2]}, {}, "`grid` must be a `Grid`"),
        (nf.Grid(), {"accept": 1}, "`accept` must be the name of a difference"),
        (nf.Grid(), {"executor": "threads"}, "`executor` must be a"),
    ],
)
def test_mistakes_are_told_before_anything_is_run_or_stored(grid, options, message, no_type_checks, tmp_path):
    with pytest.raises(ValueError, match=message):
        nf.sweep(linear, grid, progress=False, store=tmp_path / "a.zarr", **options)
    assert not any(tmp_path.iterdir())


def test_an_axis_that_is_called_as_an_observable_is_refused_before_the_first_run(monkeypatch):
    monkeypatch.setattr(local.LocalWorkers, "run", lambda self, keep: pytest.fail("it ran"))
    one_run = lambda key, loss: linear(key, weight_decay=loss)
    with pytest.raises(ValueError, match="`observe` must be given names .* `loss`"):
        nf.sweep(one_run, nf.Grid(loss=[0.0, 0.1]), progress=False)


def test_a_function_that_needs_more_than_the_grid_has_is_refused():
    with pytest.raises(ValueError, match="with an axis for each parameter of `one_run` without a default, .* depth"):
        nf.sweep(lambda key, depth: linear(key, depth=depth), nf.Grid(), progress=False)
    with pytest.raises(ValueError, match="a function that takes `key`"):
        nf.sweep(lambda seed: linear(jax.random.key(seed)), nf.Grid(seed=[0]), progress=False)


def test_an_error_of_the_functions_own_is_raised_as_it_is():
    def one_run(key):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        nf.sweep(one_run, nf.Grid(), progress=False)


def test_something_else_than_a_trajectory_is_refused():
    with pytest.raises(ValueError, match="a function that returns a `Trajectory`"):
        nf.sweep(lambda key: linear(key).net, nf.Grid(), progress=False)
