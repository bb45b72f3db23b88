import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import with_random_biases

import nfa_flow as nf
from nfa_flow.measure.crh import crh
from nfa_flow.nets import MLP
from nfa_flow.problem.losses import resolve

KEY = jax.random.key(0)
N, WIDTHS = 12, (4, 5, 3, 2)
X = jax.random.normal(jax.random.key(1), (N, 4))
Y = jax.nn.softmax(jax.random.normal(jax.random.key(2), (N, 2)))
WEIGHTED = nf.Dataset(X, Y, jnp.arange(N) / 66)
NET = with_random_biases(MLP(WIDTHS, key=KEY, activation=["tanh", "silu"], bias=True))
EPS = np.finfo(np.float64).eps


def relations(R, G, Z):
    return {"rga": (R, G), "gwa": (G, Z), "rwa": (R, Z)}


def by_definition(W, h, z, g, weight):
    """The matrices that are compared, assembled from rows h, z and g = ∇_z ℓ."""
    second = lambda v: v.T @ (weight[:, None] * v)
    inputs, outputs = relations(second(h), second(g @ W), W.T @ W), relations(second(z), second(g), W @ W.T)
    named = {f"input_{name}": pair for name, pair in inputs.items()}
    return named | {f"output_{name}": pair for name, pair in outputs.items()}


def exponent(A, B, rank):
    """The slope of log vᵀAv against log vᵀBv over the `rank` largest eigenvectors v of B."""
    eigenvalues, V = np.linalg.eigh(B)
    assert eigenvalues[-1] / eigenvalues[-rank] < 1e6  # so that eigh knows all of them to 1e6 rounding errors
    return np.polyfit(np.log(eigenvalues[-rank:]), np.log(np.diag(V.T @ A @ V)[-rank:]), 1)[0]


def assert_equal(measured, pairs, tolerance):
    for name, (A, B) in pairs.items():
        relation = getattr(measured, name)
        A, B = np.asarray(A), np.asarray(B)
        cosine = np.sum(A * B) / np.linalg.norm(A) / np.linalg.norm(B)
        np.testing.assert_allclose(relation.cosine, cosine, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(relation.pearson, np.corrcoef(A.ravel(), B.ravel())[0, 1], atol=1e-12, err_msg=name)
        slope = exponent(A, B, int(relation.fit.directions))
        np.testing.assert_allclose(relation.fit.exponent, slope, rtol=tolerance, atol=tolerance, err_msg=name)


# ── What the relations are ──


@pytest.mark.parametrize(("layer", "loss"), [(1, "mse"), (1, "cross_entropy"), (2, "mse")])
def test_the_relations_are_between_the_second_moments_on_both_sides_of_a_layer(layer, loss):
    h = jax.vmap(lambda x: NET.to_layer(layer, x))(X)
    z = jax.vmap(NET.layers[layer - 1])(h)
    of_z = jax.grad(lambda z, y: resolve(loss)(NET.from_preactivation(layer, z), y))
    g = jax.vmap(of_z)(z, Y)
    measured = crh(NET, WEIGHTED, layer=layer, loss=loss)
    pairs = by_definition(NET.weights[layer - 1], h, z, g, WEIGHTED.sample_weight)
    assert_equal(measured, pairs, 1e7 * EPS)


def test_all_directions_that_are_there_count():
    # Layer 2 maps five neurons to three, which bounds the ranks of Z and of G, also where W takes G back to the input.
    assert [int(relation.fit.directions) for relation in crh(NET, WEIGHTED, layer=2)] == [3] * 6


class Convolutional(eqx.Module):
    conv: eqx.nn.Conv1d
    out: eqx.nn.Linear

    def __init__(self):
        keys = jax.random.split(KEY)
        self.conv = eqx.nn.Conv1d(2, 3, 3, stride=2, padding=1, key=keys[0])
        self.out = eqx.nn.Linear(6, 2, key=keys[1])

    def __call__(self, x):
        return self.out(jnp.tanh(self.conv(x.reshape(2, 4))).ravel())


def test_a_convolution_is_a_layer_of_patches_and_positions():
    net, x = Convolutional(), jax.random.normal(jax.random.key(3), (N, 8))
    padded = np.pad(np.asarray(x).reshape(N, 2, 4), ((0, 0), (0, 0), (1, 1)))
    h = np.stack([padded[:, :, i : i + 3].reshape(N, 6) for i in (0, 2)], axis=1).reshape(2 * N, 6)
    z = jax.vmap(lambda x: net.conv(x.reshape(2, 4)))(x)
    g = jax.vmap(jax.grad(lambda z, y: resolve("mse")(net.out(jnp.tanh(z).ravel()), y)))(z, Y)
    rows = lambda v: jnp.swapaxes(v, 1, 2).reshape(2 * N, 3)
    weight = np.repeat(WEIGHTED.sample_weight, 2) / 2
    pairs = by_definition(net.conv.weight.reshape(3, 6), h, rows(z), rows(g), weight)
    assert_equal(crh(net, nf.Dataset(x, Y, WEIGHTED.weight), layer=lambda net: net.conv), pairs, 1e7 * EPS)


def test_the_relations_do_not_depend_on_the_size_of_the_chunks():
    # Of a single byte so much is made that a factor of 5 × 5 is worth it: two samples at a time.
    in_chunks, at_once = crh(NET, WEIGHTED, memory=1), crh(NET, WEIGHTED)
    np.testing.assert_allclose(jax.tree.leaves(in_chunks), jax.tree.leaves(at_once), rtol=1e-10)
    assert "length=6" in str(jax.make_jaxpr(lambda x: crh(NET, nf.Dataset(x, Y), memory=1))(X))


# ── Power laws ──


def one_layer(representations, gradients, weights):
    """A diagonal layer with E[hhᵀ], E[∇_z ℓ ∇_z ℓᵀ] and WᵀW diagonal and the squares of these."""
    rho, gamma, w = (np.asarray(each, float) for each in (representations, gradients, weights))
    size = len(w)
    x = np.sqrt(size) * np.diag(rho)
    net = MLP((size, size), key=KEY).with_weights([np.diag(w)])
    # The loss ½‖z − y‖² has the gradient z − y.
    return net, nf.Dataset(x, x * w - np.sqrt(size) * np.diag(gamma))


@pytest.mark.parametrize(("p", "q"), [(1.0, 1.0), (0.5, -2.0), (-0.7, 0.3)])
def test_power_laws_between_diagonal_matrices_are_found_with_their_exponents(p, q):
    w = np.array([0.3, 1.0, 1.7, 4.0, 5.0])
    measured = crh(*one_layer(w**p, w**q, w))
    exponents = [p / (1 + q), 1 + q, p, (1 + p) / q, q, 1 + p]
    np.testing.assert_allclose([relation.fit.exponent for relation in measured], exponents, rtol=1e-12)
    np.testing.assert_allclose([relation.fit.residual for relation in measured], 0, atol=1e-12)


def test_the_canonical_representation_is_one():
    # R = G = Z at the input: R = w², G = w²γ² with γ = 2, Z = w².
    w = np.array([0.3, 1.0, 1.7, 4.0, 5.0])
    measured = crh(*one_layer(w, 2 * np.ones(5), w))
    for relation in measured[:3]:
        np.testing.assert_allclose([relation.cosine, relation.pearson, relation.fit.exponent], 1, rtol=1e-12)


def test_eigenvalues_far_below_rounding_are_still_used_and_those_lost_in_it_are_not():
    # Z has the eigenvalues 1, 1e-6, 1e-12, 1e-20 and 1e-32, of which the last comes from a singular value of 1e-16.
    w = np.array([1.0, 1e-3, 1e-6, 1e-10, 1e-16])
    measured = crh(*one_layer(w**0.5, w**-0.1, w))
    for relation, slope in [(measured.input_rwa, 0.5), (measured.output_gwa, -0.1), (measured.input_gwa, 0.9)]:
        assert relation.fit.directions == 4
        # A singular value of 1e-10 is known to 1e-16/1e-10 of itself, times a factor of ten; logarithms range over 46.
        np.testing.assert_allclose(relation.fit.exponent, slope, atol=1e-5 / 46)


# ── Where there is nothing to compare ──


def is_undefined(relation):
    return bool(jnp.isnan(relation.cosine) & jnp.isnan(relation.pearson) & jnp.isnan(relation.fit.exponent))


def undefined(measured):
    return {name for name, relation in measured._asdict().items() if is_undefined(relation)}


@pytest.mark.parametrize("size", [0.0, 1e-9])
def test_relations_with_vanishing_weights_are_undefined(size):
    net = NET.with_weights([W if i != 1 else size * W for i, W in enumerate(NET.weights)])
    assert undefined(crh(net, WEIGHTED, layer=2)) >= {"input_gwa", "input_rwa", "output_gwa", "output_rwa"}


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_relations_with_the_gradients_of_a_perfect_fit_are_undefined(loss):
    # The targets are computed otherwise than the network computes them, so that rounding errors are left of g.
    h = jnp.tanh(X @ NET.weights[0].T + NET.layers[0].bias)
    h = jax.nn.silu(h @ NET.weights[1].T + NET.layers[1].bias)
    fitted = h @ NET.weights[2].T + NET.layers[2].bias
    y = fitted if loss == "mse" else jax.nn.softmax(fitted)
    assert jnp.any(jax.vmap(NET)(X) != fitted)
    measured = crh(NET, nf.Dataset(X, y, WEIGHTED.weight), loss=loss)
    assert undefined(measured) == {"input_rga", "input_gwa", "output_rga", "output_gwa"}


def test_a_small_loss_is_not_a_perfect_fit():
    fitted = jax.vmap(NET)(X)
    measured = crh(NET, nf.Dataset(X, fitted + 1e-9 * Y, WEIGHTED.weight))
    larger = crh(NET, nf.Dataset(X, fitted + 1e-3 * Y, WEIGHTED.weight))
    # The residual 1e-9 is known to a few 1e-16/1e-9 of itself.
    np.testing.assert_allclose(
        jax.tree.leaves(measured.input_rga[:2]), jax.tree.leaves(larger.input_rga[:2]), rtol=1e-5
    )


def test_relations_with_vanishing_representations_are_undefined():
    where = lambda net: [leaf for layer in net.layers[:2] for leaf in (layer.weight, layer.bias)]
    silent = eqx.tree_at(lambda net: [where(net)[i] for i in (0, 1, 3)], NET, replace_fn=jnp.zeros_like)
    assert undefined(crh(silent, WEIGHTED, layer=2)) == {"input_rga", "input_rwa", "output_rga", "output_rwa"}


def test_one_neuron_is_in_every_relation_and_has_no_correlation():
    net = MLP((4, 5, 1), key=KEY, activation="tanh")
    relation = crh(net, nf.Dataset(X, Y[:, :1]), layer=2).output_rga
    np.testing.assert_allclose(relation.cosine, 1, rtol=1e-15)
    assert jnp.isnan(relation.pearson) and jnp.isnan(relation.fit.exponent)


# ── As an observable ──


def test_lanes_agree_with_one_at_a_time_also_beside_an_undefined_one():
    nets = [NET, with_random_biases(NET, seed=5), jax.tree.map(jnp.zeros_like, NET)]
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
    batch = eqx.filter_jit(eqx.filter_vmap(lambda net: crh(net, WEIGHTED)))(lanes)
    single = crh(nets[1], WEIGHTED)
    np.testing.assert_allclose([leaf[1] for leaf in jax.tree.leaves(batch)], jax.tree.leaves(single), rtol=1e-9)
    assert undefined(jax.tree.map(lambda leaf: leaf[2], batch)) == set(batch._fields)


def test_other_weights_and_samples_do_not_compile_again(compilations):
    crh(NET, WEIGHTED)
    other = with_random_biases(NET, seed=3), nf.Dataset(2 * X, Y, WEIGHTED.weight)
    compilations()
    crh(*other)
    assert compilations() == 0


def test_single_precision_scales_neither_underflow_nor_leave_it():
    # Squared twice, as cosines are, gradients of 1e-12 are 1e-48, which no number of single precision holds.
    single = lambda net, data: jax.tree.map(lambda leaf: leaf.astype("float32"), (net, data))
    measured = crh(*single(NET, WEIGHTED), loss=lambda f, y: 1e-12 * resolve("mse")(f, y))
    expected = crh(NET, WEIGHTED)
    assert all(leaf.dtype == jnp.float32 for relation in measured for leaf in relation[:2])
    for relation, reference in zip(measured, expected, strict=True):
        np.testing.assert_allclose(relation.cosine, reference.cosine, rtol=1e-4)


def test_memory_may_be_in_scientific_notation(no_type_checks):
    for one, other in zip(crh(NET, WEIGHTED, memory=1e3), crh(NET, WEIGHTED, memory=1000), strict=True):
        np.testing.assert_array_equal(one.cosine, other.cosine)


@pytest.mark.parametrize(
    ("net", "data", "arguments", "message"),
    [
        (NET, WEIGHTED, dict(layer=4), "`layer` must be at most the number of layers, 3, but was 4"),
        (NET, WEIGHTED, dict(loss="mae"), '`loss` must be one of "mse", "cross_entropy", but was'),
        (NET, WEIGHTED, dict(memory=0), "`memory` must be a finite number of at least 1, but was 0"),
        (NET, WEIGHTED, dict(loss=lambda f, y: f), "`loss` must be a function with one scalar per sample, but was of"),
        (NET, nf.Dataset(X[:, 1:], X), {}, "`data` must be of 4 inputs, like the network, but was of shape"),
        (NET, nf.Dataset(X, X), {}, "`net` must be a map to 4 outputs, like the data, but was"),
        (Convolutional(), WEIGHTED, {}, "`layer` must be a layer with weights .* but was the input of a Convolutional"),
    ],
)
def test_a_wrong_argument_is_named(net, data, arguments, message):
    with pytest.raises(ValueError, match=message):
        crh(net, data, **arguments)
