"""What is stored comes back."""

import dataclasses
import json
import os
import shutil
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray

import nfa_flow as nf
from nfa_flow.run.trees import flatten

DATA = nf.data.linear_teacher(30, 4, 2, key=jax.random.key(0))
SGD = optax.sgd(0.1)


def contents(folder):
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def train(net, **options):
    return nf.gradient_descent(net, DATA, SGD, 20, save_at=[0, 5, 20], progress=False, **options)


class TwoBranches(eqx.Module):
    """A network of the user's own, with a function, an integer and a scalar parameter among its leaves."""

    inner: eqx.nn.MLP
    scale: jax.Array
    power: int

    def __call__(self, x):
        return self.scale * self.inner(x) ** self.power


def two_branches(seed, width=3):
    return TwoBranches(eqx.nn.MLP(4, 2, width, 1, key=jax.random.key(seed)), jnp.asarray(0.5), 1)


@pytest.fixture(scope="module")
def run():
    """Networks at all times, arrays, integers, booleans, NaN and a named tuple among the observables."""
    observe = {
        "loss": nf.measure.loss,
        "weights": lambda net, data: net.weights[0],
        "count": lambda net, data: data.samples,
        "small": lambda net, data: nf.measure.loss(net, data) < 0.5,
        "undefined": lambda net, data: jnp.nan * nf.measure.loss(net, data),
        "fit": nf.measure.fit_exponent,
    }
    net = nf.nets.MLP([4, 5, 3, 2], key=jax.random.key(1), activation=["identity", "relu"], bias=True)
    return train(net, observe=observe, save_nets=True)


@pytest.fixture(scope="module")
def custom():
    return train(two_branches(1), save_nets=True)


def assert_same_arrays(tree, other):
    for ours, theirs in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_an_mlp_with_named_activations_comes_back_whole(run, tmp_path):
    path = run.save(tmp_path / "runs" / "run.zarr")
    assert path == tmp_path / "runs" / "run.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = nf.Trajectory.load(path)
    assert (loaded.status, loaded.stats, repr(loaded.net)) == (run.status, run.stats, repr(run.net))
    assert [type(value) for value in loaded.stats.values()] == [type(value) for value in run.stats.values()]
    assert loaded.end_time == run.end_time
    assert_same_arrays((loaded.times, loaded.steps), (run.times, run.steps))
    assert_same_arrays(loaded.net.layers, run.net.layers)
    assert_same_arrays(loaded.nets.layers, run.nets.layers)
    np.testing.assert_array_equal(jax.vmap(loaded.net)(DATA.x), jax.vmap(run.net)(DATA.x))
    np.testing.assert_array_equal(loaded.net_at(1).weights[0], run.observed["weights"][1])


def test_observables_come_back_with_one_entry_for_each_leaf(run, tmp_path):
    loaded = nf.Trajectory.load(run.save(tmp_path / "run.zarr"))
    fit = run.observed["fit"]
    expected = {name: value for name, value in run.observed.items() if name != "fit"}
    expected |= {f"fit.{name}": value for name, value in fit._asdict().items()}
    assert loaded.observed.keys() == expected.keys()
    for name, value in expected.items():
        assert_same_arrays(loaded.observed[name], value)
    assert loaded.observable_status["undefined"] == "undefined"
    assert loaded.observable_status["loss"] == "defined"
    xarray.testing.assert_identical(loaded.to_xarray(), run.to_xarray())


def test_what_was_loaded_can_be_stored_again(run, tmp_path):
    once = nf.Trajectory.load(run.save(tmp_path / "once.zarr"))
    twice = nf.Trajectory.load(once.save(tmp_path / "twice.zarr"))
    xarray.testing.assert_identical(twice.to_xarray(), run.to_xarray())
    assert_same_arrays(twice.nets.layers, run.nets.layers)


def test_a_count_that_is_not_known_comes_back_as_none(run, tmp_path):
    run = eqx.tree_at(lambda r: r.counts["gradient_evaluations"], run, None)
    loaded = nf.Trajectory.load(run.save(tmp_path / "run.zarr"))
    assert loaded.stats == run.stats
    assert loaded.stats["gradient_evaluations"] is None


def test_a_failed_run_in_single_precision_comes_back_as_such(tmp_path):
    net = nf.nets.MLP([4, 5, 2], key=jax.random.key(1), dtype="float32")
    run = nf.gradient_descent(net, DATA, optax.sgd(1e3), 20, progress=False, throw=False)
    loaded = nf.Trajectory.load(run.save(tmp_path / "run.zarr"))
    assert (loaded.status, loaded.what_happened) == ("diverged", run.what_happened)
    assert loaded.nets is None
    assert_same_arrays((loaded.net.weights, loaded.observed), (run.net.weights, run.observed))
    assert loaded.net.weights[0].dtype == jnp.float32


def test_a_network_of_ones_own_comes_back_into_one_like_it(custom, tmp_path):
    path = custom.save(tmp_path / "run.zarr")
    like = two_branches(2)
    loaded = nf.Trajectory.load(path, like=like)
    assert_same_arrays(
        eqx.filter((loaded.net, loaded.nets), eqx.is_array), eqx.filter((custom.net, custom.nets), eqx.is_array)
    )
    assert loaded.net.inner.activation is like.inner.activation and loaded.net.power == 1
    np.testing.assert_array_equal(jax.vmap(loaded.net)(DATA.x), jax.vmap(custom.net)(DATA.x))


def test_without_one_like_it_the_network_is_none(custom, tmp_path):
    loaded = nf.Trajectory.load(custom.save(tmp_path / "run.zarr"))
    assert loaded.net is None and loaded.nets is None
    assert_same_arrays(loaded.observed, custom.observed)
    assert "net:" not in repr(loaded)


def test_activations_without_a_name_need_one_like_it(tmp_path):
    net = nf.nets.MLP([4, 3, 2], key=jax.random.key(1), activation=jnp.sin)
    run = train(net)
    path = run.save(tmp_path / "run.zarr")
    assert nf.Trajectory.load(path).net is None
    assert_same_arrays(nf.Trajectory.load(path, like=net).net.layers, run.net.layers)


def test_one_that_is_not_like_it_is_refused(custom, run, tmp_path):
    path = custom.save(tmp_path / "run.zarr")
    with pytest.raises(ValueError, match="`like` must be a network with the arrays"):
        nf.Trajectory.load(path, like=run.net)
    with pytest.raises(ValueError, match=r"`like` must be a network whose inner\.layers\.0\.weight has shape \(3, 4\)"):
        nf.Trajectory.load(path, like=two_branches(2, width=5))


def test_nothing_at_the_path_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no trajectory at .*run.zarr"):
        nf.Trajectory.load(tmp_path / "run.zarr")


def test_saving_replaces_the_store_that_is_there(run, custom, tmp_path):
    path = run.save(tmp_path / "run.zarr")
    assert custom.save(str(path)) == path
    assert list(nf.Trajectory.load(path).observed) == ["loss"]
    assert [file.name for file in tmp_path.iterdir()] == ["run.zarr"]


def test_saving_never_replaces_anything_else(run, tmp_path):
    path = run.save(tmp_path / "run.zarr")
    (path / "notes.txt").write_text("mine")
    sweep = tmp_path / "sweep.zarr"
    xarray.Dataset({"a": 1.0}, attrs={"settings": "", "about": ""}).to_zarr(sweep, consolidated=False)
    before = contents(tmp_path)
    for taken in (tmp_path, path / "notes.txt", sweep):
        with pytest.raises(ValueError, match="`path` must be a new path or an earlier trajectory.* something else"):
            run.save(taken)
    with pytest.raises(ValueError, match=r"run\.zarr, which holds notes\.txt besides"):
        run.save(path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("place", ["_describe", "digests_of"])
def test_a_broken_attempt_to_save_leaves_the_earlier_store(place, run, custom, tmp_path, monkeypatch):
    path = run.save(tmp_path / "run.zarr")

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(nf.run.storage, place, fail)
    with pytest.raises(KeyboardInterrupt):
        custom.save(path)
    monkeypatch.undo()
    xarray.testing.assert_identical(nf.Trajectory.load(path).to_xarray(), run.to_xarray())
    custom.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.zarr"]


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_at_any_renaming_loses_neither_store(renames, run, custom, tmp_path):
    path = run.save(tmp_path / "run.zarr")
    custom.save(tmp_path / "new.zarr")
    partial = tmp_path / "run.zarr.123-0123abcd.partial"  # as a killed process leaves it
    partial.mkdir()
    (tmp_path / "new.zarr").rename(partial / "new")
    if renames > 0:
        path.rename(partial / "old")
    if renames > 1:
        (partial / "new").rename(path)
    expected = run if renames == 0 else custom
    assert list(nf.Trajectory.load(path).observed) == sorted(flatten(expected.observed))
    run.save(path)
    xarray.testing.assert_identical(nf.Trajectory.load(path).to_xarray(), run.to_xarray())


def test_what_another_process_may_still_be_writing_stays_and_what_was_abandoned_goes(custom, tmp_path):
    names = ["run.zarr.1-0123abcd.partial", "run.zarr.2-0123abcd.partial", "run.zarr.partial"]
    for name in names:
        (tmp_path / name).mkdir()
    os.utime(tmp_path / names[1], (0, 0))
    custom.save(tmp_path / "run.zarr")
    assert {file.name for file in tmp_path.iterdir()} == {"run.zarr", names[0], names[2]}


def test_a_store_replaced_while_it_is_read_is_read_again(run, custom, tmp_path, monkeypatch):
    path, rest = run.save(tmp_path / "run.zarr"), [custom]
    read = nf.run.storage.xarray.load_dataset

    def replaced(*arguments, **options):
        dataset = read(*arguments, **options)
        for other in rest[:]:
            rest.clear()
            other.save(path)
        return dataset

    monkeypatch.setattr(nf.run.storage.xarray, "load_dataset", replaced)
    loaded = nf.Trajectory.load(path, like=two_branches(2))
    assert_same_arrays((loaded.observed, loaded.net.scale), (custom.observed, custom.net.scale))


def test_a_damaged_store_names_the_file(run, tmp_path):
    path = run.save(tmp_path / "run.zarr")
    assert (path / "loss" / "c" / "0").is_file()
    for file, damage, how in [
        ("loss/c/0", b"no longer compressed", "is not as it was written"),
        ("nets/layers.0.weight/zarr.json", b"{", "is no JSON"),
        ("net/layers.1.bias/c/0", None, "is missing"),
        ("zarr.json", b"[]", "cannot be read"),
        ("zarr.json", None, "is missing"),
        ("time/zarr.json", None, "is missing"),
        ("net/layers.0.weight/zarr.json", None, "is missing"),
    ]:
        copy = shutil.copytree(path, tmp_path / "copy.zarr")
        (copy / file).write_bytes(damage) if damage else (copy / file).unlink()
        with pytest.raises(ValueError, match=f"The trajectory is damaged: .*copy.zarr.* {how}"):
            nf.Trajectory.load(copy)
        shutil.rmtree(copy)


def test_what_is_no_trajectory_is_told_from_one(tmp_path, no_type_checks):
    (tmp_path / "notes.txt").write_text("no store")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match="`path` must be a trajectory that `save` wrote"):
            nf.Trajectory.load(path)
    with pytest.raises(TypeError, match="`path` must be a path, but was 3"):
        nf.Trajectory.load(3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "int4", "complex64"])
def test_types_that_zarr_does_not_know_come_back_to_the_bit(dtype, custom, tmp_path):
    values = jnp.asarray([1, 1.5, -2], dtype)
    run = dataclasses.replace(custom, observed={"value": values}, net=(values,), nets=None)
    loaded = nf.Trajectory.load(run.save(tmp_path / "run.zarr"), like=run.net)
    assert_same_arrays((loaded.observed, loaded.net), (run.observed, run.net))


def test_weights_may_have_names_that_no_folder_has(custom, tmp_path):
    net = {"a/b": jnp.ones(2), "": jnp.zeros(3), "..": jnp.ones(1), "α": jnp.ones(4)}
    run = dataclasses.replace(custom, net=net, nets=None)
    assert_same_arrays(nf.Trajectory.load(run.save(tmp_path / "run.zarr"), like=net).net, net)


def test_a_batch_of_runs_is_saved_one_by_one(custom, tmp_path):
    two = jax.tree.map(lambda a: jnp.stack([a, a]) if eqx.is_array(a) else a, custom)
    with pytest.raises(ValueError, match="is of one run; pick a lane first"):
        two.save(tmp_path / "run.zarr")
    assert not list(tmp_path.iterdir())


def test_the_store_is_plain_zarr_and_json(run, tmp_path):
    path = run.save(tmp_path / "run.zarr")
    dataset = xarray.open_zarr(path, consolidated=False)
    xarray.testing.assert_identical(dataset.load(), run.to_xarray())
    assert json.loads((path / "zarr.json").read_text())["zarr_format"] == 3
    assert not [file for file in path.rglob("*") if file.suffix in (".pkl", ".pickle", ".eqx")]


class Negated(nf.nets.MLP):
    """Another function of the same layers."""

    def __call__(self, x, *, key=None):
        return -super().__call__(x)


def test_a_subclass_of_the_network_is_not_taken_for_it(tmp_path):
    net = Negated([2, 2, 1], key=jax.random.key(0))
    data = nf.data.linear_teacher(8, 2, key=jax.random.key(1))
    run = nf.gradient_flow(net, data, 0.1, save_at=[0.1], progress=False)
    run.save(tmp_path / "run.zarr")
    assert nf.Trajectory.load(tmp_path / "run.zarr").net is None
    assert isinstance(nf.Trajectory.load(tmp_path / "run.zarr", like=net).net, Negated)
