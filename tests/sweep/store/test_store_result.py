"""A store keeps the result of a sweep, which is loaded as it was, and a summary of its runs."""

import csv
import os
import warnings

import numpy as np
import pytest
import xarray
import zarr
from sweep.stores import SETTINGS, leftovers_in, make_runs, open_store, parts_of

from nfa_flow.sweep.store.load import load


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
        opened = xarray.open_zarr(store.path, group="result", consolidated=False)
        assert set(opened.attrs.pop("digests")) >= {"zarr.json", "loss/zarr.json", "loss/c/0/0"}
        assert opened.identical(dataset())
        tree = xarray.open_datatree(store.path, engine="zarr", consolidated=False)
        assert tree.attrs.pop("how_to_read").endswith('the group "result"')
        assert tree.attrs == {"format": 2, "settings": SETTINGS, "about": {"device": "cpu"}, "accepted": []}
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


def test_without_a_result_the_finished_runs_are_read(tmp_path):
    store = open_store(tmp_path / "a.zarr")
    with pytest.raises(FileNotFoundError, match="No run of the sweep at .* has finished yet: run the sweep again"):
        load(store.path)
    store.conclude(dataset(), [])
    store.write(make_runs(1, 2))  # of which the grid has the first
    os.rename(store.path / "result", tmp_path / "aside")  # as a process does that is killed while it replaces it
    found = load(store.path)
    assert found["status"].values.tolist() == ["missing", "completed"] and found["seed"].values.tolist() == [0, 1]
    np.testing.assert_array_equal(found["loss"].sel(seed=1), make_runs(1)["key1"].observed["loss"])
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


@pytest.mark.parametrize("file", ["zarr.json", "loss/zarr.json", "loss/c/0/0"])
def test_a_damaged_file_of_the_result_is_named(file, tmp_path):
    store = open_store(tmp_path / "a.zarr")
    store.conclude(dataset(), [])
    (store.path / "result" / file).write_bytes(b"{")
    with pytest.raises(ValueError, match=f"a.zarr/result/{file} is damaged: remove .*a.zarr/result, then"):
        load(store.path)


@pytest.mark.parametrize("file", ["zarr.json", "loss/zarr.json", "loss/c/0/0", "flag/zarr.json"])
def test_what_is_missing_in_the_result_is_not_read_as_zeros(file, tmp_path):
    store = open_store(tmp_path / "a.zarr")
    store.conclude(dataset(), [])
    (store.path / "result" / file).unlink()
    with pytest.raises(ValueError, match=f"a.zarr/result/{file} is damaged: remove .*a.zarr/result, then"):
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
