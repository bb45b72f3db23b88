"""A store is opened by the sweep that it is of, wherever it is, and replaces nothing else."""

import os

import pytest
import xarray
from sweep.stores import SETTINGS, make_runs, open_store

from nfa_flow.sweep.store import Store, load


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
