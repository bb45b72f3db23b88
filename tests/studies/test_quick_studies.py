"""The quick studies, run whole by the command line: their claims, figures and stores."""

import csv

import matplotlib.pyplot as plt
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow.cli import main

pytestmark = pytest.mark.quick
STUDIES = (
    nf.studies.neural_feature_ansatz,
    nf.studies.rich_features,
    nf.studies.spectral_condition,
    nf.studies.one_step_spikes,
)


@pytest.fixture(scope="module", params=STUDIES, ids=lambda study: study.name)
def study(request):
    yield request.param
    plt.close("all")


@pytest.fixture(scope="module")
def folder(study, quick_study):
    """What the quick study leaves."""
    return quick_study(study.name)


@pytest.fixture(scope="module")
def results(study, folder):
    return study.load(folder)


@pytest.fixture(scope="module")
def claims(study, results):
    return study.claims(results)


def test_every_experiment_ran_over_at_least_eight_seeds_and_was_drawn(study, folder, results):
    assert list(results) == [experiment.name for experiment in study.experiments]
    for name, dataset in results.items():
        assert dataset.sizes["seed"] >= 8
        assert (folder / f"{name}.png").stat().st_size > 10_000


def test_every_run_came_to_its_end(results):
    statuses = {name: set(np.unique(dataset["status"].values)) for name, dataset in results.items()}
    # The learning rates of "transfer" go beyond the largest stable one.
    allowed = {name: {"completed", "stopped"} | ({"diverged"} if name == "transfer" else set()) for name in statuses}
    assert not {name: found - allowed[name] for name, found in statuses.items() if found - allowed[name]}


def test_every_experiment_says_something_and_no_claim_fails(results, claims):
    assert {name for name, _ in claims} == set(results)
    assert not [(name, claim) for name, claim in claims if claim.verdict == "fails"]


def test_the_table_of_claims_is_written(folder, claims):
    rows = list(csv.DictReader((folder / "claims.csv").open()))
    assert [(row["experiment"], row["measured"]) for row in rows] == [(name, claim.measured) for name, claim in claims]


def test_the_same_command_draws_again_without_running(quick_study, capsys):
    folder, name = quick_study("spikes"), "gradient"
    drawn = (folder / f"{name}.png").stat().st_mtime_ns
    parts = lambda: (folder / f"{name}.zarr" / "runs").glob("*/**/*")  # the catalog beside them is replaced each time
    written = {file: file.stat().st_mtime_ns for file in parts()}
    main(["study", "spikes", "--quick", "--figure", name, "--out", str(folder), "--no-progress"])
    assert (folder / f"{name}.png").stat().st_mtime_ns > drawn and "fails" not in capsys.readouterr().out
    assert written
    assert {file: file.stat().st_mtime_ns for file in parts()} == written


def test_the_same_seed_gives_the_same_numbers(quick_study):
    study = nf.studies.neural_feature_ansatz
    stored = study.load(quick_study(study.name), ["step-size"])["step-size"].sel(learning_rate=[0.01], seed=[0, 3])
    again = nf.sweep(study["step-size"].one_run, nf.Grid(learning_rate=nf.looped([0.01]), seed=[0, 3]), progress=False)
    np.testing.assert_array_equal(again["relative_error"], stored["relative_error"])
