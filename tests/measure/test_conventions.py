import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow.measure import preactivation_agop

KEY = jax.random.key(0)
DATA = nf.data.linear_teacher(50, 6, 2, key=jax.random.key(1), noise=0.1)
START = nf.nets.MLP((6, 7, 5, 2), key=KEY, activation="tanh")
NET = nf.nets.MLP((6, 7, 5, 2), key=jax.random.key(2), activation="tanh")


def cosine(A, B):
    return np.sum(A * B) / np.linalg.norm(A) / np.linalg.norm(B)


def correlation(A, B):
    return np.corrcoef(A.ravel(), B.ravel())[0, 1]


def root(A):
    values, V = np.linalg.eigh(A)
    return (V * np.sqrt(np.maximum(values, 0))) @ V.T


@pytest.fixture(scope="module", params=[1, 2], ids=["first layer", "second layer"])
def naive(request):
    """(layer, W, ΔW, K, AGOP, AGOP of the loss) with the Jacobians written out."""
    layer = request.param
    W, W_0 = (np.asarray(net.weights[layer - 1]) for net in (NET, START))
    h = jax.vmap(lambda x: NET.to_layer(layer, x))(DATA.x)
    above = lambda z: NET.from_preactivation(layer, z)
    B = np.asarray(jax.vmap(jax.jacfwd(above))(h @ W.T))
    residual = np.asarray(jax.vmap(NET)(DATA.x) - DATA.y)
    g = np.einsum("nc,nck->nk", residual, B) @ W
    K = np.einsum("nck,ncl->kl", B, B) / len(h)
    return layer, W, W - W_0, K, W.T @ K @ W, g.T @ g / len(h)


def test_each_convention_is_its_own_definition(naive):
    layer, W, change, K, A, loss = naive
    off = ~np.eye(W.shape[1], dtype=bool)
    expected = [
        (nf.measure.nfa_cosine_2022(START, layer=layer), cosine(change.T @ change, A)),
        (nf.measure.nfa_pearson_2024(layer=layer), correlation(W.T @ W, root(A))),
        (nf.measure.nfa_off_diagonal_2024(layer=layer), correlation((W.T @ W)[off], root(A)[off])),
        (nf.measure.nfa_of_depth(2, layer=layer), cosine(W.T @ W, root(A))),
        (nf.measure.enfa(layer=layer), cosine(W.T @ W, root(loss))),
    ]
    for convention, value in expected:
        np.testing.assert_allclose(convention(NET, DATA), value, rtol=1e-7, err_msg=str(convention))


def test_the_centered_and_the_uncentered_nfa_are_their_definitions_through_k(naive):
    layer, W, change, K, A, _ = naive
    np.testing.assert_allclose(preactivation_agop(NET, DATA, layer=layer), K, rtol=1e-11, atol=1e-13)
    uncentered = nf.measure.uncentered_nfa(layer=layer)(NET, DATA)
    np.testing.assert_allclose(uncentered, cosine(W.T @ W, W.T @ K @ W), rtol=1e-10)
    centered = nf.measure.centered_nfa(START, layer=layer)(NET, DATA)
    np.testing.assert_allclose(centered, cosine(change.T @ change, change.T @ K @ change), rtol=1e-10)


# ── What the authors' scripts compute, in plain NumPy ──


def script_matrices(weights, layer, x):
    """(WᵀW, AGOP) at a layer of a tanh network with these weights, by backpropagation written out."""
    h, inputs, slopes = x, [], []
    for W in weights:
        inputs.append(h)
        h = np.tanh(h @ W.T)
        slopes.append(1 - h**2)
    total = 0
    for i in range(len(x)):
        J = weights[-1]
        for l in range(len(weights) - 2, layer - 2, -1):
            J = (J * slopes[l][i]) @ weights[l]
        total = total + J.T @ J / len(x)
    return weights[layer - 1].T @ weights[layer - 1], total


def arrays(net):
    return [np.asarray(W) for W in net.weights]


@pytest.mark.parametrize("layer", [1, 2])
def test_the_scripts_that_subtract_the_start_in_place_are_had_by_on_change(layer):
    weights = arrays(NET)
    weights[layer - 1] = weights[layer - 1] - arrays(START)[layer - 1]
    N, A = script_matrices(weights, layer, np.asarray(DATA.x))
    script_2022 = nf.measure.on_change(nf.measure.alignment(1.0, layer=layer), START, layer=layer)
    script_2024 = nf.measure.on_change(nf.measure.nfa_pearson_2024(layer=layer), START, layer=layer)
    np.testing.assert_allclose(script_2022(NET, DATA), cosine(N, A), rtol=1e-10)
    np.testing.assert_allclose(script_2024(NET, DATA), correlation(N, root(A)), rtol=1e-7)
    assert abs(script_2022(NET, DATA) - nf.measure.nfa_cosine_2022(START, layer=layer)(NET, DATA)) > 0.01


@pytest.mark.parametrize("layer", [1, 2])
def test_the_script_that_zeroes_the_diagonals_keeps_the_zeros(layer):
    N, A = script_matrices(arrays(NET), layer, np.asarray(DATA.x))
    without = lambda M: M - np.diag(np.diag(M))
    script = nf.measure.nfa_off_diagonal_2024(keep_zeros=True, layer=layer)
    np.testing.assert_allclose(script(NET, DATA), correlation(without(N), without(root(A))), rtol=1e-7)
    assert abs(script(NET, DATA) - nf.measure.nfa_off_diagonal_2024(layer=layer)(NET, DATA)) > 1e-6


def test_the_script_of_the_centered_and_uncentered_nfa_computes_correlations():
    x, change = np.asarray(DATA.x), arrays(NET)[0] - arrays(START)[0]
    N, A = script_matrices(arrays(NET), 1, x)
    K = np.asarray(preactivation_agop(NET, DATA))
    uncentered, centered = nf.measure.uncentered_nfa(metric="pearson"), nf.measure.centered_nfa(START, metric="pearson")
    np.testing.assert_allclose(uncentered(NET, DATA), correlation(N, A), rtol=1e-10)
    np.testing.assert_allclose(centered(NET, DATA), correlation(change.T @ change, change.T @ K @ change), rtol=1e-10)


def test_a_network_of_another_shape_is_no_start_of_this_one(no_type_checks):
    other = nf.nets.MLP((6, 4, 2), key=KEY)
    with pytest.raises(ValueError, match=r"`initial` must be a network with a layer of shape \(7, 6\)"):
        nf.measure.on_change(nf.measure.alignment(1.0), other)(NET, DATA)
    with pytest.raises(ValueError, match="`observable` must be a function"):
        nf.measure.on_change("cosine", START)


def test_conventions_of_the_change_are_undefined_before_any_training():
    for convention in (nf.measure.centered_nfa(START), nf.measure.nfa_cosine_2022(START)):
        assert jnp.isnan(convention(START, DATA))


def test_wide_inputs_are_measured_in_a_small_basis_with_the_same_result():
    """Fewer neurons than inputs: W and W_0 together span less than the whole space, or just that."""
    data = nf.data.linear_teacher(20, 9, 1, key=jax.random.key(1))
    for width in (3, 4, 5):
        net, start = (nf.nets.MLP((9, width, 1), key=jax.random.key(s), activation="tanh") for s in (3, 4))
        full, reduced = nf.measure.agop(net, data), nf.measure.nfa_cosine_2022(start)(net, data)
        change = net.weights[0] - start.weights[0]
        np.testing.assert_allclose(reduced, cosine(change.T @ change, full), rtol=1e-11)


def test_the_same_network_scores_differently_by_paper():
    names = ("nfa_pearson_2024", "nfa_off_diagonal_2024", "uncentered_nfa", "enfa")
    scores = [float(getattr(nf.measure, name)()(NET, DATA)) for name in names]
    assert min(abs(a - b) for a in scores for b in scores if a is not b) > 0.01


def test_a_depth_is_a_whole_number():
    with pytest.raises(ValueError, match="`depth` must be a whole number of at least 1, but was 0"):
        nf.measure.nfa_of_depth(0)


# ── The untrained baseline ──


def test_the_docstrings_tell_what_untrained_networks_score():
    data = nf.data.linear_teacher(500, 20, 1, key=jax.random.key(1))
    net = nf.nets.MLP([20, 64, 64, 1], key=KEY, activation="relu")
    conventions = (
        nf.measure.nfa_pearson_2024,
        nf.measure.nfa_off_diagonal_2024,
        nf.measure.uncentered_nfa,
        nf.measure.enfa,
    )
    scores = lambda net, data: (
        [convention()(net, data) for convention in conventions] + [nf.measure.nfa_of_depth(3)(net, data)]
    )
    null = nf.measure.null_alignment(net, data, scores, key=KEY, draws=64)
    told = [f"{float(mean):.2f}".lstrip("0") for mean in null.mean]
    assert told[:4] == [convention.__doc__.split("ntrained networks score ")[1][:3] for convention in conventions]
    assert told[4] == nf.measure.nfa_of_depth.__doc__.split("Untrained: ")[1][:3]
    assert all(0.005 < spread < 0.075 for spread in null.spread)


def test_the_null_is_the_mean_and_spread_over_networks_with_gaussian_weights_of_the_same_size():
    observable = nf.measure.alignment(0.5)
    null = nf.measure.null_alignment(NET, DATA, observable, key=KEY, draws=8)
    np.testing.assert_allclose(null.mean, np.mean(null.values), rtol=1e-13)
    np.testing.assert_allclose(null.spread, np.std(null.values, ddof=1), rtol=1e-12)
    sizes = lambda net, data: [jnp.mean(W**2) for W in net.weights]
    drawn = nf.measure.null_alignment(NET, DATA, sizes, key=KEY, draws=200)
    # A mean of squares of P Gaussians scatters by √(2/P) of itself, and the mean of 200 of those √200 times less.
    for mean, W in zip(drawn.mean, NET.weights, strict=True):
        np.testing.assert_allclose(mean, jnp.mean(W**2), rtol=4 * np.sqrt(2 / W.size / 200))


def test_the_null_of_an_initialization_of_ones_own():
    untrained = lambda key: nf.nets.MLP((6, 7, 2), key=key, init=nf.nets.Balanced())
    error = nf.measure.alignment(1 / 2, metric="fixed_scale_error")
    null = nf.measure.null_alignment(NET, DATA, error, key=KEY, draws=3, untrained=untrained)
    assert jnp.max(null.values) < 1e-13


def test_the_null_keeps_biases_and_can_be_compiled():
    net = nf.nets.MLP((6, 7, 2), key=KEY, bias=True, activation="relu")
    net = eqx.tree_at(lambda net: net.layers[0].bias, net, jnp.arange(7.0))
    bias = lambda net, data: net.layers[0].bias
    null = eqx.filter_jit(nf.measure.null_alignment)(net, DATA, bias, key=KEY, draws=2)
    np.testing.assert_array_equal(null.values, [np.arange(7.0)] * 2)
    conv = eqx.nn.Conv1d(1, 3, 2, key=KEY)
    null = nf.measure.null_alignment(conv, DATA, lambda conv, data: (conv.bias, conv.weight), key=KEY, draws=2)
    np.testing.assert_array_equal(null.values[0], [conv.bias] * 2)
    assert not np.any(null.values[1] == conv.weight)


@pytest.mark.parametrize(
    ("data", "observable", "message"),
    [
        (iter([DATA]), nf.measure.alignment(0.5), "`data` must be a `Dataset` or samples, .* but was a list_iterator"),
        (DATA, "cosine", "`observable` must be a function .* but was 'cosine'"),
        (DATA, nf.measure.alignment, "`observable` must be a function .* too many positional arguments"),
        (DATA, lambda net, data: "high", "`observable` must be a function that returns numbers, .* 'high'"),
    ],
)
def test_a_wrong_argument_of_the_null_is_named(data, observable, message, no_type_checks):
    with pytest.raises(ValueError, match=message):
        nf.measure.null_alignment(NET, data, observable, key=KEY)


def test_one_draw_has_no_spread():
    with pytest.raises(ValueError, match="`draws` must be a whole number of at least 2, but was 1"):
        nf.measure.null_alignment(NET, DATA, nf.measure.alignment(0.5), key=KEY, draws=1)
