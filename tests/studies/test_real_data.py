"""Pieces of the experiment on real data, on datasets whose scores are known; the study runs it whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

import nfa_flow as nf
from nfa_flow.data import Dataset
from nfa_flow.studies.held_out import held_out_score, split
from nfa_flow.studies.nfa import real_data
from nfa_flow.studies.nfa.common import EXACT
from nfa_flow.studies.nfa.real_data import DIABETES, FLOW, METHODS, PROBLEMS, REAL_DATA

SCORES = (
    "loss",
    "relative_error",
    "law_error",
    "exponent.exponent",
    "best.relative_error",
    "best.exponent",
    "held_out",
)


def dataset(methods=(FLOW,), *, status="completed", **scores):
    """A sweep of three seeds and two times without its runs; each score is the same in all, 0 unless given."""
    shape, dims = (len(PROBLEMS), len(methods), 3, 2), ("problem", "setup", "seed", "time")
    variables = {}
    for name in SCORES:
        values = np.full(shape, float(scores.get(name.replace(".", "_"), 0)))
        variables |= {f"{prefix}{name}": (dims, values) for prefix in ("", "untrained.")}
        variables[f"{name}_at_end"] = (dims[:-1], values[..., -1])
    variables["status"] = (dims[:-1], np.full(shape[:-1], status))
    coords = {"problem": list(PROBLEMS), "setup": list(methods), "seed": np.arange(3)}
    return xarray.Dataset(variables, coords)


def law(found):
    return [claim.holds for claim in REAL_DATA.judge(found) if "NFM^L = AGOP" in claim.statement]


@pytest.mark.parametrize(("error", "holds"), [(0.9 * EXACT, True), (1.1 * EXACT, False), (np.nan, None)])
def test_the_law_holds_up_to_the_tolerance_on_every_problem(error, holds):
    assert law(dataset(law_error=error, exponent_exponent=np.nan)) == [holds] * len(PROBLEMS)


def test_one_time_at_which_the_law_is_missed_refutes_it():
    found = dataset()
    found["law_error"][1, 0, 2, 0] = 2 * EXACT
    assert law(found) == [True, False, True]


def test_the_law_is_not_claimed_of_runs_that_failed():
    assert law(dataset(status="failed")) == [None] * len(PROBLEMS)


@pytest.mark.parametrize(("exponent", "holds"), [(np.nan, True), (1 / 3, False)])
def test_a_fitted_exponent_of_a_linear_network_on_diabetes_would_be_a_mistake(exponent, holds):
    (claim,) = [each for each in REAL_DATA.judge(dataset(exponent_exponent=exponent)) if "one output" in each.statement]
    assert claim.holds is holds


def test_what_optimizers_do_is_reported():
    claims = REAL_DATA.judge(dataset((FLOW, "tanh, Adam")))
    (report,) = [claim for claim in claims if claim.statement.startswith(f"{DIABETES}: tanh, Adam")]
    assert report.holds is None and "error at 1/L" in report.measured


def test_a_linear_network_of_one_output_has_an_undefined_exponent():
    data = nf.data.diabetes()
    for init in (nf.nets.Balanced(0.3), nf.nets.Gaussian()):
        net = nf.nets.MLP([10, 16, 16, 1], key=jax.random.key(0), init=init)
        assert np.isnan(nf.measure.fit_exponent(net, data).exponent)


def test_samples_are_split_into_two_parts_that_together_are_all():
    whole = Dataset(jnp.arange(10.0)[:, None], jnp.arange(10.0)[:, None] ** 2)
    parts = split(whole, 7, 3, key=jax.random.key(0))
    assert [part.samples for part in parts] == [7, 3]
    np.testing.assert_array_equal(np.sort(np.concatenate([part.x[:, 0] for part in parts])), whole.x[:, 0])
    for part in parts:
        np.testing.assert_array_equal(part.y, part.x**2)
    other, _ = split(whole, 7, 3, key=jax.random.key(1))
    assert not np.array_equal(other.x, parts[0].x)


def test_the_held_out_score_of_classes_is_the_share_of_samples_whose_class_comes_first():
    targets = jnp.eye(4)[jnp.array([0, 1, 2, 3])]
    outputs = jnp.array([[2.0, 1, 0, 0], [0, 5, 1, 0], [3, 0, 2, 0], [-4, -3, -2, -1]])
    assert held_out_score(lambda x: x, Dataset(outputs, targets)) == 0.75


def test_the_held_out_score_of_one_output_is_the_explained_share_of_the_variance():
    data = Dataset(jnp.arange(5.0)[:, None], 3 + jnp.arange(5.0)[:, None])
    assert held_out_score(lambda x: x + 3, data) == 1
    assert held_out_score(lambda x: 0 * x + 5, data) == 0
    assert held_out_score(lambda x: x + 4, data) == 0.5  # an offset of 1, where the variance is 2


def test_linear_networks_start_balanced_and_others_are_held_out():
    inits = [method.init for method in METHODS.values() if method.activation == "identity"]
    assert inits == [nf.nets.Balanced(real_data._START)] * len(inits)
    assert all(real_data._SAMPLES < problem.load().samples for problem in PROBLEMS.values())
