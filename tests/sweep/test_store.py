"""A store keeps finished runs exactly, whoever writes, and whatever happens on the way."""

import csv
import errno
import itertools
import json
import os
import shutil
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nfa_flow.sweep.result import RunResult, failed
from nfa_flow.sweep.store import Store, load

SETTINGS = {"version": "0.1", "one_run": {"name": "train", "code": "def train(key): ..."}, "x64": True}
FIELDS = ("status", "reason", "end_time", "counts", "notes", "seconds")


def make_run(seed=0, times=3, width=2):
    rng = np.random.default_rng(seed)
    return RunResult(
        times=np.linspace(0, 1, times),
        steps=np.arange(times, dtype=np.int32),
        observed={"loss": rng.normal(size=times), "agop.eigenvalues": rng.normal(size=(times, width))},
        status="completed",
        reason="The run completed at t = 1.",
        end_time=1.0,
        counts={"steps": times, "rejected": None, "seen": 0.1 + 0.2},
        notes={"solver": "Dopri5"},
        seconds=0.5,
    )


def make_runs(*seeds, **shape):
    return {f"key{seed}": make_run(seed, **shape) for seed in seeds}


def open_store(path, **changed):
    return Store(path, SETTINGS | changed, {"device": "cpu"})


def all_in(store):
    return store.results(store.keys())


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, run in expected.items():
        for name, ours, theirs in _arrays(run, found[key]):
            assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes()), name
        for name in FIELDS:
            assert repr(getattr(found[key], name)) == repr(getattr(run, name))


def _arrays(run, other):
    assert list(run.observed) == list(other.observed)
    pairs = [("times", run.times, other.times), ("steps", run.steps, other.steps)]
    return pairs + [(name, value, other.observed[name]) for name, value in run.observed.items()]


def parts_of(path):
    return sorted(name for name in os.listdir(path / "runs") if name != "zarr.json")


def leftovers_in(folder):
    return [name for name in os.listdir(folder) if name.endswith(".partial")]


NUMBERS = st.one_of(st.none(), st.integers(-(2**70), 2**70), st.floats())
DTYPES = st.sampled_from(["float64", "float32", "float16", "int64", "int8", "uint64", "bool", "complex64"])


@st.composite
def any_run(draw):
    count = draw(st.integers(0, 3))
    array = lambda dtype, shape=(): draw(hnp.arrays(dtype, (count, *shape)))
    shapes = draw(st.dictionaries(st.text(), st.tuples(DTYPES, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0))))
    return RunResult(
        times=array("float64"),
        steps=array("int32"),
        observed={name: array(*kind) for name, kind in shapes.items()},
        status=draw(st.sampled_from(["completed", "error"])),
        reason=draw(st.text()),
        end_time=draw(st.floats()),
        counts=draw(st.dictionaries(st.text(), NUMBERS, max_size=2)),
        notes=draw(st.dictionaries(st.text(), st.text(), max_size=2)),
        seconds=draw(st.floats()),
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=st.lists(any_run(), min_size=1, max_size=3))
def test_runs_come_back_bit_for_bit(runs, tmp_path):
    path = tmp_path / "any.zarr"
    shutil.rmtree(path, ignore_errors=True)
    runs = {f"key{i}": run for i, run in enumerate(runs)}
    open_store(path).write(runs)
    assert_same(all_in(open_store(path)), runs)


def test_every_nan_keeps_its_bits(tmp_path):
    bits = np.array([0xFFF8000000000000, 0x7FF8000000000123, 1 << 63], np.uint64)
    for values in (bits, bits[[0, 0, 0]], bits[[2, 2, 2]]):
        run = RunResult(np.arange(3.0), np.arange(3), {"loss": values.view(np.float64)}, "completed", "", 2.0)
        store = open_store(tmp_path / str(values[1]))
        store.write({"key": run})
        assert_same(all_in(store), {"key": run})


def test_a_failed_run_without_observations_comes_back(tmp_path):
    runs = {"bad": failed(ValueError("no such width"))}
    store = open_store(tmp_path / "a.zarr")
    store.write(runs)
    assert_same(all_in(store), runs)
    assert store.keys() == {"bad"}


def test_runs_of_equal_shapes_share_a_part(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    runs = make_runs(0, 1, 2) | make_runs(3, 4, width=5)
    store.write(runs)
    assert len(parts_of(store.path)) == 2
    assert_same(all_in(store), runs)


def test_only_parts_with_a_run_that_is_wanted_are_read(tmp_path, monkeypatch):
    store, read, load_dataset = open_store(tmp_path / "a.zarr"), [], xarray.load_dataset
    store.write(make_runs(0, 1))
    store.write(make_runs(2, 3))
    monkeypatch.setattr(xarray, "load_dataset", lambda *args, **kwargs: read.append(1) or load_dataset(*args, **kwargs))
    assert_same(store.results({"key1", "unknown"}), make_runs(1))
    assert len(read) == 1


def test_writing_the_same_runs_again_changes_nothing(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    runs = make_runs(0, 1)
    store.write(runs)
    before = {path: path.stat().st_mtime_ns for path in store.path.rglob("*")}
    store.write(dict(reversed(runs.items())))
    assert {path: path.stat().st_mtime_ns for path in store.path.rglob("*")} == before
    assert leftovers_in(tmp_path) == []


def test_nothing_to_write_writes_nothing(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    store.write({})
    assert (store.keys(), all_in(store), parts_of(store.path)) == (set(), {}, [])


def test_of_one_run_in_two_parts_the_part_with_the_smaller_name_counts(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    first, second = {"shared": make_run(0), "a": make_run(2)}, {"shared": make_run(1), "b": make_run(3)}
    names = []
    for runs in (first, second):
        store.write(runs)
        names += set(parts_of(store.path)) - set(names)
    winner = first if names[0] < names[1] else second
    assert_same(all_in(store), first | second | winner)


def test_a_second_process_sees_what_the_first_wrote(tmp_path):
    one, other = open_store(tmp_path / "a.zarr"), open_store(tmp_path / "a.zarr")
    one.write(make_runs(0))
    other.write(make_runs(1))
    assert one.keys() == other.keys() == {"key0", "key1"}


def test_many_writers_at_once_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "runs" / "a.zarr"
    expected, errors = make_runs(*range(6)), []

    def work(number):
        try:
            store = open_store(path)
            for i in range(6):
                store.write(make_runs((i + number // 2) % 6))
                assert all(len(run.times) == 3 for run in all_in(store).values())
            store.conclude(xarray.Dataset({"x": ("i", np.full(10, number))}), [{"key": "", "status": number}])
            values = load(path).x.values
            assert (values == values[0]).all()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert_same(all_in(open_store(path)), expected)
    assert sorted(os.listdir(path)) == ["result", "runs", "zarr.json"]
    assert leftovers_in(path.parent) == []


DISK = [(Path, "exists"), (Path, "is_dir"), (Path, "mkdir"), (Path, "read_text"), (os, "listdir"), (os, "rename")]


@pytest.mark.parametrize("moment", range(9))
def test_a_store_that_another_process_creates_meanwhile_is_shared(moment, tmp_path, monkeypatch):
    path, moments = tmp_path / "a.zarr", itertools.count()

    def interrupt(call):
        def after_another_process(*args, **kwargs):
            if next(moments) == moment:
                monkeypatch.undo()
                open_store(path).write(make_runs(0))
            return call(*args, **kwargs)

        return after_another_process

    for owner, name in DISK:
        monkeypatch.setattr(owner, name, interrupt(getattr(owner, name)))
    store = open_store(path)
    assert next(moments) > moment, "All calls to the disk were seen: fewer moments are enough."
    assert_same(all_in(store), make_runs(0))
    assert leftovers_in(tmp_path) == []


def test_what_a_killed_process_left_is_ignored_and_later_removed(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    store.write(make_runs(0))
    names = [
        "a.zarr.123-0123abcd.partial",
        "a.zarr.124-0123abcd.partial",
        "a.zarr.partial",
        "b.zarr.1-0123abcd.partial",
    ]
    for name in names:
        (tmp_path / name / "half").mkdir(parents=True)
        os.utime(tmp_path / name, (0, 0) if name != names[1] else None)
    assert open_store(tmp_path / "a.zarr").keys() == {"key0"}
    assert sorted(leftovers_in(tmp_path)) == sorted(names[1:])


def test_a_store_of_the_same_settings_is_opened_whatever_it_is_about(tmp_path):
    nested = {"widths": (1, 2), "scale": float("nan"), "none": {}}
    open_store(tmp_path / "a.zarr", extra=nested).write(make_runs(0))
    assert Store(tmp_path / "a.zarr", SETTINGS | {"extra": nested}, {"device": "gpu"}).keys() == {"key0"}


def test_other_settings_are_refused_and_named(tmp_path):
    open_store(tmp_path / "a.zarr", gone=1)
    one_run = {"name": "train", "code": "x" * 100}
    with pytest.raises(ValueError) as caught:
        open_store(tmp_path / "a.zarr", version="0.2", one_run=one_run)
    message = str(caught.value)
    assert message.startswith("`store` must be a new path or the store of this very sweep, but was ")
    assert 'version "0.1" → "0.2"' in message
    assert 'one_run.code "def train(key): ..." → "xxx' in message
    assert "gone 1 → absent" in message
    assert "one_run.name" not in message and "x64" not in message
    assert "x" * 28 + "…" + "x" * 28 + '"' in message and "x" * 29 not in message


@pytest.mark.parametrize("content", ["file", "folder", "zarr", "broken"])
def test_what_is_no_store_is_refused_and_left_alone(content, tmp_path):
    path = tmp_path / "a"
    if content == "file":
        path.write_text("mine")
    elif content == "zarr":
        xarray.Dataset({"x": 1}).to_zarr(path, zarr_format=3, consolidated=False)
    else:
        path.mkdir()
        (path / ("zarr.json" if content == "broken" else "thesis.tex")).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        ValueError, match="`store` must be a new path or the store of this sweep, but was .*something else"
    ):
        open_store(path)
    with pytest.raises(ValueError, match="`path` must be the store of a sweep"):
        load(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_becomes_a_store(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    open_store(tmp_path / "a.zarr").write(make_runs(0))
    assert open_store(tmp_path / "a.zarr").keys() == {"key0"}


def test_a_relative_path_survives_a_change_of_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = open_store("a.zarr")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    store.write(make_runs(0))
    assert os.listdir(tmp_path / "elsewhere") == [] and store.keys() == {"key0"}


def test_a_link_to_another_folder_is_followed(tmp_path):
    (tmp_path / "disk" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "a")
    open_store(tmp_path / "link").write(make_runs(0))
    assert open_store(tmp_path / "disk" / "a").keys() == {"key0"}


@pytest.mark.parametrize(
    "code, advice",
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EROFS, "Change the permissions there"),
        (errno.EIO, "Free space or change"),
    ],
)
def test_a_full_or_forbidden_disk_is_explained_and_costs_no_run(code, advice, tmp_path, monkeypatch):
    store = open_store(tmp_path / "a.zarr")
    store.write(make_runs(0, 1))

    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(xarray.Dataset, "to_zarr", refuse)
        for write in (lambda: store.write(make_runs(2)), lambda: store.conclude(xarray.Dataset(), [])):
            with pytest.raises(
                OSError, match=f"{os.strerror(code)}. The 2 finished runs in it are intact. {advice}"
            ) as e:
                write()
            cause = e.value.__cause__
            assert str(store.path) in str(e.value) and isinstance(cause, OSError) and cause.errno == code
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", refuse)
        with pytest.raises(OSError, match="and run the same call again"):
            store.write(make_runs(2))
        with pytest.raises(OSError, match=f"b.zarr cannot be written: {os.strerror(code)}. {advice}"):
            open_store(tmp_path / "b.zarr")
    assert leftovers_in(tmp_path) == [] and not (tmp_path / "b.zarr").exists()
    assert store.keys() == {"key0", "key1"}
    store.write(make_runs(2))
    assert store.keys() == {"key0", "key1", "key2"}


def test_a_store_below_a_file_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="The store .* cannot be written: .* run the same call again"):
        open_store(tmp_path / "file" / "a.zarr")


def test_a_damaged_part_is_named(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    store.write(make_runs(0))
    (part,) = parts_of(store.path)
    (store.path / "runs" / part / "zarr.json").write_text('{"attr')
    with pytest.raises(ValueError, match=f"{part} is damaged: remove it and run the sweep again"):
        store.keys()


def dataset(value=1.0):
    words = np.array(["completed", "é", ""], object)
    coords = {"init": ("init", np.array(["a", "bc", "d"], object)), "flag": [True, False]}
    numbers = np.full((3, 2), value)
    numbers[0] = np.nan
    return xarray.Dataset(
        {"loss": (("init", "flag"), numbers), "status": ("init", words)}, coords, {"title": "T", "n": 1}
    )


def test_the_result_comes_back_identical_and_without_warnings(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.write(make_runs(0))
        store.conclude(dataset(), [{}])
        loaded = load(store.path)
        assert loaded.identical(dataset())
        assert {n: v.dtype for n, v in loaded.variables.items()} == {n: v.dtype for n, v in dataset().variables.items()}
        assert xarray.open_zarr(store.path, group="result", consolidated=False).identical(dataset())
        tree = xarray.open_datatree(store.path, engine="zarr", consolidated=False)
        assert tree.attrs == {"settings": SETTINGS, "about": {"device": "cpu"}}
        assert list(zarr.open_group(store.path, path="runs", mode="r").group_keys()) == parts_of(store.path)


def test_loaded_words_can_be_selected_by(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    store.conclude(dataset(), [])
    loaded = load(store.path)
    assert loaded.where(loaded.status == "é", drop=True).init.values.tolist() == ["bc"]
    assert loaded.reindex(init=["d", "e"]).status.values[0] == ""
    assert loaded.sel(init="bc").status.item() == "é"


def test_a_new_result_replaces_the_old_one(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    for value in (1.0, 2.0):
        store.conclude(dataset(value), [{"value": value}])
        assert load(store.path).identical(dataset(value))
    assert leftovers_in(tmp_path) == []


def test_a_process_killed_while_it_replaced_the_result_does_no_harm(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    store.write(make_runs(0))
    store.conclude(dataset(), [])
    os.rename(store.path / "result", tmp_path / "aside")
    with pytest.raises(FileNotFoundError, match="no result yet: run the sweep again, finished runs are kept"):
        load(store.path)
    open_store(store.path).conclude(dataset(), [])
    assert load(store.path).identical(dataset())


def test_a_result_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    store = open_store(tmp_path / "a.zarr")
    store.conclude(dataset(1.0), [])
    load_dataset, calls = xarray.load_dataset, []

    def load_slowly(*args, **kwargs):
        found = load_dataset(*args, **kwargs)
        calls.append(found)
        if len(calls) == 1:
            store.conclude(dataset(2.0), [])
        return found

    monkeypatch.setattr(xarray, "load_dataset", load_slowly)
    assert load(store.path).identical(dataset(2.0))
    assert len(calls) == 2


def test_a_damaged_result_is_not_taken_for_a_missing_one(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    store.conclude(dataset(), [])
    (store.path / "result" / "zarr.json").write_text("{")
    with pytest.raises(json.JSONDecodeError):
        load(store.path)


def test_where_there_is_nothing_no_sweep_is_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no sweep at"):
        load(tmp_path / "a.zarr")


@pytest.mark.parametrize("content", [b"", b"key,value\na,1\n", b"\xff\x00" * 100_000])
def test_another_file_with_the_name_of_the_summary_is_left_alone(content, tmp_path):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match="`store` must be a path whose summary replaces no other file .*a.csv"):
        open_store(tmp_path / "a.zarr")
    assert os.listdir(tmp_path) == ["a.csv"] and (tmp_path / "a.csv").read_bytes() == content


@pytest.mark.parametrize("rows", [[], [{"width": 4, "key": "abc", "status": "completed"}]])
def test_a_summary_is_replaced(rows, tmp_path):
    open_store(tmp_path / "a.zarr").conclude(dataset(), rows)
    store = open_store(tmp_path / "a.zarr")
    store.conclude(dataset(), [{"key": "def", "status": "failed"}])
    assert store.csv_path.read_text().splitlines() == ["key,status", "def,failed"]


@pytest.mark.parametrize("name, table", [("a.zarr", "a.csv"), ("rate0.1", "rate0.1.csv")])
def test_the_summary_has_a_row_for_each_run_and_the_columns_of_all(name, table, tmp_path):
    store = open_store(tmp_path / name)
    store.conclude(dataset(), [{"width": 4, "reason": "a, b"}, {"width": 8, "loss": 0.1 + 0.2, "rejected": None}])
    assert store.csv_path == tmp_path / table
    with open(tmp_path / table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["width", "reason", "loss", "rejected"]
    assert rows[0] == {"width": "4", "reason": "a, b", "loss": "", "rejected": ""}
    assert rows[1] == {"width": "8", "reason": "", "loss": repr(0.1 + 0.2), "rejected": ""}
