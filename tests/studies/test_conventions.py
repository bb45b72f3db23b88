"""Pieces of the conventions side by side, on datasets whose scores are known; the study runs the experiment whole."""

import jax
import numpy as np
import pytest
import xarray

import nfa_flow as nf
from nfa_flow.measure import conventions as named
from nfa_flow.studies.nfa import conventions
from nfa_flow.studies.nfa.conventions import APART, CONVENTIONS, DEFINITIONS, UNTRAINED, apart, scores_of

ADAM = "Adam .001"


def dataset(untrained, trained):
    """A sweep without its runs, from scores by definition × seed."""
    both = np.stack([untrained, trained]).astype(float)
    dims = ("training", "seed")
    variables = {f"score.{name}_at_end": (dims, both[:, i]) for i, name in enumerate(DEFINITIONS)}
    variables["loss_at_end"] = (dims, np.ones(both[:, 0].shape))
    variables["status"] = (dims, np.full(both[:, 0].shape, "completed"))
    return xarray.Dataset(variables, coords={"training": [UNTRAINED, ADAM], "seed": np.arange(both.shape[-1])})


def levels(*values, seeds=8):
    """Scores that are the same in every seed."""
    return np.repeat(np.array(values)[:, None], seeds, axis=1)


ALIKE = levels(*np.full(len(DEFINITIONS), 0.5))


def test_every_named_convention_is_in_the_table():
    public = {name for name, value in vars(named).items() if getattr(value, "__module__", None) == named.__name__}
    assert set(DEFINITIONS) == public


def test_each_score_is_the_convention_of_its_name():
    data = nf.data.multi_index(30, 5, 2, key=jax.random.key(0))
    start, net = (nf.nets.MLP((5, 6, 4, 1), key=jax.random.key(i), activation="relu") for i in (1, 2))
    scores = conventions.conventions(start)(net, data)
    assert list(scores) == list(DEFINITIONS)
    expected = {
        "nfa_cosine_2022": nf.measure.nfa_cosine_2022(start),
        "centered_nfa": nf.measure.centered_nfa(start),
        "nfa_of_depth": nf.measure.nfa_of_depth(3),
    }
    for name in DEFINITIONS:
        score = expected[name] if name in expected else getattr(nf.measure, name)()
        np.testing.assert_array_equal(scores[name], score(net, data), err_msg=name)


def test_networks_whose_definitions_agree_refute_the_claim():
    (first, *_) = CONVENTIONS.judge(dataset(ALIKE, ALIKE))
    assert first.holds is False


@pytest.mark.parametrize(("off", "holds"), [(1.01 * APART, True), (0.99 * APART, False)])
def test_one_definition_that_differs_by_more_than_the_threshold_is_enough(off, holds):
    trained = ALIKE.copy()
    trained[3] += off
    assert CONVENTIONS.judge(dataset(ALIKE, trained))[0].holds is holds


def test_definitions_must_differ_on_the_same_network():
    # Every definition spans [0, 1] over the seeds, and all agree on each network.
    trained = np.tile(np.linspace(0, 1, 8), (len(DEFINITIONS), 1))
    assert CONVENTIONS.judge(dataset(ALIKE, trained))[0].holds is False
    np.testing.assert_array_equal(apart(trained), 0)


def test_most_networks_have_to_be_scored_apart():
    trained = ALIKE.copy()
    trained[0, :3] = 1.0  # three seeds of eight
    assert CONVENTIONS.judge(dataset(ALIKE, trained))[0].holds is False


def sign(untrained, trained):
    (claim,) = [
        claim
        for claim in CONVENTIONS.judge(dataset(untrained, trained))
        if "depends on the definition" in claim.statement
    ]
    return claim.holds


def test_training_that_raises_one_definition_and_lowers_another_has_a_sign_by_definition():
    trained = ALIKE.copy()
    trained[0] += 0.1
    trained[1:] -= 0.1
    trained[0, 0] = 0.4  # one seed of eight may differ
    assert sign(ALIKE, trained)
    trained[0, 1] = 0.4
    assert not sign(ALIKE, trained)


def test_training_that_raises_all_definitions_has_one_sign():
    assert not sign(ALIKE, ALIKE + 0.1)


def test_the_table_has_a_row_for_every_definition_with_both_of_its_scores():
    trained = levels(*np.linspace(0.1, 0.7, len(DEFINITIONS)))
    rows = [
        claim for claim in CONVENTIONS.judge(dataset(ALIKE, trained)) if claim.statement.endswith("untrained → trained")
    ]
    assert [row.statement.split(": ")[1] for row in rows] == list(DEFINITIONS)
    assert rows[0].measured == "0.50 (0.50–0.50) → 0.10 (0.10–0.10)" and {row.holds for row in rows} == {None}


def test_scores_are_rows_in_the_order_of_the_definitions():
    trained = levels(*np.linspace(0.1, 0.7, len(DEFINITIONS)), seeds=3)
    np.testing.assert_array_equal(scores_of(dataset(0 * trained, trained), ADAM), trained)
