"""A dataset tells what it was made with."""

import json
import re
import shutil
import subprocess

import jax
import pytest
from sweep.problems import linear

import nfa_flow as nf
from nfa_flow.sweep.identity.libraries import environment
from nfa_flow.sweep.store.about import provenance


def test_settings_versions_and_device_are_attributes_in_memory_and_in_the_store(tmp_path):
    dataset = nf.sweep(linear, nf.Grid(), store=tmp_path / "a.zarr", progress=False)
    settings, about = (json.loads(dataset.attrs[name]) for name in ("settings", "about"))
    assert settings["one_run"]["name"] == "linear" and settings["one_run"]["source"].startswith("def linear(key, ")
    assert settings == json.loads(json.dumps({"one_run": settings["one_run"]} | environment()))
    assert settings["versions"]["jax"] == jax.__version__ and settings["precision"] == "float64"
    assert about["versions"]["jax"] == jax.__version__
    assert "cpu" in about["device"]
    assert about["git_revision"] is None  # tests of sweeps run outside of any repository
    root = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["attributes"]
    assert json.loads(root["settings"]) == settings and json.loads(root["about"]) == about


@pytest.mark.skipif(shutil.which("git") is None, reason="without git there are no revisions")
def test_the_revision_of_the_working_folder_has_a_plus_where_files_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    author = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", *author, "commit", "-q", "--allow-empty", "-m", "Begin"], check=True)
    revision = provenance()["git_revision"]
    assert re.fullmatch("[0-9a-f]{40}", revision)
    (tmp_path / "file").touch()
    assert provenance()["git_revision"] == revision + "+"
