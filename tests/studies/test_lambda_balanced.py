"""Networks with a given end-to-end matrix and balance, and what the experiment says of runs that leave the identity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow.studies.nfa.lambda_balanced import LAMBDA_BALANCED, predicted_exponent, split

EPS = np.finfo(np.float64).eps


@pytest.mark.parametrize("b", [-3.0, 0.0, 0.2, 10.0])
def test_a_split_has_its_product_and_its_balance(b):
    P = jax.random.normal(jax.random.key(0), (3, 6))
    W_1, W_2 = split(P, b, jax.random.orthogonal(jax.random.key(1), 3))
    size = jnp.sum(W_1**2) + jnp.sum(W_2**2)
    np.testing.assert_allclose(W_2 @ W_1, P, atol=100 * EPS * size)
    np.testing.assert_allclose(W_2.T @ W_2 - W_1 @ W_1.T, b * np.eye(3), atol=100 * EPS * size)
    nfm = nf.theory.lambda_balanced_nfm(np.asarray(P), b, width=3)
    np.testing.assert_allclose(W_1.T @ W_1, nfm, atol=100 * EPS * size)


@pytest.fixture(scope="module")
def dataset():
    return nf.sweep(LAMBDA_BALANCED.one_run, nf.Grid(b=[-2.0, 0.0, 2.0], seed=range(2)), progress=False)


def test_claims_hold_along_the_flow_and_fail_off_the_identity(dataset):
    claims = LAMBDA_BALANCED.judge(dataset)
    assert [claim.holds for claim in claims] == [True] * 6 + [None]
    off = dataset.assign({"nfm": 1.001 * dataset["nfm"]})
    off["exponent.exponent"] = dataset["exponent.exponent"] + 1e-3
    off["exponent.exponent_at_end"] = dataset["b"] - dataset["exponent.exponent_at_end"]
    off["end_to_end"] = dataset["end_to_end"] * (1 + 1e-3 * dataset["b"])
    assert [claim.holds for claim in LAMBDA_BALANCED.judge(off)] == [False] * 6 + [None]


def test_the_seed_of_a_run_that_failed_is_left_out_and_leaves_the_claims_about_it_undecided(dataset):
    failed = dataset.copy()
    failed["status"] = dataset["status"].where((dataset["b"] != 2.0) | (dataset["seed"] != 1), "max_steps")
    claims = LAMBDA_BALANCED.judge(failed)
    assert [claim.holds for claim in claims] == [None, None, True, True, None, None, None]
    assert claims[0].runs == "6, 1 failed, 2 undefined"  # the others of its seed


def test_the_exponent_of_the_identity_is_a_half_without_imbalance_and_turns_with_its_sign(dataset):
    predicted = predicted_exponent(dataset)
    np.testing.assert_allclose(predicted[1], 0.5, atol=1e-6)
    assert (predicted[0] < 0.5).all() and (predicted[2] > 0.5).all()
