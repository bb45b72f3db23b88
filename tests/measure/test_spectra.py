import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import balanced_net, linear_net, with_random_biases

from nfa_flow import Dataset
from nfa_flow.measure import agop, nfm
from nfa_flow.measure.spectra import effective_rank, spectral_norm, spectrum, stable_rank
from nfa_flow.nets import MLP

KEY = jax.random.key(0)
N, D = 8, 4
X = jax.random.normal(jax.random.key(1), (N, D))
WEIGHTED = Dataset(X, X, jnp.arange(N) / 28)
EPS = np.finfo(np.float64).eps


class ConvNet(eqx.Module):
    """One convolution of a row of pixels, and a read-out."""

    convolution: eqx.nn.Conv1d
    readout: eqx.nn.Linear

    def __init__(self):
        self.convolution = eqx.nn.Conv1d(1, 3, 2, key=KEY)
        self.readout = eqx.nn.Linear(9, 2, key=KEY)

    def __call__(self, x):
        return self.readout(jnp.tanh(self.convolution(x[None])).ravel())


def smooth(width=6, outputs=2, key=KEY):
    return with_random_biases(MLP((D, width, outputs), key=key, activation="silu", bias=True))


@eqx.filter_jit
def by_eigenvectors(net, data, layer=1):
    """The three spectra by the eigenvectors of the assembled matrices."""
    N = nfm(net, layer=layer)
    eigenvalues, V = jnp.linalg.eigh(agop(net, data, layer=layer))
    return eigenvalues[::-1], jnp.linalg.eigvalsh(N)[::-1], jnp.diag(V.T @ N @ V)[::-1]


def orthogonal(seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))[0]


# ── Eigenvalues ──


@pytest.mark.parametrize(
    ("net", "data", "layer"),
    [
        (smooth(), WEIGHTED, 1),
        (smooth(width=3), X, 1),
        (MLP((D, 5, 4, 3), key=KEY, activation="tanh"), X, 2),
        (ConvNet(), X, lambda net: net.convolution),
    ],
    ids=["weighted", "h < d", "layer 2", "convolution"],
)
def test_they_are_the_eigenvalues_of_the_assembled_matrices(net, data, layer):
    found = spectrum(net, data, layer=layer)
    r = len(found.agop)
    assert r == min(
        nfm(net, layer=layer).shape[0], (net.layers[layer - 1] if r != 2 else net.convolution).weight.shape[0]
    )
    gap = -np.max(np.diff(found.agop)) / found.agop[0]
    for values, brute in zip(found, by_eigenvectors(net, data, layer), strict=True):
        assert values.shape == (r,)
        # The eigenvectors turn by some rounding errors over the smallest gap.
        np.testing.assert_allclose(values, brute[:r], atol=100 * EPS * brute[0] / gap)


def test_at_the_input_of_a_module_of_unknown_order_there_are_as_many_as_inputs():
    net = eqx.nn.Sequential([smooth(width=3).layers[0], eqx.nn.Lambda(jnp.tanh)])
    found = spectrum(Wrapped(net), X)
    np.testing.assert_allclose(found.agop[:3], spectrum(net, X).agop, rtol=1e-10)
    np.testing.assert_allclose([found.agop[3], found.nfm[3]], 0, atol=EPS * found.nfm[0])


class Wrapped(eqx.Module):
    net: eqx.Module

    def __call__(self, x):
        return self.net(x)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_where_the_ansatz_holds_all_three_are_one_to_the_last_digit(depth):
    # AGOP's eigenvalues reach down to 1e-20, which an assembled AGOP does not resolve.
    singular = np.array([1.0, 1e-3, 1e-6, 1e-10])
    bases = [orthogonal(seed) for seed in range(depth + 1)]
    weights = [(U * singular ** (1 / depth)) @ V.T for V, U in zip(bases[:-1], bases[1:], strict=True)]
    found = spectrum(linear_net(weights), X)
    # A singular value σ of a product of matrices of norm one is known to some rounding errors over σ.
    np.testing.assert_allclose(found.agop, singular**2, rtol=1e-5)
    np.testing.assert_allclose(found.nfm, singular ** (2 / depth), rtol=1e-5)
    np.testing.assert_allclose(found.nfm_along_agop, found.nfm, rtol=1e-5)


def test_directions_that_agop_does_not_have_are_zero_and_undefined_along():
    net = balanced_net((D, 5, 1))  # linear with one output: AGOP has rank one
    found = spectrum(net, X)
    P = net.weights[1] @ net.weights[0]
    np.testing.assert_allclose(found.agop, [np.linalg.norm(P) ** 2, 0, 0, 0], rtol=1e-12)
    np.testing.assert_allclose(found.nfm_along_agop[0], found.nfm[0], rtol=1e-12)
    assert np.all(np.isnan(found.nfm_along_agop[1:]))


def test_a_constant_network_has_an_agop_of_zeros():
    net = linear_net([np.ones((5, D)), np.zeros((2, 5))])
    found = spectrum(net, X)
    np.testing.assert_array_equal(found.agop, 0)
    np.testing.assert_allclose(found.nfm, [20, 0, 0, 0], atol=100 * EPS)
    assert np.all(np.isnan(found.nfm_along_agop))


# ── Ranks and norms ──


@pytest.mark.parametrize("rank", [effective_rank, stable_rank])
def test_equal_directions_count_one_each(rank):
    U, V = orthogonal(0)[:, :3], orthogonal(1)
    found = rank(linear_net([7 * V, U.T @ V.T]), X)
    np.testing.assert_allclose(found, [4, 3], rtol=1e-12)


def test_they_are_what_the_eigenvalues_say():
    net = linear_net([np.diag([1.0, 2.0, 2.0, 4.0]), np.diag([2.0, 1.0, 1.0, 0.0])])
    p = np.array([1, 4, 4, 16]) / 25
    np.testing.assert_allclose(effective_rank(net, X), [np.exp(-p @ np.log(p)), 3], rtol=1e-12)
    np.testing.assert_allclose(stable_rank(net, X), [25 / 16, 3], rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_they_lie_between_one_and_the_rank_stable_below_effective_and_do_not_see_the_scale(seed):
    net = smooth(width=3, key=jax.random.key(seed))
    scaled = eqx.tree_at(lambda net: net.layers[1].weight, net, replace_fn=lambda W: 1e-3 * W)
    for stable, effective in zip(stable_rank(net, X), effective_rank(net, X), strict=True):
        assert 1 <= stable <= effective * (1 + 10 * EPS) and effective <= 3 * (1 + 10 * EPS)
    for rank in (stable_rank, effective_rank):
        np.testing.assert_allclose(rank(net, X), rank(scaled, X), rtol=1e-11)


@pytest.mark.parametrize("rank", [effective_rank, stable_rank])
def test_the_rank_of_nothing_is_undefined_and_that_of_weights_may_outlive_that_of_gradients(rank):
    constant = linear_net([np.eye(D), np.zeros((2, D))])
    collapsed = linear_net([1e-10 * np.eye(D), 1e-10 * np.eye(D)])
    np.testing.assert_allclose(rank(constant, X), [4, np.nan])
    np.testing.assert_array_equal(rank(collapsed, X), [np.nan, np.nan])


def test_spectral_norms_are_the_largest_singular_values_of_all_layers():
    net = MLP((D, 6, 5, 3), key=KEY, activation="relu")
    exact = [np.linalg.norm(W, 2) for W in net.weights]
    np.testing.assert_allclose(spectral_norm(net, X), exact, rtol=1e-13)


def test_the_spectral_norm_of_a_convolution_is_that_of_its_unfolded_kernel():
    net = ConvNet()
    kernel = np.asarray(net.convolution.weight).reshape(3, 2)
    exact = [np.linalg.norm(kernel, 2), np.linalg.norm(net.readout.weight, 2)]
    np.testing.assert_allclose(spectral_norm(net), exact, rtol=1e-13)


# ── Derivatives ──


def slopes(function, net):
    leaves = jax.tree.leaves(eqx.filter_jit(eqx.filter_grad(function))(net))
    return jnp.concatenate([leaf.ravel() for leaf in leaves])


# 6 neurons on 4 samples of 1 output: K = E[BᵀB] is singular, AGOP is not. 3 neurons: AGOP is singular, and so is NFM.
@pytest.mark.parametrize(("width", "outputs", "x"), [(6, 1, X[:4]), (3, 2, X)], ids=["h > nc", "h < d"])
def test_eigenvalues_are_differentiable_where_they_are_distinct(width, outputs, x):
    net, r = smooth(width, outputs), min(width, D)
    mixed = jnp.arange(1.0, 3 * r + 1).reshape(3, r)  # so that no two errors cancel
    found = slopes(lambda net: jnp.sum(mixed * jnp.stack(spectrum(net, x))), net)
    brute = slopes(lambda net: jnp.sum(mixed * jnp.stack([v[:r] for v in by_eigenvectors(net, x)])), net)
    gap = -np.max(np.diff(spectrum(net, x).agop)) / spectrum(net, x).agop[0]
    # Turns of eigenvectors over the gap, in the reference as in the derivative.
    np.testing.assert_allclose(found, brute, atol=100 * EPS / gap**2 * jnp.max(jnp.abs(brute)))


@pytest.mark.parametrize("rank", [effective_rank, stable_rank])
def test_ranks_have_finite_derivatives_also_where_eigenvalues_are_zero(rank):
    net = balanced_net((D, 5, 2))
    change = slopes(lambda net: sum(rank(net, X)), net)
    assert np.all(np.isfinite(change)) and jnp.max(jnp.abs(change)) > 1e-3


# ── As observables ──


def observables(net, data):
    return spectrum(net, data), effective_rank(net, data), stable_rank(net, data), spectral_norm(net, data)


def test_lanes_agree_with_one_at_a_time():
    nets = [smooth(), smooth(key=jax.random.key(1))]
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
    batch = eqx.filter_jit(eqx.filter_vmap(lambda net: observables(net, WEIGHTED)))(lanes)
    single = observables(nets[1], WEIGHTED)
    jax.tree.map(lambda lane, one: np.testing.assert_allclose(lane[1], one, rtol=1e-10), batch, single)


def test_batches_of_samples_are_read_once():
    whole, parts = spectrum(smooth(), X), spectrum(smooth(), iter([X[:5], X[5:]]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), whole, parts)


def test_another_network_of_the_same_shape_is_not_compiled_again(compilations):
    nets = [smooth(), smooth(key=jax.random.key(1))]
    observables(nets[0], WEIGHTED)
    compilations()
    observables(nets[1], WEIGHTED)
    assert compilations() == 0


def test_single_precision_is_kept():
    net = jax.tree.map(lambda leaf: leaf.astype("float32"), smooth())
    for single, double in zip(spectrum(net, WEIGHTED.astype("float32")), spectrum(smooth(), WEIGHTED), strict=True):
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, double, rtol=1e-3)  # rounding errors of 6e-8 over a gap of .03


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spectrum(smooth(), X, layer=3), "`layer` must be at most the number of layers, 2, but was 3"),
        (lambda: stable_rank(eqx.nn.Lambda(jnp.tanh), X), "`net` must be a network with an `equinox.nn.Linear`"),
        (lambda: spectral_norm(eqx.nn.Lambda(jnp.tanh)), "`net` must be a network with an `equinox.nn.Linear`"),
        (
            lambda: spectral_norm(eqx.filter_eval_shape(lambda: eqx.nn.MLP(D, 2, 5, 3, key=KEY, scan=True))),
            r"`net` must be a network with one matrix per layer, but was one with weights of shape \(2, 5, 5\)",
        ),
    ],
)
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
