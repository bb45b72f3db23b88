import numpy as np
import pytest

from nfa_flow.theory import balanced_nfm, lambda_balanced_nfm


@pytest.mark.parametrize(
    "inputs, hidden, outputs, b",
    [
        (3, 3, 3, 0.5),
        (5, 2, 4, 2.0),
        (2, 6, 7, 0.3),
        (3, 3, 3, -0.5),
        (4, 4, 2, -2.0),  # P has null directions inside the row space of W_1, which is all of R^4
        (6, 2, 3, -0.7),  # rank(P) = h: the row space of W_1 is that of P
    ],
)
def test_nfm_follows_from_the_end_to_end_matrix(lambda_balanced_weights, inputs, hidden, outputs, b):
    W_1, W_2 = lambda_balanced_weights(inputs, hidden, outputs, b)
    np.testing.assert_allclose(lambda_balanced_nfm(W_2 @ W_1, b, width=hidden), W_1.T @ W_1, atol=1e-13)


def test_null_space_of_P_carries_minus_b_only_on_the_row_space_of_W_1(lambda_balanced_weights):
    W_1, W_2 = lambda_balanced_weights(5, 3, 2, -0.7)
    np.testing.assert_allclose(np.linalg.eigvalsh(W_1.T @ W_1)[:3], [0, 0, 0.7], atol=1e-14)
    with pytest.raises(ValueError, match="`width` must be the rank of P, 2, or its number of columns, 5, for b < 0"):
        lambda_balanced_nfm(W_2 @ W_1, -0.7, width=3)


def test_zero_balance_is_the_square_root(rng):
    P = rng.normal(size=(2, 4))
    np.testing.assert_allclose(lambda_balanced_nfm(P, 0.0), balanced_nfm(P, 2), atol=1e-14)


def test_exponent_goes_from_one_half_to_one_as_the_agop_sinks_below_b_squared():
    P = np.diag([1e12, 1e6, 1e-6, 1e-12, 0.0])
    eigenvalues = np.diagonal(lambda_balanced_nfm(P, 1.0))
    # √a (1 − b/(2√a)) above b², a/b (1 − a/b²) below: both to 1e-12 here, and with no cancellation.
    np.testing.assert_allclose(eigenvalues, [1e12 - 0.5, 1e6 - 0.5, 1e-12, 1e-24, 0.0], rtol=2e-12)


def test_negative_b_needs_the_width():
    with pytest.raises(ValueError, match="`width` must be a whole number"):
        lambda_balanced_nfm(np.eye(2), -1.0)
    with pytest.raises(ValueError, match="`width` must be the rank of P"):
        lambda_balanced_nfm(np.eye(2), -1.0, width=3)
