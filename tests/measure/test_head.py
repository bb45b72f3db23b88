import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import agop_by_definition, relative, with_random_biases

from nfa_flow.measure import agop, alignment
from nfa_flow.measure.head import head_anisotropy, head_matrix, leading_linear_layers
from nfa_flow.nets import MLP

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (8, 4))

# Sums of 8 samples and products of a few matrices: some tens of rounding errors.
EXACT = 1e-13


def orthonormal(size, seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def before_a_head(singular, head, activation="tanh"):
    """Two balanced linear layers whose product M has these singular values, then σ and the matrix `head`."""
    singular = np.asarray(singular, float)
    size, roots = len(singular), np.sqrt(singular)
    V, U = orthonormal(size, 1), orthonormal(size, 2)
    net = MLP((size, size, size, len(head)), key=KEY, activation=["identity", activation])
    return net.with_weights([V * roots @ V.T, U * roots @ V.T, np.asarray(head, float)]), (U * singular) @ V.T


def brute_anisotropy(net, x):
    """By the projector on the range of M, with B from the Jacobians of the head."""
    k = leading_linear_layers(net)
    z = jax.vmap(lambda x: net.layers[k - 1](net.to_layer(k, x)))(x)
    B = np.asarray(agop_by_definition(lambda z: net.from_preactivation(k, z), z))
    M = np.linalg.multi_dot([*net.weights[k - 1 :: -1], np.eye(net.widths[0])])
    r = np.linalg.matrix_rank(M)
    U = np.linalg.svd(M)[0][:, :r]
    P = U @ U.T
    mean = np.trace(P @ B @ P) / r * P
    return relative(P @ B @ P - mean, mean)


@pytest.mark.parametrize(
    ("activation", "layers"),
    [("tanh", 1), (["identity", "tanh", "identity"], 2), (["identity", "identity", "relu"], 3), ("identity", 4)],
)
def test_linear_layers_are_counted_up_to_the_first_activation(activation, layers):
    assert leading_linear_layers(MLP((4, 3, 5, 3, 2), key=KEY, activation=activation)) == layers


# ── B ──


@pytest.mark.parametrize("activation", ["tanh", ["identity", "silu"], "identity"], ids=str)
def test_agop_is_the_head_matrix_between_the_product_of_the_linear_layers(activation):
    net = with_random_biases(MLP((4, 5, 3, 2), key=KEY, activation=activation, bias=True))
    M = np.linalg.multi_dot([*net.weights[leading_linear_layers(net) - 1 :: -1], np.eye(4)])
    A = agop(net, X)
    assert relative(M.T @ head_matrix(net, X) @ M - A, A) < EXACT


def test_the_head_of_a_linear_network_is_the_identity():
    np.testing.assert_array_equal(head_matrix(MLP((4, 5, 3, 2), key=KEY), X), np.eye(2))


# ── Its anisotropy ──


@pytest.mark.parametrize(
    ("widths", "activation"),
    [((4, 5, 3, 2), "tanh"), ((4, 3, 5, 2), ["identity", "silu"]), ((4, 2, 5, 3), ["identity", "tanh"])],
    ids=["one layer", "range of dimension three", "range of dimension two of five"],
)
def test_anisotropy_is_that_of_its_definition(widths, activation):
    net = with_random_biases(MLP(widths, key=KEY, activation=activation, bias=True))
    np.testing.assert_allclose(head_anisotropy(net, X), brute_anisotropy(net, X), rtol=1e-11)


def test_a_linear_network_is_isotropic():
    # Its head is the identity, of which nothing is left but the rounding of orthonormal vectors.
    assert head_anisotropy(MLP((4, 5, 4), key=KEY), X) < EXACT


def test_a_head_of_orthonormal_columns_that_acts_linearly_is_isotropic():
    # An activation of the user's own is not known to be linear.
    net, _ = before_a_head([1, 2, 3], orthonormal(5, 3)[:, :3], activation=lambda z: 2 * z)
    assert leading_linear_layers(net) == 2
    np.testing.assert_allclose(head_matrix(net, X[:, :3]), 4 * np.eye(3), atol=EXACT)
    assert head_anisotropy(net, X[:, :3]) < EXACT


def samples_of(M, z):
    """Samples x with Mx = z."""
    return jnp.asarray(np.linalg.solve(M, np.asarray(z).T).T)


def test_balance_gives_the_ansatz_where_the_head_sees_all_directions_alike():
    # g(z) = tanh(z) has the Jacobian diag(1 − tanh²z): over all rotations of the coordinates its mean square is ∝ I.
    net, M = before_a_head([0.3, 1.0, 4.0], np.eye(3))
    x = samples_of(M, [np.roll([0.2, -1.0, 3.0], shift) for shift in range(3)])
    assert head_anisotropy(net, x) < EXACT
    assert alignment(1 / 2, metric="relative_error")(net, x) < EXACT
    assert alignment(1 / 3, metric="relative_error")(net, x) > 0.1


def test_the_error_of_the_ansatz_grows_with_the_anisotropy():
    # B = diag(1, (1 + a)², 1) in the coordinates of a head that multiplies one of them by 1 + a.
    amounts, measured, errors = [0.0, 0.1, 0.3, 1.0], [], []
    for a in amounts:
        net, _ = before_a_head([0.5, 1.0, 2.0], np.diag([1, 1 + a, 1]), activation=lambda z: 1 * z)
        measured.append(float(head_anisotropy(net, X[:, :3])))
        errors.append(float(alignment(1 / 2, metric="relative_error")(net, X[:, :3])))
        B = np.array([1, (1 + a) ** 2, 1])
        np.testing.assert_allclose(measured[-1], np.linalg.norm(B / B.mean() - 1) / np.sqrt(3), atol=EXACT)
    assert np.all(np.diff(measured) > 0) and np.all(np.diff(errors) > 0)
    assert errors[0] < EXACT


@pytest.mark.parametrize("size", [2, 3])
def test_a_head_of_one_direction_has_the_largest_anisotropy(size):
    net, _ = before_a_head([0.5, 1.0, 2.0][:size], np.ones((1, size)), activation=lambda z: 1 * z)
    np.testing.assert_allclose(head_anisotropy(net, X[:, :size]), np.sqrt(size - 1), rtol=1e-13)


def test_a_direction_out_of_the_range_does_not_count():
    # The head would multiply the third direction by a thousand, but nothing ever goes there.
    diagonal = lambda *entries: np.diag(np.array(entries, float))
    net = MLP((3, 3, 3, 3), key=KEY, activation=["identity", lambda z: 1 * z])
    net = net.with_weights([diagonal(1, 2, 0), np.eye(3), diagonal(1, 1, 1e3)])
    assert head_anisotropy(net, X[:, :3]) < EXACT


def test_directions_lost_in_rounding_do_not_belong_to_the_range():
    # M is 4 × 4 of rank two; its other singular values are 1e-17 or so.
    net = MLP((4, 2, 5, 4, 3), key=KEY, activation=["identity", "identity", "tanh"])
    np.testing.assert_allclose(head_anisotropy(net, X), brute_anisotropy(net, X), rtol=1e-11)
    assert head_anisotropy(net, X) <= 1  # √(r−1) of a range of dimension two


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_anisotropy_is_undefined_where_a_layer_vanishes(layer):
    net = MLP((4, 5, 3, 2), key=KEY, activation=["identity", "tanh"])
    weights = [0 * W if i == layer - 1 else W for i, W in enumerate(net.weights)]
    assert jnp.isnan(head_anisotropy(net.with_weights(weights), X))


# ── As an observable ──


def test_lanes_agree_with_one_at_a_time_also_beside_an_undefined_one():
    nets = [MLP((4, 3, 5, 2), key=jax.random.key(seed), activation=["identity", "tanh"]) for seed in (0, 1)]
    nets.append(jax.tree.map(jnp.zeros_like, nets[0]))
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
    batch = eqx.filter_jit(eqx.filter_vmap(lambda net: head_anisotropy(net, X)))(lanes)
    np.testing.assert_allclose(batch[:2], [head_anisotropy(net, X) for net in nets[:2]], rtol=1e-11)
    assert jnp.isnan(batch[2])


def test_other_weights_and_samples_do_not_compile_again(compilations):
    nets = [MLP((4, 3, 5, 2), key=jax.random.key(seed), activation=["identity", "tanh"]) for seed in (0, 1)]
    head_anisotropy(nets[0], X)
    x = 2 * X
    compilations()
    head_anisotropy(nets[1], x)
    assert compilations() == 0


def test_single_precision_stays_in_it():
    net = MLP((4, 3, 5, 2), key=KEY, activation=["identity", "tanh"], dtype="float32")
    assert head_anisotropy(net, X.astype("float32")).dtype == jnp.float32


def test_another_kind_of_network_is_refused(no_type_checks):
    with pytest.raises(ValueError, match="`net` must be an `nfa_flow.nets.MLP`, but was a equinox"):
        head_anisotropy(eqx.nn.MLP(4, 2, 5, 2, key=KEY), X)
