from functools import reduce

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import above, agop_by_definition, balanced_net, relative, with_random_biases

from nfa_flow import Dataset
from nfa_flow.measure import agop, agop_factor
from nfa_flow.nets import MLP

KEY = jax.random.key(0)
N, WIDTHS = 7, (4, 5, 3, 2)
X = jax.random.normal(jax.random.key(1), (N, 4))
WEIGHT = jnp.array([0.3, 0.0, 0.1, 0.2, 0.15, 0.05, 0.2])
WEIGHTED = Dataset(X, jnp.zeros(N), WEIGHT)

compiled = eqx.filter_jit(agop)

# Both sides are backward stable sums of n·c rank-one matrices: some tens of rounding errors of 2e-16.
EXACT = 1e-13


def gram(F):
    return F.T @ F


def net(activation="tanh", widths=WIDTHS, **options):
    return MLP(widths, key=KEY, activation=activation, **options)


def biased(activation="tanh", widths=WIDTHS):
    return with_random_biases(net(activation, widths, bias=True))


class Quadratic(eqx.Module):
    """A module that is not made of layers: f_k(x) = xᵀA_k x."""

    A: jax.Array

    def __call__(self, x):
        return jnp.einsum("kij,i,j->k", self.A, x, x)


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("activation", [["tanh", "relu"], ["identity", "gelu"]], ids=str)
def test_agop_is_the_weighted_mean_of_the_jacobian_grams_at_every_layer(activation, layer):
    network = biased(activation)
    h = jax.vmap(lambda x: network.to_layer(layer, x))(X)
    brute = agop_by_definition(above(network, layer), h, WEIGHT)
    assert relative(compiled(network, WEIGHTED, layer=layer) - brute, brute) < EXACT


@pytest.mark.parametrize("widths", [(4, 5, 1), (4, 3, 6), (4, 2)], ids=["c = 1", "h < d", "one layer"])
def test_agop_of_plain_samples_weighs_them_equally(widths):
    network = net(widths=widths)
    brute = agop_by_definition(above(network, 1), X)
    assert relative(compiled(network, X) - brute, brute) < EXACT


@pytest.mark.parametrize(
    "module", [eqx.nn.MLP(4, 2, 5, 2, key=KEY), Quadratic(jax.random.normal(KEY, (2, 4, 4)))], ids=["MLP", "own"]
)
def test_agop_of_any_module_at_its_input(module):
    brute = agop_by_definition(module, X, WEIGHT)
    assert relative(compiled(module, WEIGHTED) - brute, brute) < EXACT


def test_agop_of_a_quadratic_form_is_known():
    # f(x) = xᵀAx has the gradient 2Ax, and samples ±e_i of equal weight make its AGOP 4A²/d.
    A = np.diag([1.0, 2.0, 3.0, 4.0])
    x = jnp.concatenate([jnp.eye(4), -jnp.eye(4)])
    np.testing.assert_allclose(agop(Quadratic(jnp.asarray(A[None])), x), A @ A, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_agop_of_a_linear_network_is_the_gram_of_the_product_whatever_the_samples(layer):
    network = balanced_net(WIDTHS, bias=True)
    P = reduce(lambda P, W: W @ P, network.weights[layer - 1 :])
    np.testing.assert_array_equal(agop(network, X, layer=layer), agop(network, 3 + X[:2], layer=layer))
    assert relative(agop(network, X, layer=layer) - P.T @ P, P.T @ P) < EXACT


def test_agop_is_of_the_full_jacobian_not_of_the_summed_outputs():
    # f(x) = (x_1, −x_1): the gradient of the sum vanishes, the Jacobian does not.
    network = net("identity", (2, 2)).with_weights([jnp.array([[1.0, 0.0], [-1.0, 0.0]])])
    np.testing.assert_allclose(agop(network, X[:, :2]), [[2, 0], [0, 0]], atol=1e-15)


def test_agop_is_the_gram_of_its_factor_which_has_no_more_rows_than_the_layer_has_neurons_or_inputs():
    F = agop_factor(biased(), X)
    assert F.shape == (4, 4) and agop_factor(biased(widths=(4, 3, 2)), X).shape == (3, 4)
    assert relative(agop(biased(), X) - F.T @ F, F.T @ F) < EXACT


def test_the_factor_keeps_singular_values_that_the_assembled_matrix_loses():
    # The linear part has singular values 1 and 1e-12; squared, the smaller one is far below the rounding of the larger.
    network = net(["tanh"], (2, 2, 2)).with_weights([jnp.diag(jnp.array([1.0, 1e-12])), jnp.eye(2)])
    x = jnp.zeros((3, 2))
    np.testing.assert_allclose(jnp.linalg.svd(agop_factor(network, x))[1], [1, 1e-12], rtol=1e-14)


# 1 byte asks for less than one output of one sample at a time; 500 and 2 000 do not divide the 7 samples.
@pytest.mark.parametrize("memory", [1, 500, 2000])
@pytest.mark.parametrize("measure", [agop, lambda *a, **o: gram(agop_factor(*a, **o))], ids=["gram", "factor"])
def test_agop_does_not_depend_on_the_size_of_the_chunks(measure, memory):
    at_once = agop(biased(), WEIGHTED)
    assert relative(measure(biased(), WEIGHTED, memory=memory) - at_once, at_once) < EXACT


def test_no_sample_is_evaluated_twice_where_one_exceeds_a_chunk():
    text = str(jax.make_jaxpr(lambda x: agop(biased(), x, memory=1))(X))
    assert f"length={N}" in text and f"length={2 * N}" not in text


def test_a_sample_of_weight_two_thirds_counts_as_two_of_three():
    twice = Dataset(X[:2], jnp.zeros(2), jnp.array([2 / 3, 1 / 3]))
    repeated = compiled(biased(), X[jnp.array([0, 0, 1])])
    assert relative(compiled(biased(), twice) - repeated, repeated) < EXACT


@pytest.mark.parametrize(("of_net", "of_data"), [("float64", "float32"), ("float32", "float64")])
def test_network_and_samples_may_differ_in_precision(of_net, of_data):
    network = net(dtype=of_net)
    brute = agop_by_definition(above(network, 1), X.astype(of_data))
    # The samples or the weights are rounded to float32 on both sides; what is left is the arithmetic, at worst float32.
    assert relative(compiled(network, X.astype(of_data)) - brute, brute) < 1e-5


def test_agop_in_single_precision_stays_in_it():
    assert compiled(net(dtype="float32"), X.astype("float32")).dtype == jnp.float32


def test_agop_can_be_compiled_and_batched_over_networks_and_data():
    x = jnp.stack([X, 2 * X])
    lanes = eqx.filter_vmap(lambda key: MLP(WIDTHS, key=key, activation="tanh"))(jax.random.split(KEY, 2))
    batch = eqx.filter_jit(eqx.filter_vmap(lambda network, x: agop(network, x, layer=2)))(lanes, x)
    single = compiled(jax.tree.map(lambda leaf: leaf[1], lanes), x[1], layer=2)
    assert relative(batch[1] - single, single) < EXACT


@pytest.mark.parametrize(
    ("network", "layer", "message"),
    [
        (net(), 0, "`layer` must be a whole number of at least 1, but was 0"),
        (net(), 4, "`layer` must be at most the number of layers, 3, but was 4"),
        (Quadratic(jnp.zeros((2, 4, 4))), 2, "`layer` must be 1 for a Quadratic; name a deeper layer by a function"),
        (eqx.nn.MLP(4, "scalar", 5, 2, key=KEY), 1, r"`net` must be a map .* to a vector of outputs, but was"),
    ],
)
def test_a_wrong_argument_is_named(network, layer, message):
    with pytest.raises(ValueError, match=message):
        agop(network, X, layer=layer)


@pytest.mark.parametrize("centered", [False, True])
def test_the_derivative_by_a_weight_is_right_also_where_that_is_zero(centered):
    network = biased()
    trace = lambda weight: jnp.trace(agop(network, Dataset(X, jnp.zeros(N), weight), centered=centered))
    J = jax.vmap(jax.jacrev(network))(X)
    mean = jnp.einsum("n,nci->ci", WEIGHT, J)
    # d/dw tr(Σ w JᵀJ − (Σ w J)ᵀ(Σ w J)), and the first term only where it is not centered.
    expected = jnp.sum(J**2, axis=(1, 2)) - (2 * jnp.einsum("ci,nci->n", mean, J) if centered else 0)
    np.testing.assert_allclose(jax.grad(trace)(WEIGHT), expected, rtol=1e-12)
    forwards = jax.jvp(trace, (WEIGHT,), (jnp.ones(N),))[1]
    np.testing.assert_allclose(forwards, jnp.sum(expected), rtol=1e-12)
