import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from oracles import balanced_net, linear_net, with_random_biases

from nfa_flow import Dataset
from nfa_flow.measure import agop, nfm
from nfa_flow.measure.subspace import index_angles, principal_angles, subspace_overlap
from nfa_flow.nets import MLP

KEY = jax.random.key(0)
N, D = 8, 4
X = jax.random.normal(jax.random.key(1), (N, D))
WEIGHTED = Dataset(X, X, jnp.arange(N) / 28)
INDEX = np.eye(D)[:, :2]
EPS = np.finfo(np.float64).eps
# Eigenvectors turn by some rounding errors over the gap between eigenvalues.
EXACT = 1e-11


def smooth(width=6, key=KEY):
    return with_random_biases(MLP((D, width, 3), key=key, activation="silu", bias=True))


def angles_by_eigenvectors(N, G, rank):
    """Between assembled matrices whose eigenvalues are far enough apart for `EXACT`."""
    spaces = []
    for M in (N, G):
        eigenvalues, V = np.linalg.eigh(M)
        assert eigenvalues[-rank] - eigenvalues[-rank - 1] > 100 * EPS / EXACT * eigenvalues[-1]
        spaces.append(V[:, -rank:])
    return scipy.linalg.subspace_angles(*spaces)[::-1]


def rotation(angle, i, j):
    R = np.eye(D)
    R[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return R


def turned(*angles):
    """A linear network whose NFM leads with e_1, e_2 and whose AGOP with those, turned into e_3 and e_4."""
    R = rotation(angles[0], 0, 2) @ rotation(angles[1], 1, 3)
    W_1 = np.diag([2.0, 1.5, 1.0, 0.5])
    return linear_net([W_1, np.diag([4.0, 3.0, 2.0, 1.0]) @ R.T @ np.linalg.inv(W_1)])


# ── Between NFM and AGOP ──


@pytest.mark.parametrize(("width", "rank"), [(3, 2), (6, 1), (6, 2)])
def test_they_are_the_angles_between_the_leading_eigenspaces(width, rank):
    net = smooth(width)
    exact = angles_by_eigenvectors(nfm(net), agop(net, WEIGHTED), rank)
    np.testing.assert_allclose(principal_angles(net, WEIGHTED, rank=rank), exact, atol=EXACT)


def test_a_deeper_layer_has_angles_too():
    net = MLP((D, 5, 4, 3), key=KEY, activation="tanh")
    exact = angles_by_eigenvectors(nfm(net, layer=2), agop(net, X, layer=2), 2)
    np.testing.assert_allclose(principal_angles(net, X, rank=2, layer=2), exact, atol=EXACT)


@pytest.mark.parametrize("angles", [(1e-12, 1e-9), (1e-5, 0.3), (0.7, np.pi / 2 - 1e-9), (np.pi / 2, np.pi / 2)])
def test_small_and_right_angles_are_as_accurate_as_others(angles):
    # Cosines alone would put every angle below 1e-8 to zero.
    np.testing.assert_allclose(principal_angles(turned(*angles), X, rank=2), angles, atol=1e-14)


def test_where_the_ansatz_holds_there_are_no_angles():
    net = balanced_net((D, 5, 4, 3))
    np.testing.assert_allclose(principal_angles(net, X, rank=3), 0, atol=1e-13)
    np.testing.assert_allclose(subspace_overlap(3)(net, X), 1, rtol=1e-13)


def test_between_whole_spaces_there_are_no_angles():
    np.testing.assert_allclose(principal_angles(smooth(), X, rank=D), 0, atol=1e-14)


def test_the_overlap_is_the_mean_squared_cosine():
    angles = principal_angles(smooth(), WEIGHTED, rank=2)
    np.testing.assert_allclose(subspace_overlap(2)(smooth(), WEIGHTED), jnp.mean(jnp.cos(angles) ** 2), rtol=1e-13)


class Turned(eqx.Module):
    """A layer behind a rotation: in the inputs, the weights and the gradients know nothing of each other."""

    rotation: jax.Array
    layer: eqx.nn.Linear

    def __call__(self, x):
        return self.layer(self.rotation @ x)


def test_independent_random_subspaces_overlap_by_rank_over_inputs_on_average():
    rank, draws = 2, 400

    def overlap(key):
        keys = jax.random.split(key)
        R = jnp.linalg.qr(jax.random.normal(keys[0], (D, D)))[0]
        return subspace_overlap(rank)(Turned(R, eqx.nn.Linear(D, D, key=keys[1])), X)

    overlaps = jax.jit(jax.vmap(overlap))(jax.random.split(KEY, draws))
    assert jnp.all((overlaps >= 0) & (overlaps <= 1))
    standard_error = jnp.std(overlaps, ddof=1) / draws**0.5
    assert standard_error < 0.02
    assert abs(jnp.mean(overlaps) - rank / D) < 3 * standard_error


# ── Where a space is not defined ──


@pytest.mark.parametrize(
    ("net", "rank"),
    [
        (balanced_net((D, 5, 1)), 2),
        (MLP((D, 2, 3), key=KEY), 3),
        (linear_net([np.eye(D), np.diag([4.0, 3.0, 2.0, 1.0])]), 2),
        (linear_net([np.diag([4.0, 3.0, 2.0, 1.0]), np.diag([1.0, 1.0, 1.5, 1.0])]), 2),
        (linear_net([np.diag([4.0, 3.0, 2.0, 1.0]), np.zeros((2, D))]), 1),
        (linear_net(2 * [1e-10 * np.diag([4.0, 3.0, 2.0, 1.0])]), 1),
    ],
    ids=["rank of AGOP", "rank of NFM", "equal in NFM", "equal in AGOP", "constant", "collapsed"],
)
def test_angles_between_what_is_not_defined_are_undefined(net, rank):
    assert np.all(np.isnan(principal_angles(net, X, rank=rank)))
    assert np.isnan(subspace_overlap(rank)(net, X))


def test_equal_eigenvalues_within_the_leading_space_do_no_harm():
    net = linear_net([np.diag([3.0, 3.0, 2.0, 1.0]), np.diag([2.0, 2.0, 1.0, 1.0])])
    np.testing.assert_allclose(principal_angles(net, X, rank=2), 0, atol=1e-14)


# ── To the index space ──


@pytest.mark.parametrize("of", ["agop", "nfm"])
def test_angles_to_the_index_space_are_those_of_either_matrix(of):
    net, data = smooth(3), Dataset(X, X, WEIGHTED.weight, INDEX)
    exact = angles_by_eigenvectors(agop(net, data) if of == "agop" else nfm(net), INDEX @ INDEX.T, 2)
    np.testing.assert_allclose(index_angles(net, data, of=of), exact, atol=EXACT)


@pytest.mark.parametrize(("angle", "of_agop"), [(0.0, 0.0), (1e-9, 1e-9), (np.pi / 2, np.pi / 2)])
def test_a_network_may_look_where_the_index_says_or_not_at_all(angle, of_agop):
    net, data = turned(angle, angle), Dataset(X, X, index=INDEX)
    np.testing.assert_allclose(index_angles(net, data), 2 * [of_agop], atol=1e-14)
    np.testing.assert_allclose(index_angles(net, data, of="nfm"), 0, atol=1e-14)


def test_weights_have_an_index_space_also_where_gradients_have_none():
    net, data = linear_net([np.diag([4.0, 3.0, 2.0, 1.0]), np.zeros((2, D))]), Dataset(X, X, index=INDEX)
    assert np.all(np.isnan(index_angles(net, data)))
    np.testing.assert_allclose(index_angles(net, data, of="nfm"), 0, atol=1e-14)


# ── As observables ──


def observables(net, data):
    return principal_angles(net, data, rank=2), subspace_overlap(2)(net, data), index_angles(net, data)


def test_lanes_agree_with_one_at_a_time():
    data = Dataset(X, X, index=INDEX)
    nets = [smooth(), smooth(key=jax.random.key(1))]
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
    batch = eqx.filter_jit(eqx.filter_vmap(lambda net: observables(net, data)))(lanes)
    for lane, single in zip(batch, observables(nets[1], data), strict=True):
        np.testing.assert_allclose(lane[1], single, rtol=1e-10)


def test_another_network_of_the_same_shape_is_not_compiled_again(compilations):
    data = Dataset(X, X, index=INDEX)
    nets = [smooth(), smooth(key=jax.random.key(1))]
    observables(nets[0], data)
    compilations()
    observables(nets[1], data)
    assert compilations() == 0


def test_single_precision_is_kept():
    net = jax.tree.map(lambda leaf: leaf.astype("float32"), smooth())
    shapes = eqx.filter_eval_shape(observables, net, Dataset(X, X, index=INDEX).astype("float32"))
    assert all(shape.dtype == jnp.float32 for shape in shapes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: principal_angles(smooth(), X, rank=0), "`rank` must be a whole number of at least 1, but was 0"),
        (lambda: principal_angles(smooth(), X, rank=5), "`rank` must be at most the layer's fan-in, 4, but was 5"),
        (lambda: subspace_overlap(True), "`rank` must be a whole number of at least 1, but was True"),
        (
            lambda: index_angles(smooth(), Dataset(X, X)),
            "`data` must be a `Dataset` with an `index`, but was a Dataset",
        ),
        (lambda: index_angles(smooth(), Dataset(X, X, index=INDEX), of="K"), '`of` must be one of "agop", "nfm"'),
        (
            lambda: index_angles(smooth(), Dataset(X, X, index=INDEX), layer=2),
            "`layer` must be one that is applied to the 4 inputs, but was one of fan-in 6",
        ),
    ],
)
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
