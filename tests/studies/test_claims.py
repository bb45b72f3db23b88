"""The one policy for failed runs and undefined values: nothing is claimed of them, and how many there are is said."""

import numpy as np
import pytest
import xarray

import nfa_flow as nf
from nfa_flow.studies.claims import Count, judged, of_finished, reported


def made(values, status=("completed", "completed", "stopped", "completed")):
    """Four runs of two settings; `through` is observed at two times, of which the run that stopped reached one."""
    status = np.reshape(np.array(status, object), (2, 2))
    ends = np.reshape(np.array(values, float), (2, 2))
    through = np.stack([np.ones((2, 2)), ends], axis=-1)
    step = np.broadcast_to([0.0, 5.0], (2, 2, 2)).copy()
    through[status == "stopped", 1] = step[status == "stopped", 1] = np.nan
    dims = ("rate", "seed")
    return xarray.Dataset(
        {
            "end": (dims, ends),
            "through": ((*dims, "time"), through),
            "step": ((*dims, "time"), step),
            "status": (dims, status),
        }
    )


FINE = made([1, 1, 1, 1])
UNDEFINED = made([1, np.nan, 1, 1])
FAILED = made([1, 1, 1, 1], ["completed", "error", "stopped", "diverged"])


@pytest.mark.parametrize(("holds", "verdict"), [(True, "holds"), (False, "fails"), (None, "undecided")])
def test_a_claim_about_finished_runs_has_its_verdict(holds, verdict):
    claim = judged("it is so", "1", "1", holds, FINE, ["end", "through"])
    assert (claim.verdict, claim.holds, claim.runs) == (verdict, holds, "4")


@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize(
    ("runs", "names", "told"), [(FAILED, [], "4, 2 failed"), (UNDEFINED, ["end"], "4, 1 undefined")]
)
def test_nothing_is_decided_where_runs_failed_or_values_are_undefined(holds, runs, names, told):
    claim = judged("it is so", "1", "1", holds, runs, names)
    assert (claim.verdict, claim.holds, claim.runs) == ("undecided", None, told)
    meant = judged("it is so", "1", "1", holds, runs, names, despite="as is meant")
    assert (meant.holds, meant.runs) == (holds, f"{told} (as is meant)")


def test_what_a_run_did_not_reach_is_not_undefined_and_other_variables_do_not_count():
    assert Count.of(FINE, ["through"]) == (4, 0, 0)
    assert Count.of(UNDEFINED, ["through"]) == (4, 0, 1)
    assert Count.of(UNDEFINED) == (4, 0, 0)
    assert reported("numbers", "1", FAILED).verdict == "reported"
    assert reported("numbers", "1", FAILED).runs == "4, 2 failed"


def test_numbers_of_failed_runs_are_not_used():
    np.testing.assert_array_equal(of_finished(FAILED)["end"].isnull(), [[False, True], [False, True]])
    assert set(of_finished(FAILED)["status"].values.ravel()) == {"completed", "error", "stopped", "diverged"}


def swept(statuses):
    """Runs of the experiment "depth" that keep the ansatz to rounding, or say so."""
    trainings = ["exact flow", "untrained, Gaussian"]
    shape = (2, len(trainings), len(statuses) // 4)
    dims = ("depth", "training", "seed")
    depths = np.array([2, 3])[:, None, None]
    ends = {"relative_error": np.full(shape, 1e-10), "exponent.exponent": 1 / depths * np.ones(shape)}
    variables = {f"{name}_at_end": (dims, values) for name, values in ends.items()}
    variables |= {name: ((*dims, "time"), values[..., None]) for name, values in ends.items()}
    variables["status"] = (dims, np.reshape(np.array(statuses, object), shape))
    return xarray.Dataset(variables, {"depth": [2, 3], "training": trainings, "seed": np.arange(shape[-1])})


def test_no_claim_on_the_depth_holds_where_all_runs_but_one_failed():
    experiment = nf.studies.neural_feature_ansatz["depth"]
    assert [claim.verdict for claim in experiment.judge(swept(["completed"] * 48))] == ["holds", "holds"]
    claims = experiment.judge(swept(["completed"] + ["error"] * 47))
    assert [(claim.verdict, claim.runs) for claim in claims] == [("undecided", "24, 23 failed")] * 2


def test_an_experiment_without_enough_runs_says_so():
    experiment = nf.studies.neural_feature_ansatz["counterexample"]
    dataset = xarray.Dataset({"status": (("target", "seed"), np.full((2, 2), "error"))})
    (claim,) = experiment.judge(dataset)
    assert claim.verdict == "undecided" and claim.runs == "4, 4 failed"
    assert claim.measured.startswith("not enough runs came to their end")
    with pytest.raises(KeyError, match="probability"):
        experiment.judge(dataset.assign(status=dataset["status"].where(False, "completed")))
