"""A store keeps finished runs exactly, whoever writes, and whatever happens on the way."""

import errno
import itertools
import os
import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sweep.stores import conclude, leftovers_in, make_run, make_runs, open_store, parts_of, write

from nfa_flow.sweep.result import RunResult, failed
from nfa_flow.sweep.store.load import load

FIELDS = ("status", "reason", "end_time", "counts", "notes", "seconds")


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


NUMBERS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.floats())
DTYPES = st.sampled_from(["float64", "float32", "float16", "int64", "int8", "uint64", "bool", "complex64", "bfloat16"])
NAMES = st.text("abcé _", min_size=1, max_size=3)


@st.composite
def any_run(draw):
    count = draw(st.integers(0, 3))
    known = {"bfloat16": "int8"}  # numpy does not know it by itself; these are numbers of it
    array = lambda dtype, shape=(): draw(hnp.arrays(known.get(dtype, dtype), (count, *shape))).astype(dtype)
    shapes = draw(st.dictionaries(NAMES, st.tuples(DTYPES, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0))))
    return RunResult(
        times=array("float64"),
        steps=array("int32"),
        observed={name: array(*kind) for name, kind in shapes.items()},
        status=draw(st.sampled_from(["completed", "error"])),
        reason=draw(st.text()),
        end_time=draw(st.floats()),
        counts=draw(st.dictionaries(NAMES.map("count {}".format), NUMBERS, max_size=2)),
        notes=draw(st.dictionaries(NAMES.map("note {}".format), st.text(), max_size=2)),
        seconds=draw(st.floats()),
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=st.lists(any_run(), min_size=1, max_size=3))
def test_runs_come_back_bit_for_bit(runs, tmp_path):
    path = tmp_path / "any.zarr"
    shutil.rmtree(path, ignore_errors=True)
    runs = {f"key{i}": run for i, run in enumerate(runs)}
    write(open_store(path), runs)
    assert_same(all_in(open_store(path)), runs)


def test_runs_of_another_process_come_back_bit_for_bit(tmp_path):
    store, runs = open_store(tmp_path / "a.zarr"), make_runs(0, 1)
    write(store, pickle.loads(pickle.dumps(runs)))
    assert_same(all_in(store), runs)


def test_every_nan_keeps_its_bits(tmp_path):
    bits = np.array([0xFFF8000000000000, 0x7FF8000000000123, 1 << 63], np.uint64)
    for values in (bits, bits[[0, 0, 0]], bits[[2, 2, 2]]):
        run = RunResult(np.arange(3.0), np.arange(3), {"loss": values.view(np.float64)}, "completed", "", 2.0)
        store = open_store(tmp_path / str(values[1]))
        write(store, {"key": run})
        assert_same(all_in(store), {"key": run})


def test_a_failed_run_without_observations_comes_back(tmp_path):
    runs = {"bad": failed(ValueError("no such width"))}
    store = open_store(tmp_path / "a.zarr")
    write(store, runs)
    assert_same(all_in(store), runs)
    assert store.keys() == {"bad"}


def test_runs_of_equal_shapes_share_a_part(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    runs = make_runs(0, 1, 2) | make_runs(3, 4, width=5)
    write(store, runs)
    assert len(parts_of(store.path)) == 2
    assert_same(all_in(store), runs)


def test_only_parts_with_a_run_that_is_wanted_are_read(tmp_path, monkeypatch):
    store, read, load_dataset = open_store(tmp_path / "a.zarr"), [], xarray.load_dataset
    write(store, make_runs(0, 1))
    write(store, make_runs(2, 3))
    monkeypatch.setattr(xarray, "load_dataset", lambda *args, **kwargs: read.append(1) or load_dataset(*args, **kwargs))
    assert_same(store.results({"key1", "unknown"}), make_runs(1))
    assert len(read) == 1


def test_writing_the_same_runs_again_changes_nothing(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    runs = make_runs(0, 1)
    write(store, runs)
    before = {path: path.stat().st_mtime_ns for path in store.path.rglob("*")}
    write(store, dict(reversed(runs.items())))
    assert {path: path.stat().st_mtime_ns for path in store.path.rglob("*")} == before
    assert leftovers_in(tmp_path) == []


def test_nothing_to_write_writes_nothing(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    write(store, {})
    assert (store.keys(), all_in(store), parts_of(store.path)) == (set(), {}, [])


def test_of_one_run_in_two_parts_the_part_with_the_smaller_name_counts(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    first, second = {"shared": make_run(0), "a": make_run(2)}, {"shared": make_run(1), "b": make_run(3)}
    names = []
    for runs in (first, second):
        write(store, runs)
        names += set(parts_of(store.path)) - set(names)
    winner = first if names[0] < names[1] else second
    assert_same(all_in(store), first | second | winner)


def test_a_second_process_sees_what_the_first_wrote(tmp_path):
    one, other = open_store(tmp_path / "a.zarr"), open_store(tmp_path / "a.zarr")
    write(one, make_runs(0))
    write(other, make_runs(1))
    assert one.keys() == other.keys() == {"key0", "key1"}


def test_many_writers_at_once_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "runs" / "a.zarr"
    expected, errors = make_runs(*range(6)), []

    def work(number):
        try:
            store = open_store(path)
            for i in range(6):
                write(store, make_runs((i + number // 2) % 6))
                assert all(len(run.times) == 3 for run in all_in(store).values())
            numbers = {"status": ("seed", ["completed", "completed"])}
            numbers |= {name: ("i", np.full(10, float(number))) for name in "xy"}
            conclude(store, xarray.Dataset(numbers), [{"key": "", "status": number}])
            found = load(path)
            values = np.stack([found.x, found.y]) if "x" in found else np.zeros((2, 1))  # or it is being replaced
            assert (values == values[0, 0]).all()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(os.listdir(path)) == ["runs", "status", "x", "y", "zarr.json"]
    assert_same(all_in(open_store(path)), expected)
    assert leftovers_in(path.parent) == []


DISK = [(Path, "exists"), (Path, "is_dir"), (Path, "mkdir"), (Path, "read_text"), (os, "listdir"), (os, "rename")]


@pytest.mark.parametrize("moment", range(9))
def test_a_store_that_another_process_creates_meanwhile_is_shared(moment, tmp_path, monkeypatch):
    path, moments = tmp_path / "a.zarr", itertools.count()

    def interrupt(call):
        def after_another_process(*args, **kwargs):
            if next(moments) == moment:
                monkeypatch.undo()
                write(open_store(path), make_runs(0))
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
    write(store, make_runs(0))
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
    write(store, make_runs(0, 1))

    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(xarray.Dataset, "to_zarr", refuse)
        for call in (lambda: write(store, make_runs(2)), lambda: store.show(xarray.Dataset(), {})):
            with pytest.raises(
                OSError, match=f"{os.strerror(code)}. The 2 finished runs in it are intact. {advice}"
            ) as e:
                call()
            cause = e.value.__cause__
            assert str(store.path) in str(e.value) and isinstance(cause, OSError) and cause.errno == code
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", refuse)
        with pytest.raises(OSError, match="and run the same call again"):
            write(store, make_runs(2))
        with pytest.raises(OSError, match=f"b.zarr cannot be written: {os.strerror(code)}. {advice}"):
            open_store(tmp_path / "b.zarr")
    assert leftovers_in(tmp_path) == [] and not (tmp_path / "b.zarr").exists()
    assert store.keys() == {"key0", "key1"}
    write(store, make_runs(2))
    assert store.keys() == {"key0", "key1", "key2"}


@pytest.mark.parametrize("file", ["zarr.json", "loss/zarr.json", "loss/c/0/0"])
@pytest.mark.parametrize("content", [b"", b'{"attr'])
def test_a_damaged_file_is_named(file, content, tmp_path):
    store = open_store(tmp_path / "a.zarr")
    write(store, make_runs(0))
    (name,) = parts_of(store.path)
    part = store.path / "runs" / name
    (part / file).write_bytes(content)
    with pytest.raises(ValueError) as caught:
        all_in(store)
    assert str(caught.value).startswith(f"{part / file} is damaged: remove {part} and run the sweep again")
    shutil.rmtree(part)
    assert all_in(store) == {}


@pytest.mark.parametrize("file", ["zarr.json", "loss/zarr.json", "loss/c/0/0"])
def test_a_file_that_is_missing_is_not_read_as_zeros(file, tmp_path):
    store = open_store(tmp_path / "a.zarr")
    write(store, make_runs(0))
    (name,) = parts_of(store.path)
    (store.path / "runs" / name / file).unlink()
    with pytest.raises(ValueError, match=f"{name}/{file} is damaged"):
        all_in(store)


def test_a_bit_that_flipped_on_the_disk_is_noticed(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    write(store, make_runs(0))
    (part,) = parts_of(store.path)
    values = zarr.open_array(store.path / "runs" / part / "loss", mode="r+")
    values[0, 1] += 1e-9
    with pytest.raises(ValueError, match=f"{part}/loss/c/0/0 is damaged"):
        all_in(store)
