"""Libraries show in what a stored sweep was made with: by their names, versions and sources."""

import functools
import importlib
import json
import re
from importlib import metadata

import jax
import numpy as np
import pytest
import sklearn.datasets
from sweep.descriptions import differences

from nfa_flow.sweep.identity import libraries as environment
from nfa_flow.sweep.identity.describe import describe

SCRIPT = """
from . import helpers

class Model:
    def __call__(self, x): return helpers.twice(x)

MODEL = Model()

def helper(x): return MODEL(x)

def one_run(depth, *, key): return helper(depth)
"""
HELPERS = "def twice(x): return 2 * x\n"


@pytest.fixture
def load_package(tmp_path, monkeypatch):
    """Write a package of that name into a folder below, and import the function of its experiment."""

    def load_package(folder, name):
        package = tmp_path / folder / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "experiment.py").write_text(SCRIPT)
        (package / "helpers.py").write_text(HELPERS)
        monkeypatch.syspath_prepend(package.parent)
        return importlib.import_module(f"{name}.experiment").one_run

    return load_package


@pytest.mark.parametrize("wrap", [lambda function: function, jax.jit, lambda function: functools.partial(function, 2)])
def test_a_package_is_described_the_same_installed_or_not(load_package, wrap):
    installed, own = load_package("site-packages", "mine_installed"), load_package("src", "mine")
    entries = describe(wrap(installed))
    assert entries["helper.source"].startswith("def helper(x):")
    assert entries["helper.MODEL.type.__call__.helpers.twice.source"].startswith("def twice(x):")
    assert entries == describe(wrap(own))


def test_another_package_that_is_installed_counts_by_name_version_and_sources(load_package, tmp_path):
    installed = load_package("site-packages", "another_installed")
    entries = describe(lambda: installed())
    assert entries["installed"] == "another_installed.experiment.one_run"
    assert re.fullmatch("no version, sources [0-9a-f]{16}", entries["packages.another_installed"])
    helpers = tmp_path / "site-packages" / "another_installed" / "helpers.py"
    helpers.write_text(helpers.read_text().replace("2 * x", "3 * x"))
    environment.package_text.cache_clear()  # of what was imported in this process
    assert differences(entries, describe(lambda: installed())) == {"packages.another_installed"}


@pytest.mark.parametrize(
    "value, packages",
    [
        (sklearn.datasets.load_digits, {"packages.sklearn"}),
        ({"draw": sklearn}, {"packages.sklearn"}),
        ([len, jax.nn.relu, np.sin, json], set()),
    ],
)
def test_the_packages_of_a_value_are_named(value, packages):
    entries = describe(lambda: value)
    assert {name for name in entries if name.startswith("packages.")} == packages
    assert all(
        entries[name].startswith(f"scikit-learn {metadata.version('scikit-learn')}, sources ") for name in packages
    )


def test_the_library_counts_by_the_text_of_what_computes():
    sources = environment.library_sources()
    assert {"flow", "descent", "measure", "problem", "sweep"} < set(sources)
    assert not {"cli", "plot", "studies", "__pycache__"} & set(sources)
    assert environment.environment()["versions"]["diffrax"] == metadata.version("diffrax")


def test_line_ends_and_places_of_sources_do_not_count_and_texts_do(tmp_path):
    digests = []
    for folder, text in (("a", b"x = 1\n"), ("b", b"x = 1\r\n"), ("c", b"x = 2\n")):
        (tmp_path / folder / "package").mkdir(parents=True)
        (tmp_path / folder / "package" / "module.py").write_bytes(text)
        digests.append(environment.digest_of_sources(tmp_path / folder / "package"))
    assert digests[0] == digests[1] != digests[2]
