"""The quick study of the Neural Feature Ansatz, run whole by the command line: its claims, figures and store."""

import csv

import matplotlib.pyplot as plt
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow.cli import main

STUDY = nf.studies.neural_feature_ansatz
NAMES = [experiment.name for experiment in STUDY.experiments]


@pytest.fixture(scope="module")
def folder(quick_study):
    """What the quick study leaves."""
    yield quick_study("nfa")
    plt.close("all")


@pytest.fixture(scope="module")
def results(folder):
    return STUDY.load(folder)


@pytest.fixture(scope="module")
def claims(results):
    return STUDY.claims(results)


def test_every_experiment_ran_over_at_least_eight_seeds_and_was_drawn(folder, results):
    assert list(results) == NAMES
    for name, dataset in results.items():
        assert dataset.sizes["seed"] >= 8
        assert (folder / f"{name}.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_holds_or_is_a_report(claims, name):
    own = [claim for experiment, claim in claims if experiment == name]
    assert own
    assert not [claim for claim in own if claim.holds is False]


def test_the_table_of_claims_is_written(folder, claims):
    rows = list(csv.DictReader((folder / "claims.csv").open()))
    assert [(row["experiment"], row["measured"]) for row in rows] == [(name, claim.measured) for name, claim in claims]


def test_the_same_command_draws_again_without_running(folder, capsys):
    drawn = (folder / "depth.png").stat().st_mtime_ns
    written = {file: file.stat().st_mtime_ns for file in (folder / "depth.zarr" / "runs").rglob("*")}
    main(["study", "nfa", "--quick", "--figure", "depth", "--out", str(folder), "--no-progress"])
    assert (folder / "depth.png").stat().st_mtime_ns > drawn and "does not hold" not in capsys.readouterr().out
    assert written
    assert {file: file.stat().st_mtime_ns for file in (folder / "depth.zarr" / "runs").rglob("*")} == written


def test_the_same_seed_gives_the_same_numbers(results):
    stored = results["step-size"].sel(learning_rate=[0.01], seed=[0, 3])
    again = nf.sweep(STUDY["step-size"].one_run, nf.Grid(learning_rate=nf.looped([0.01]), seed=[0, 3]), progress=False)
    np.testing.assert_array_equal(again["relative_error"], stored["relative_error"])
