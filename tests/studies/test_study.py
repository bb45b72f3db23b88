"""Studies run, keep, load, draw and judge their experiments; made of experiments that cost next to nothing."""

import csv
import dataclasses
import json
import subprocess
import sys

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest

import nfa_flow as nf
from nfa_flow.studies import Claim, Experiment, Study
from nfa_flow.studies.axes import batched, seeds
from nfa_flow.studies.judgments import Judged
from nfa_flow.studies.panels import AtEnd
from nfa_flow.studies.runs import quantiles
from nfa_flow.studies.study import _TimeLeft, write_claims
from nfa_flow.sweep.identity.describe import describe
from nfa_flow.sweep.progress import Tally


def one_run(key, rate):
    data = nf.data.linear_teacher(20, 3, key=key)
    net = nf.nets.MLP([3, 3, 1], key=key)
    observe = {"loss": nf.measure.loss}
    return nf.gradient_descent(net, data, optax.sgd(0.1), 3, weight_decay=rate, observe=observe, progress=False)


FIRST = Experiment(
    "first",
    "Is it positive?",
    axes={"rate": batched([0.0, 0.1]), "seed": seeds(3, quick=2, tiny=1)},
    one_run=one_run,
    panels=[AtEnd("loss", against="rate")],
    claims={
        "the loss is positive": Judged(
            "> 0", lambda runs: (quantiles(runs["loss_at_end"]), bool((runs["loss_at_end"] > 0).all())), ["loss_at_end"]
        )
    },
    seconds=(1, 30),
)
STUDY = Study("small", "nobody 2026", (FIRST, dataclasses.replace(FIRST, name="second")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    STUDY.run(out, size="quick", progress=False)
    return out


def test_each_experiment_has_a_store_and_they_load_as_they_came(folder):
    results = STUDY.load(folder)
    assert list(results) == ["first", "second"]
    again = STUDY.run(folder, size="quick", progress=False)
    assert all(again[name].identical(results[name]) for name in results)


def test_only_what_is_missing_runs(folder):
    def parts():
        """When each part was written; the catalog next to them is replaced together with the result."""
        return {part: part.stat().st_mtime_ns for part in folder.glob("*.zarr/runs/*") if part.is_dir()}

    written = parts()
    assert len(written) >= 2
    STUDY.run(folder, size="quick", progress=True)
    assert parts() == written


def test_the_full_study_adds_to_the_quick_one(folder, tmp_path):
    full = STUDY.run(tmp_path, only=["first"], progress=False)
    assert list(full) == ["first"] and full["first"].sizes["seed"] == 3
    quick = STUDY.load(folder)["first"]
    np.testing.assert_array_equal(full["first"]["loss"].isel(seed=[0, 1]), quick["loss"])


def test_figures_and_claims_are_written_without_running(folder, tmp_path):
    results = STUDY.load(folder, only=["second"])
    before = plt.get_fignums()
    assert STUDY.draw(results, tmp_path / "figures") == [tmp_path / "figures" / "second.png"]
    assert plt.get_fignums() == before
    assert (tmp_path / "figures" / "second.png").stat().st_size > 1000
    (row,) = list(csv.DictReader(write_claims(STUDY.claims(results), tmp_path / "claims.csv").open()))
    assert (
        row["experiment"] == "second"
        and row["statement"] == "the loss is positive"
        and (row["runs"], row["verdict"]) == ("4", "holds")
    )


def test_the_table_of_claims_keeps_those_of_experiments_that_were_not_judged_again(tmp_path):
    claim = Claim("it is so, and so", "1", "1", "4", "holds")
    path = write_claims([("first", claim), ("first", claim), ("second", claim)], tmp_path / "claims.csv")
    write_claims([("first", claim._replace(measured="2"))], path)
    rows = list(csv.DictReader(path.open()))
    assert [(row["experiment"], row["measured"]) for row in rows] == [("first", "2"), ("second", "1")]


def test_a_table_of_the_whole_study_is_in_its_order(tmp_path):
    claim = Claim("it is so, and so", "1", "1", "4", "holds")
    path = write_claims([("second", claim)], tmp_path / "claims.csv")
    write_claims([("first", claim), ("second", claim)], path)
    assert [row["experiment"] for row in csv.DictReader(path.open())] == ["first", "second"]


def test_a_study_lists_its_experiments():
    assert str(STUDY).splitlines() == [
        "small: nobody 2026",
        "first            Is it positive? (30 s)",
        "second           Is it positive? (30 s)",
    ]


def test_the_time_left_is_told_by_the_pace_of_this_machine(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("nfa_flow.studies.study.time.perf_counter", lambda: now[0])
    left = _TimeLeft({"first": 10, "second": 30})
    tally = Tally(total=10, kept=5)
    assert left("first", tally) == (0.125, 35.0)  # nothing measured yet: the seconds as they were elsewhere
    now[0], tally.done = 10.0, 10
    # 5 of the 10 seconds of "first" took 10 here, twice as long; 30 are left.
    assert left("first", tally) == (0.25, 60.0)


def test_quantiles_are_of_what_is_defined():
    assert quantiles(np.array([1.0, np.nan, 3.0, 2.0, np.inf])) == "2 (1.2–2.8)"
    assert quantiles(np.array([np.nan])) == "undefined"


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match='`experiment` must be one of "first", "second"'):
        STUDY["third"]
    with pytest.raises(ValueError, match="`experiment` must be one of"):
        STUDY.run(tmp_path, only=["first", "third"])
    with pytest.raises(ValueError, match="`size` must be one of"):
        STUDY.run(tmp_path, size="small")
    with pytest.raises(FileNotFoundError, match="no experiment of the study small"):
        STUDY.load(tmp_path)
    with jax.enable_x64(False), pytest.raises(ValueError, match="`jax_enable_x64` must be set"):
        STUDY.run(tmp_path)
    assert not any(tmp_path.iterdir())


def test_experiments_are_the_same_whether_or_not_types_are_checked(tmp_path):
    """Tests check types, users do not; stores of either go on with the other."""
    code = (
        "import json, nfa_flow as nf; from nfa_flow.sweep.identity.describe import describe; "
        "studies = [each for each in vars(nf.studies).values() if isinstance(each, nf.studies.Study)]; "
        "print(json.dumps({f'{s.name} {e.name}': describe(e.one_run) for s in studies for e in s.experiments}))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True)
    studies = [each for each in vars(nf.studies).values() if isinstance(each, Study)]
    here = {f"{study.name} {each.name}": describe(each.one_run) for study in studies for each in study.experiments}
    assert len(here) > 20 and json.loads(run.stdout) == here


def test_claims_replace_no_other_file(tmp_path):
    path = tmp_path / "claims.csv"
    for content in (b"my,own,claims\n", b"", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"`out` must be a folder whose claims\.csv is of a study"):
            write_claims([], path)
        assert path.read_bytes() == content
