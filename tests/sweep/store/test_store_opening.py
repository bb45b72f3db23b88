"""A store is opened by the sweep that it is of, wherever it is, and replaces nothing else."""

import os
import shutil
from pathlib import Path

import pytest
import xarray
from sweep.stores import SETTINGS, make_runs, open_store, write

from nfa_flow.sweep.store.load import load
from nfa_flow.sweep.store.store import Store


def test_a_store_of_the_same_settings_is_opened_whatever_it_is_about(tmp_path):
    nested = {"widths": (1, 2), "scale": float("nan"), "none": {}}
    write(open_store(tmp_path / "a.zarr", extra=nested), make_runs(0))
    assert Store(tmp_path / "a.zarr", SETTINGS | {"extra": nested}, {"device": "gpu"}).keys() == {"key0"}


def test_other_settings_are_refused_by_name_with_the_lines_that_differ(tmp_path):
    text = "def train(key):\n    scale = 2\n    return scale"
    write(open_store(tmp_path / "a.zarr", gone=1, one_run={"source": text, "long": "x" * 100}), make_runs(0))
    one_run = {"source": text.replace("scale", "factor"), "long": "x" * 80 + "y" + "x" * 19}
    with pytest.raises(ValueError) as caught:
        open_store(tmp_path / "a.zarr", version="0.2", one_run=one_run)
    message = str(caught.value)
    assert message.startswith("`store` must be a new path or the store of this very sweep, but was ")
    assert "\n  version: 0.1 → 0.2\n" in message
    assert "\n  gone: 1 → absent\n" in message
    assert "-    scale = 2\n    -    return scale\n    +    factor = 2\n    +    return factor\n" in message
    assert f"\n  one_run.long: …{'x' * 40} → …{'x' * 20}y{'x' * 19}\n" in message
    assert "x64" not in message
    assert 'accept=["version", "one_run.source", "one_run.long", "gone"]' in message
    assert message.endswith("--accept version one_run.source one_run.long gone).")


def test_differences_that_are_accepted_are_written_down(tmp_path):
    write(open_store(tmp_path / "a.zarr"), make_runs(0))
    changed = {"version": "0.2", "one_run": {"name": "train", "code": "def train(key): pass"}}
    for accept in ((), ("version",), ("one_run",), ("one_run.co", "version")):
        with pytest.raises(ValueError, match="`store` must be .* settings differ"):
            open_store(tmp_path / "a.zarr", accept, **changed)
    store = open_store(tmp_path / "a.zarr", ("one_run", "version", "x64"), **changed)
    write(store, make_runs(1))
    assert store.keys() == {"key0", "key1"}
    (entry,) = store.accepted
    assert entry["finished_runs"] == 1
    assert entry["differences"] == {
        "version": {"was": "0.1", "is": "0.2"},
        "one_run.code": {"was": "def train(key): ...", "is": "def train(key): pass"},
    }
    assert open_store(tmp_path / "a.zarr", **changed).keys() == {"key0", "key1"}  # from now on without `accept`
    with pytest.raises(ValueError, match="settings differ"):
        open_store(tmp_path / "a.zarr")


def test_a_store_without_runs_takes_other_settings(tmp_path):
    first = open_store(tmp_path / "a.zarr")
    second = open_store(tmp_path / "a.zarr", version="0.2")
    write(first, make_runs(0))  # of a process that still runs: these belong to nobody
    write(second, make_runs(1))
    assert second.keys() == {"key1"} and second.accepted == []


@pytest.mark.parametrize("name", ["store_of_format_1", "stores_of_format_2"])
def test_stores_of_earlier_versions_are_refused_and_can_be_read(name, tmp_path):
    shutil.unpack_archive(Path(__file__).with_name(f"{name}.zip"), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    stores = sorted(tmp_path.glob("*.zarr"))
    for store in stores:
        with pytest.raises(ValueError, match="`store` must be a new path.*another version of nfa_flow.*`load_sweep`"):
            open_store(store, accept=("version", "one_run"))
        assert set(load(store)["status"].values.ravel()) == {"completed"}
    if len(stores) == 2:  # of one sweep, which ended or was killed
        xarray.testing.assert_equal(*(load(store).drop_vars("reason") for store in stores))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


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
    write(open_store(tmp_path / "a.zarr"), make_runs(0))
    assert open_store(tmp_path / "a.zarr").keys() == {"key0"}


def test_a_relative_path_survives_a_change_of_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = open_store("a.zarr")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    write(store, make_runs(0))
    assert os.listdir(tmp_path / "elsewhere") == [] and store.keys() == {"key0"}


def test_a_link_to_another_folder_is_followed(tmp_path):
    (tmp_path / "disk" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "a")
    write(open_store(tmp_path / "link"), make_runs(0))
    assert open_store(tmp_path / "disk" / "a").keys() == {"key0"}


def test_a_store_below_a_file_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="The store .* cannot be written: .* run the same call again"):
        open_store(tmp_path / "file" / "a.zarr")


@pytest.mark.parametrize("content", [b"", b"key,value\na,1\n", b"\xff\x00" * 100_000])
def test_another_file_with_the_name_of_the_summary_is_left_alone(content, tmp_path):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match="`store` must be a path whose summary replaces no other file .*a.csv"):
        open_store(tmp_path / "a.zarr")
    assert os.listdir(tmp_path) == ["a.csv"] and (tmp_path / "a.csv").read_bytes() == content
