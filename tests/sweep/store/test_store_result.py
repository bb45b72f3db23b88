"""A store keeps the result of a sweep, which is loaded as it was, and a summary of its runs."""

import csv
import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import xarray
import zarr
from sweep.stores import GRID, SETTINGS, conclude, leftovers_in, make_runs, open_store, parts_of, write

from nfa_flow.sweep.store.load import load


def dataset(value=1.0):
    words = np.array(["completed", "é", ""], object)
    coords = {"init": ("init", np.array(["a", "bc", "d"], object)), "flag": [True, False]}
    numbers = np.full((3, 2), value)
    numbers[0] = np.nan
    attrs = {"settings": json.dumps(SETTINGS), "about": json.dumps({"device": "cpu"}), "title": "T", "n": 1}
    return xarray.Dataset({"loss": (("init", "flag"), numbers), "status": ("init", words)}, coords, attrs)


def test_the_result_comes_back_identical_and_without_warnings(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(store, make_runs(0))
        conclude(store, dataset(), [{}])
        loaded = load(store.path)
        assert loaded.identical(dataset())
        assert {n: v.dtype for n, v in loaded.variables.items()} == {n: v.dtype for n, v in dataset().variables.items()}
        opened = xarray.open_zarr(store.path).load()
        for name in ("digests", "format", "how_to_read", "written"):
            assert opened.attrs.pop(name)
        assert opened.map(lambda a: a.astype(dataset()[a.name].dtype)).equals(dataset())
        assert opened.attrs == dataset().attrs
        assert list(zarr.open_group(store.path / "runs", mode="r").group_keys()) == parts_of(store.path)


def test_a_store_and_its_parts_are_read_by_xarray_alone(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    write(store, make_runs(0, 1))
    conclude(store, dataset())
    (part,) = parts_of(store.path)
    code = (
        "import sys, warnings, xarray; warnings.simplefilter('error'); "
        f"root, part = xarray.open_zarr({str(store.path)!r}), xarray.open_zarr({str(store.path / 'runs' / part)!r}); "
        "assert root.sizes == {'init': 3, 'flag': 2} and root.loss.sel(init='bc', flag=True) == 1.0; "
        "assert part.loss.dims == ('run', 'time') and part['agop.eigenvalues'].dims[2:] == ('agop.eigenvalues[1]',); "
        "assert part.name.values.tolist() == part.run.values.tolist() == ['key0', 'key1']; "
        "assert part.total_steps.values.tolist() == [3, 3] and set(part.status.values) == {'completed'}; "
        "assert 'nfa_flow' not in sys.modules; print(part.loss.values.tobytes().hex())"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == b"".join(each.observed["loss"].tobytes() for each in make_runs(0, 1).values()).hex()


def test_loaded_words_can_be_selected_by(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    conclude(store, dataset(), [])
    loaded = load(store.path)
    assert loaded.where(loaded.status == "é", drop=True).init.values.tolist() == ["bc"]
    assert loaded.reindex(init=["d", "e"]).status.values[0] == ""
    assert loaded.sel(init="bc").status.item() == "é"


def test_a_new_result_replaces_the_old_one(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    for value in (1.0, 2.0):
        conclude(store, dataset(value), [{"value": value}])
        assert load(store.path).identical(dataset(value))
    assert leftovers_in(tmp_path) == []


def killed(*_):
    raise KeyboardInterrupt


def test_without_a_result_the_finished_runs_are_read(tmp_path, monkeypatch):
    store = open_store(tmp_path / "a.zarr")
    with pytest.raises(FileNotFoundError, match="No run of the sweep at .* has finished yet: run the sweep again"):
        load(store.path)
    conclude(store, dataset(), [])
    write(store, make_runs(1, 2))  # of which the grid has the first
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "rename", killed)
        store.show(dataset(2.0), GRID)
    found = load(store.path)
    assert found["status"].values.tolist() == ["missing", "completed"] and found["seed"].values.tolist() == [0, 1]
    np.testing.assert_array_equal(found["loss"].sel(seed=1), make_runs(1)["key1"].observed["loss"])
    conclude(open_store(store.path), dataset(), [])
    assert load(store.path).identical(dataset())


def test_a_result_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    store = open_store(tmp_path / "a.zarr")
    conclude(store, dataset(1.0), [])
    load_dataset, calls = xarray.load_dataset, []

    def load_slowly(*args, **kwargs):
        found = load_dataset(*args, **kwargs)
        calls.append(found)
        if len(calls) == 1:
            conclude(store, dataset(2.0), [])
        return found

    monkeypatch.setattr(xarray, "load_dataset", load_slowly)
    assert load(store.path).identical(dataset(2.0))
    assert len(calls) == 2


@pytest.mark.parametrize("file", ["loss/zarr.json", "loss/c/0/0", "runs/zarr.json"])
def test_a_damaged_file_of_the_result_is_named(file, tmp_path):
    store = open_store(tmp_path / "a.zarr")
    conclude(store, dataset(), [])
    (store.path / file).write_bytes(b"{")
    with pytest.raises(ValueError, match=f"a.zarr/{file} is damaged: run the sweep again"):
        load(store.path)
    store = open_store(store.path)
    conclude(store, dataset())
    assert load(store.path).identical(dataset())


@pytest.mark.parametrize("file", ["loss/zarr.json", "loss/c/0/0", "flag/zarr.json"])
def test_what_is_missing_in_the_result_is_not_read_as_zeros(file, tmp_path):
    store = open_store(tmp_path / "a.zarr")
    conclude(store, dataset(), [])
    (store.path / file).unlink()
    with pytest.raises(ValueError, match=f"a.zarr/{file} is damaged: run the sweep again"):
        load(store.path)


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"{")])
def test_a_store_whose_own_attributes_are_lost_is_told_from_something_else(damage, tmp_path):
    store = open_store(tmp_path / "a.zarr")
    damage(store.path / "zarr.json")
    for read in (load, open_store):
        with pytest.raises(ValueError, match="a.zarr/zarr.json is damaged"):
            read(store.path)


def test_where_there_is_nothing_no_sweep_is_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no sweep at"):
        load(tmp_path / "a.zarr")


@pytest.mark.parametrize("rows", [[], [{"width": 4, "key": "abc", "status": "completed"}]])
def test_a_summary_is_replaced(rows, tmp_path):
    conclude(open_store(tmp_path / "a.zarr"), dataset(), rows)
    store = open_store(tmp_path / "a.zarr")
    conclude(store, dataset(), [{"key": "def", "status": "failed"}])
    assert store.csv_path.read_text().splitlines() == ["key,status", "def,failed"]


@pytest.mark.parametrize("name, table", [("a.zarr", "a.csv"), ("rate0.1", "rate0.1.csv")])
def test_the_summary_has_a_row_for_each_run_and_the_columns_of_all(name, table, tmp_path):
    store = open_store(tmp_path / name)
    conclude(store, dataset(), [{"width": 4, "reason": "a, b"}, {"width": 8, "loss": 0.1 + 0.2, "rejected": None}])
    assert store.csv_path == tmp_path / table
    with open(tmp_path / table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["width", "reason", "loss", "rejected"]
    assert rows[0] == {"width": "4", "reason": "a, b", "loss": "", "rejected": ""}
    assert rows[1] == {"width": "8", "reason": "", "loss": repr(0.1 + 0.2), "rejected": ""}
