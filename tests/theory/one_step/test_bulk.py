import numpy as np
import pytest
from scipy.sparse.linalg import svds

from nfa_flow.theory import feature_bulk_edge, feature_outliers, hermite, hermite_series, resolvent_traces
from nfa_flow.theory.one_step.bulk import _shape, _traces

RELU = hermite("relu")
PHI, PSI = 0.3, 0.6
NOISE = hermite(hermite_series([0, 0, 0.5**0.5]))  # features without a linear part, of variance 1


def largest_singular_values(A, count):
    """The first singular values by Lanczos iterations, which cost a fraction of all of them."""
    return np.sort(svds(A, count, v0=np.ones(min(A.shape)), return_singular_vectors=False))[::-1]


def test_traces_on_the_other_side_of_zero_are_the_same_functions():
    for x in (1e-3, 0.1, 1.0, 2.0):
        found = _traces(x, _shape(PHI, PSI, RELU))
        assert found.penalty > 0
        np.testing.assert_allclose(found[1:], resolvent_traces(found.penalty, PHI, PSI, RELU), rtol=1e-10)


@pytest.mark.parametrize("phi, psi", [(0.3, 0.6), (0.5, 0.2), (2.0, 8.0)])
def test_features_that_are_noise_end_where_marchenko_and_pastur_say(phi, psi):
    np.testing.assert_allclose(feature_bulk_edge(phi, psi, NOISE), 1 + (phi / psi) ** 0.5, rtol=1e-9)


def test_linear_features_of_a_wide_network_end_with_their_inputs():
    # WᵀW is nearly (N/d) I for N ≫ d, up to (d/N)^½.
    edge = feature_bulk_edge(0.3, 1e-8, hermite("identity"))
    np.testing.assert_allclose(edge, 1e4 * (1 + 0.3**0.5), rtol=3e-4)


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_the_edge_is_where_sampled_features_end(rng, name):
    n, d, width = 400, 120, 200
    activation = hermite(name)
    largest = []
    for _ in range(10):
        W = rng.normal(size=(width, d))
        W /= np.linalg.norm(W, axis=1, keepdims=True)
        z = rng.normal(size=(n, d)) @ W.T
        F = (np.maximum(z, 0) if name == "relu" else np.tanh(z)) - activation.coefficients[0]
        largest.append(largest_singular_values(F, 1) / n**0.5)
    # The Tracy–Widom law has mean −1.2 and standard deviation 1.3 in units of about n^(−2/3) of the edge.
    assert abs(np.mean(largest) / feature_bulk_edge(0.3, 0.6, activation) - 1) < 2 * n ** (-2 / 3)


@pytest.mark.parametrize("size", [0.9, 1.3, 3.0])
def test_one_spike_beside_noise_is_where_benaych_georges_and_nadakuditi_say(size):
    S, ratio = np.zeros((4, 4)), PHI / PSI
    S[2, 1] = size
    expected = np.sqrt((size**2 + 1) * (size**2 + ratio)) / size
    np.testing.assert_allclose(feature_outliers(S, PHI, PSI, NOISE), [expected], rtol=1e-9)


@pytest.mark.parametrize("off", [-1e-3, 1e-3])
def test_a_spike_is_seen_above_the_threshold_only(off):
    S = np.diag([0, 0, (PHI / PSI) ** 0.25 * (1 + off), 0])
    assert len(feature_outliers(S, PHI, PSI, NOISE)) == (off > 0)


def test_large_spikes_are_the_singular_values_of_the_low_rank(rng):
    S = 1e4 * rng.normal(size=(5, 5))
    singular = np.linalg.svd(S, compute_uv=False)
    # The bulk moves a spike s by about (1 + N/n)/(2s²) of it.
    np.testing.assert_allclose(feature_outliers(S, PHI, PSI, RELU), singular, rtol=10 / singular[-1] ** 2)


@pytest.mark.parametrize("name", ["relu", "softplus"])
@pytest.mark.parametrize("own", [0.0, 0.4])
def test_outliers_are_those_of_sampled_features_plus_a_low_rank(rng, name, own):
    # The low rank as it is meant, u and v normal, u with −own·W_0ᵀa inside, entries of S of both signs.
    n, d, width = 1000, 300, 500
    activation, S = hermite(name), np.array([[0.3, 0, 0.5], [0, 2.0, 0], [0.6, 0, 1.5]])
    expected = feature_outliers(S, PHI, PSI, activation, own=own)
    found = []
    for _ in range(4):
        W = rng.normal(size=(width, d))
        W /= np.linalg.norm(W, axis=1, keepdims=True)
        a, b = rng.normal(size=width) / width**0.5, rng.normal(size=d)
        a /= np.linalg.norm(a)
        toward = W.T @ a / np.linalg.norm(W.T @ a)
        b -= toward * (toward @ b)
        b = (1 - own**2) ** 0.5 * b / np.linalg.norm(b) - own * toward
        x = rng.normal(size=(n, d))
        z = x @ W.T
        F = (np.maximum(z, 0) if name == "relu" else np.logaddexp(0, z)) - activation.coefficients[0]
        h = lambda t: np.stack([np.ones_like(t), t, (t**2 - 1) / 2**0.5], axis=1)
        U, V = h(x @ b) / n**0.5, h(a * width**0.5) / width**0.5
        found.append(largest_singular_values(F / n**0.5 + U @ S @ V.T, 2))
    assert len(expected) == 2
    # Lengths of samples, spread by √(2/n + 2/N)/2 for u and √(10.7/n + 10.7/N)/2 for u²; over four draws.
    spread = np.sqrt(10.7 * (1 / n + 1 / width)) / 2 / 2
    np.testing.assert_allclose(np.mean(found, axis=0), expected, rtol=3 * spread)


@pytest.mark.parametrize(
    "argument, call",
    [
        ("phi", lambda: feature_bulk_edge(0.0, 1.0, RELU)),
        ("psi", lambda: feature_bulk_edge(1.0, -1.0, RELU)),
        ("activation", lambda: feature_bulk_edge(1.0, 1.0, hermite(hermite_series([2])))),
        ("S", lambda: feature_outliers(np.ones((2, 3)), 1.0, 1.0, RELU)),
        ("S", lambda: feature_outliers(1.0, 1.0, 1.0, RELU)),
        ("own", lambda: feature_outliers(np.eye(3), 1.0, 1.0, RELU, own=np.nan)),
    ],
)
def test_wrong_argument_is_named(argument, call):
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        call()
