"""Sweeps of tests run outside of any repository, as results tell of the revision that was there."""

import contextlib

import pytest


@pytest.fixture(scope="module", autouse=True)
def outside_of_repositories(tmp_path_factory):
    with contextlib.chdir(tmp_path_factory.mktemp("folder")):
        yield
