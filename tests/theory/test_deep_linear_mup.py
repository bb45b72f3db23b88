"""The infinitely wide deep linear muP network, against two layers, its first derivative, wide networks and words."""

import diffrax
import jax
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow.theory import deep_linear_mup, infinite_deep_linear_mup, infinite_linear_mup

TIMES = np.array([0.0, 0.1, 0.5, 2.0])


@pytest.fixture
def moments(rng):
    """(S_xx, S_yx) of 2 outputs and 3 inputs of unequal variances."""
    X = rng.normal(size=(30, 3)) * [1.5, 1.0, 0.5]
    Y = X @ rng.normal(size=(3, 2)) + 0.1 * rng.normal(size=(30, 2))
    return X.T @ X / 30, Y.T @ X / 30


def test_two_layers_are_the_closed_system(moments):
    deep = infinite_deep_linear_mup(TIMES, *moments, depth=2, alpha=0.7, beta=1.3)
    for ours, closed in zip(deep, infinite_linear_mup(TIMES, *moments, alpha=0.7, beta=1.3), strict=True):
        np.testing.assert_allclose(ours, closed, atol=1e-9 * np.max(np.abs(closed)))


@pytest.mark.parametrize("layers", [3, 4])
def test_it_starts_with_the_tangent_kernel_of_infinite_width(moments, layers):
    """P' = (α + (L − 2)αβ + β) S_yx at t = 0, where P = 0."""
    t, alpha, beta = 1e-6, 0.7, 1.3
    P = infinite_deep_linear_mup([t], *moments, depth=layers, alpha=alpha, beta=beta).end_to_end[0]
    np.testing.assert_allclose(P / t, (alpha + (layers - 2) * alpha * beta + beta) * moments[1], rtol=1e-5)


def test_words_multiply_as_free_matrices_do():
    """Moments of WᵀW are those of Marchenko and Pastur, Catalan numbers; of a product of two, Fuss–Catalan numbers."""
    (W,) = deep_linear_mup.word_matrices(2, 10)
    moments = [np.linalg.matrix_power(W.T @ W, k)[0, 0] for k in range(1, 6)]
    assert moments == [1, 2, 5, 14, 42]
    W, V = deep_linear_mup.word_matrices(3, 8)
    both = W.T @ V.T @ V @ W
    assert [np.linalg.matrix_power(both, k)[0, 0] for k in (1, 2)] == [1, 3]


def test_longer_words_change_nothing_beyond_the_tolerance(moments):
    """The stated error bounds that against words far longer than were needed."""
    rtol = 1e-4
    limit = infinite_deep_linear_mup(TIMES, *moments, depth=3, rtol=rtol)
    exact = infinite_deep_linear_mup(TIMES, *moments, depth=3, rtol=1e-9)
    for ours, best in zip(limit, exact, strict=True):
        error = np.max(np.abs(ours - best)) / np.max(np.abs(best))
        assert 0 < error <= rtol


@pytest.mark.parametrize("layers", [3, 4])
def test_wide_networks_come_to_the_limit(layers):
    """Means over networks of 32 and 128 neurons, extrapolated in 1/n, within four standard errors in every entry."""
    time, seeds = 1.0, 32
    data = nf.data.linear_teacher(30, 3, 2, key=jax.random.key(0), noise=0.1)
    moments = np.asarray(data.S_xx), np.asarray(data.S_xy).T
    limit = infinite_deep_linear_mup([time], *moments, depth=layers)

    def kernels(key, n):
        net = nf.nets.MLP([3, *[n] * (layers - 1), 2], key=key, parametrization="muP")
        run = nf.gradient_flow(net, data, time, rtol=1e-6, solver=diffrax.Tsit5(), progress=False)
        return entries(nf.measure.nfm(run.net) / n, run.net.affine()[0])

    means, errors = np.empty((2, 15)), np.empty((2, 15))
    for i, n in enumerate((32, 128)):
        samples = np.array([kernels(key, n) for key in jax.random.split(jax.random.key(n), seeds)])
        means[i], errors[i] = samples.mean(axis=0), samples.std(axis=0, ddof=1) / seeds**0.5
    weights = np.array([-1 / 3, 4 / 3])  # of the means, for v_∞ in v_∞ + c/n
    extrapolated, error = weights @ means, np.sqrt(weights**2 @ errors**2)
    expected = entries(limit.nfm[0], limit.end_to_end[0])
    np.testing.assert_array_less(np.abs(extrapolated - expected), 4 * error)
    # It can tell: the limit of one layer less is refused.
    other = infinite_deep_linear_mup([time], *moments, depth=layers - 1)
    assert np.max(np.abs(extrapolated - entries(other.nfm[0], other.end_to_end[0])) / error) > 4


def entries(*matrices):
    return np.concatenate([np.ravel(matrix) for matrix in matrices])


def test_what_cannot_be_reached_is_told(moments, monkeypatch):
    monkeypatch.setattr(deep_linear_mup, "_LARGEST", 60)
    with pytest.raises(RuntimeError, match=r"words was \d\.\de-\d+, `rtol` is 1e-09: allow a larger `rtol`"):
        infinite_deep_linear_mup([5.0], *moments, depth=4, rtol=1e-9)


def test_many_inputs_are_refused_before_anything_is_built_unless_there_are_two_layers():
    S_xx, S_yx = np.eye(1200), np.ones((1, 1200))
    with pytest.raises(RuntimeError, match="not yet known.*fewer layers, inputs or outputs"):
        infinite_deep_linear_mup([1.0], S_xx, S_yx, depth=3)
    assert infinite_deep_linear_mup([0.0], S_xx, S_yx, depth=2).end_to_end.shape == (1, 1, 1200)


@pytest.mark.parametrize(
    "argument, value",
    [
        ("depth", 1),
        ("alpha", 0.0),
        ("beta", -1.0),
        ("rtol", 0.0),
        ("S_xx", np.eye(3)),
        ("times", [-1.0]),
    ],
)
def test_wrong_argument_is_named(argument, value):
    arguments = {"times": [1.0], "S_xx": np.eye(2), "S_yx": np.eye(2), "depth": 3}
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        infinite_deep_linear_mup(**(arguments | {argument: value}))
