import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from nfa_flow.theory import best_diagonal_cosine, diagonal_cosine, orthogonal_support, orthogonal_support_limit


def test_closed_form_is_the_flow_of_the_relu_network():
    times = np.array([0.0, 1.0, 3.0, 10.0])
    s0, y, p = np.array([0.1, 0.02]), np.array([2.0, 1.0]), np.array([0.3, 0.7])
    root = np.diag(np.sqrt(s0))

    def unpack(flat):
        return flat[:4].reshape(2, 2), flat[4:]

    def field(_, flat):
        W, a = unpack(flat)
        hidden = np.maximum(W, 0)  # column i: the hidden layer at the input e_i
        residual = p * (a @ hidden - y)
        return -np.concatenate([(np.outer(a, residual) * (W > 0)).ravel(), hidden @ residual])

    start = np.concatenate([root.ravel(), np.sqrt(s0)])
    path = solve_ivp(field, (0, 10), start, "DOP853", t_eval=times, rtol=1e-12, atol=1e-14).y.T
    ours = orthogonal_support(times, s0, y, p)
    for (W, a), nfm, agop in zip(map(unpack, path), ours.nfm, ours.agop, strict=True):
        jacobians = [a @ (W * (W[:, [i]] > 0)) for i in range(2)]
        # 1e3 × the solver's rtol: accumulation over the growth from s0.
        np.testing.assert_allclose(W.T @ W, np.diag(nfm), atol=1e-9)
        np.testing.assert_allclose(
            sum(p[i] * np.outer(J, J) for i, J in enumerate(jacobians)), np.diag(agop), atol=1e-9
        )


def test_flow_ends_at_exact_fit():
    y, p = [2.0, 1.0, 0.5], [0.1, 0.3, 0.6]
    ours, limit = orthogonal_support([1e6], [1e-3] * 3, y, p), orthogonal_support_limit(y, p)
    np.testing.assert_allclose(ours.nfm[0], limit.nfm, rtol=1e-14)
    np.testing.assert_allclose(ours.agop[0], limit.agop, rtol=1e-14)


@pytest.mark.parametrize("epsilon, cosine", [(1e-1, 0.39), (1e-2, 0.11), (1e-3, 0.033), (1e-4, 0.010)])
def test_nfa_fails_as_badly_as_one_likes_at_zero_loss(epsilon, cosine):
    limit = orthogonal_support_limit([epsilon**-0.5, 1.0], [epsilon**3, 1 - epsilon**3])
    assert diagonal_cosine(*limit, 0.5) == pytest.approx(cosine, rel=0.015)  # two digits


def test_no_power_restores_a_reversed_order_of_eigenvalues():
    limit = orthogonal_support_limit([2.0, 1.0], [0.1, 0.9])
    assert np.all(np.diff(limit.nfm) < 0) and np.all(np.diff(limit.agop) > 0)
    # The supremum over α > 0 is then approached at α → 0, where AGOP^α is the identity: cos((2, 1), (1, 1)).
    power, cosine = best_diagonal_cosine(*limit)
    assert power == 0 and cosine == pytest.approx(3 / np.sqrt(10), rel=1e-14)


@settings(max_examples=20, deadline=None)
@given(power=st.floats(0.05, 5), eigenvalues=st.lists(st.floats(0.1, 10), min_size=2, max_size=4))
def test_best_power_recovers_an_exact_relation_and_is_never_beaten(power, eigenvalues):
    agop = np.array(eigenvalues)
    _, cosine = best_diagonal_cosine(3 * agop**power, agop)
    assert cosine == pytest.approx(1, abs=1e-12)
    nfm = agop[::-1] + 0.1
    _, best = best_diagonal_cosine(nfm, agop)
    assert best >= np.max(diagonal_cosine(nfm, agop, np.geomspace(1e-3, 1e2, 200))) - 1e-12


def test_cosine_has_the_axes_of_the_diagonals_then_those_of_the_power():
    ours = orthogonal_support(np.ones((2, 3)), [0.1, 0.1], [2, 1], [0.1, 0.9])
    assert diagonal_cosine(*ours, 0.5).shape == (2, 3)
    assert diagonal_cosine(*ours, [0.5, 1.0, 1e6, 0.0]).shape == (2, 3, 4)
    assert diagonal_cosine([1.0, 2.0], [1.0, 4.0], 0.5) == pytest.approx(1, rel=1e-15)


@pytest.mark.parametrize(
    "argument, changed",
    [
        ("times", -1.0),
        ("s0", [0.1]),
        ("s0", [0.0, 0.1]),
        ("targets", [1.0, -1.0]),
        ("probabilities", [0.5, 0.6]),
        ("probabilities", [0.0, 1.0]),
    ],
)
def test_wrong_argument_is_named(argument, changed):
    arguments = {"times": 1.0, "s0": [0.1, 0.1], "targets": [2.0, 1.0], "probabilities": [0.1, 0.9]}
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        orthogonal_support(**(arguments | {argument: changed}))


def test_negative_power_is_refused():
    with pytest.raises(ValueError, match="`power` must be"):
        diagonal_cosine([1.0, 2.0], [1.0, 2.0], [0.5, -1.0])
