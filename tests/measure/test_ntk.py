import importlib

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from oracles import relative, with_random_biases

import nfa_flow as nf
from nfa_flow.measure.ntk import ntk, ntk_eigenvalues
from nfa_flow.nets import MLP

module = importlib.import_module("nfa_flow.measure.ntk")

KEYS = jax.random.split(jax.random.key(0), 8)
N, D, C = 7, 4, 3
X = jax.random.normal(KEYS[0], (N, D))
WEIGHT = jnp.array([0.3, 0.0, 0.1, 0.2, 0.15, 0.05, 0.2])
WEIGHTED = nf.Dataset(X, jnp.zeros((N, C)), WEIGHT)

# Sums of some hundred products, each rounded to 1e-16.
EXACT = 1e-13


class ConvNet(eqx.Module):
    """A convolution with a skip, a read-out, and an array that belongs to no layer."""

    convolution: eqx.nn.Conv2d
    readout: eqx.nn.Linear
    scale: jax.Array

    def __init__(self):
        self.convolution = eqx.nn.Conv2d(1, 2, 2, key=KEYS[1])
        self.readout = eqx.nn.Linear(2 * 3, C, key=KEYS[2])
        self.scale = jnp.array([0.5, 2.0])

    def __call__(self, x):
        z = self.convolution(x) * self.scale[:, None, None]
        return self.readout(jnp.ravel(z + jnp.tanh(z)))


def smooth(bias=True):
    net = MLP((D, 6, 5, C), key=KEYS[3], activation=["tanh", "silu"], bias=bias)
    return with_random_biases(net) if bias else net


@eqx.filter_jit
def jacobian(net, x):
    """All predictions by all parameters, samples first."""
    parameters, frozen = eqx.partition(net, eqx.is_inexact_array)
    theta, unravel = ravel_pytree(parameters)
    return jax.jacfwd(lambda theta: jax.vmap(eqx.combine(unravel(theta), frozen))(x).ravel())(theta)


NETWORKS = {
    "MLP with biases": (smooth(), X),
    "MLP without": (smooth(bias=False), X),
    "one layer": (MLP((D, C), key=KEYS[4], bias=True), X),
    "equinox": (eqx.nn.MLP(D, C, 5, 2, key=KEYS[5]), X),
    "convolution": (ConvNet(), jax.random.normal(KEYS[6], (N, 1, 4, 2))),
}


# ── The kernel ──


@pytest.mark.parametrize(("net", "x"), NETWORKS.values(), ids=NETWORKS)
def test_it_is_the_gram_matrix_of_the_jacobian_rows(net, x):
    J = jacobian(net, x)
    assert relative(ntk(net, x) - J @ J.T, J @ J.T) < EXACT


# 1 byte asks for one sample at a time; blocks of two or three do not divide the 7.
@pytest.mark.parametrize("memory", [1, 5000])
@pytest.mark.parametrize("name", ["MLP with biases", "convolution"])
def test_it_does_not_depend_on_the_size_of_the_blocks(name, memory):
    net, x = NETWORKS[name]
    at_once = ntk(net, x)
    assert relative(ntk(net, x, memory=memory) - at_once, at_once) < EXACT


def test_the_layers_of_an_mlp_give_what_its_parameters_give():
    net, x = NETWORKS["MLP with biases"]
    zero = jnp.zeros((N, C, N, C))
    general = eqx.filter_jit(module._by_products)(net, x, zero, 2**20, None).reshape(N * C, N * C)
    assert relative(ntk(net, x) - general, general) < EXACT


def test_beside_the_result_it_takes_the_memory_that_it_may():
    # All Jacobians take 96 MB, and each of the 1200 rows 80 kB.
    net = MLP((20, 90, 90, 4), key=KEYS[3], activation="tanh")
    x, memory = jnp.zeros((300, 20)), 2**20
    for form in (module._by_layers, module._by_products):
        parameters, frozen = eqx.partition(net, eqx.is_array)
        on = lambda net, x, form=form: form(net, x, jnp.zeros((300, 4, 300, 4)), memory, None)
        build = lambda p, x, on=on, frozen=frozen: on(eqx.combine(p, frozen), x)
        used = jax.jit(build).lower(parameters, x).compile().memory_analysis()
        assert used is not None and used.temp_size_in_bytes < 2 * memory


def test_one_and_many_outputs_come_samples_first():
    net = smooth()
    J = jacobian(net, X)
    np.testing.assert_allclose(ntk(net, X)[1 * C + 2, 4 * C], J[1 * C + 2] @ J[4 * C], rtol=1e-12)
    first = eqx.tree_at(lambda net: (net.layers[-1].weight, net.layers[-1].bias), net, replace_fn=lambda a: a[:1])
    # Output 0 alone: the same rows without the parameters of the other outputs, whose gradients are zero.
    np.testing.assert_allclose(ntk(first, X), ntk(net, X)[::C, ::C], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("of_net", "of_data"), [("float64", "float32"), ("float32", "float64")])
@pytest.mark.parametrize("name", ["one layer", "equinox"])
def test_network_and_samples_may_differ_in_precision(of_net, of_data, name):
    net = NETWORKS[name][0]
    exact = ntk(net, X)
    net = jax.tree.map(lambda leaf: leaf.astype(of_net) if eqx.is_array(leaf) else leaf, net)
    theta = ntk(net, X.astype(of_data))
    assert theta.dtype == of_net
    assert relative(theta - exact, exact) < 1e-5  # some rounding errors of 6e-8


# ── Its eigenvalues ──


@pytest.mark.parametrize("name", ["MLP with biases", "one layer"])
def test_they_are_those_of_the_gauss_newton_matrix_and_zeros(name):
    net, x = NETWORKS[name]
    J = np.asarray(jacobian(net, x)) / np.sqrt(N)
    exact = np.linalg.svd(J, compute_uv=False) ** 2
    exact = np.pad(exact, (0, N * C - len(exact)))
    np.testing.assert_allclose(ntk_eigenvalues(net, x), exact, rtol=0, atol=EXACT * exact[0])


def test_the_weights_of_samples_enter_by_their_roots():
    J = jacobian(smooth(), X)
    gauss_newton = jnp.einsum("i,ica,icb->ab", WEIGHT, *2 * [J.reshape(N, C, -1)])
    exact = np.linalg.eigvalsh(gauss_newton)[::-1][: N * C]
    np.testing.assert_allclose(ntk_eigenvalues(smooth(), WEIGHTED), exact, rtol=0, atol=EXACT * exact[0])


def test_some_of_them_are_the_largest_of_all():
    every = ntk_eigenvalues(smooth(), WEIGHTED)
    some = ntk_eigenvalues(smooth(), WEIGHTED, count=4)
    assert some.shape == (4,)
    np.testing.assert_allclose(some, every[:4], rtol=1e-6)


def of_shape(net, number):
    """A tree in the structure of the parameters, of numbers or arrays that differ from layer to layer."""
    leaves, structure = jax.tree.flatten(eqx.filter(net, eqx.is_inexact_array))
    return jax.tree.unflatten(structure, [number(i, leaf) for i, leaf in enumerate(leaves)])


MOBILITIES = {
    "one number per layer": [0.5, 2.0, 3.0],
    "one number per array": of_shape(smooth(), lambda i, leaf: 0.5 + i),
    "one number per entry": of_shape(smooth(), lambda i, leaf: jnp.linspace(0.5, 2 + i, leaf.size).reshape(leaf.shape)),
}


@pytest.mark.parametrize("mobility", MOBILITIES.values(), ids=MOBILITIES)
def test_with_mobilities_they_are_those_of_the_preconditioned_kernel(mobility):
    net = smooth()
    layers = zip(net.layers, mobility, strict=True) if isinstance(mobility, list) else ()
    tree = [jnp.full(leaf.shape, m) for layer, m in layers for leaf in jax.tree.leaves(layer)] or [
        jnp.broadcast_to(m, leaf.shape) for m, leaf in zip(jax.tree.leaves(mobility), arrays(net), strict=True)
    ]
    m, J = jnp.concatenate([jnp.ravel(each) for each in tree]), jacobian(net, X)
    exact = np.linalg.eigvalsh((J * m) @ J.T / N)[::-1]
    np.testing.assert_allclose(ntk_eigenvalues(net, X, mobility=mobility), exact, rtol=0, atol=EXACT * exact[0])


def arrays(net):
    return jax.tree.leaves(eqx.filter(net, eqx.is_inexact_array))


@pytest.mark.parametrize("scheme", ["NTP", "muP"])
def test_those_of_a_parametrized_network_are_the_rates_of_its_flow(scheme):
    """At the start ∂f/∂t = −Θ w (f − y) with the mobilities that the flow of the network has."""
    net = MLP((D, 6, 1), key=KEYS[3], activation="tanh", bias=True, parametrization=scheme)
    rates = np.asarray(ntk_eigenvalues(net, X))
    J, m = jacobian(net, X), net.mobility
    by_parameter = jnp.concatenate([jnp.full(p.size, each) for p, each in zip(arrays(net), arrays_of(m), strict=True)])
    np.testing.assert_allclose(rates, np.linalg.eigvalsh((J * by_parameter) @ J.T / N)[::-1], atol=EXACT * rates[0])
    # The sum of squares of residuals falls at rᵀ√w Θ √w r ≤ (the largest rate) · wrᵀr, with equality along its vector.
    data = nf.Dataset(X, jax.vmap(net)(X) - jnp.linalg.eigh((J * by_parameter) @ J.T)[1][:, -1:])
    run = nf.gradient_flow(net, data, 1e-4 / rates[0], save_at=[0.0, 1e-4 / rates[0]], progress=False)
    slope = float(jnp.log(run.observed["loss"][1] / run.observed["loss"][0])) / (-2 * 1e-4)
    np.testing.assert_allclose(slope, 1, rtol=1e-3)


def arrays_of(tree):
    return jax.tree.leaves(eqx.filter(tree, lambda leaf: isinstance(leaf, float)))


def test_they_are_the_rates_of_the_flow_of_a_model_that_is_linear_in_its_parameters():
    net, t = MLP((D, 2), key=KEYS[7], bias=True), 0.7
    data = nf.Dataset(X, jax.random.normal(KEYS[6], (N, 2)), WEIGHT)
    run = nf.gradient_flow(net, data, t, solver=diffrax.Tsit5(), rtol=1e-10, progress=False)
    root = jnp.sqrt(jnp.repeat(WEIGHT, 2))
    eigenvalues, V = jnp.linalg.eigh(root[:, None] * ntk(net, X) * root)
    np.testing.assert_allclose(ntk_eigenvalues(net, data), eigenvalues[::-1], atol=EXACT * float(eigenvalues[-1]))
    residuals = lambda net: V.T @ (root * (jax.vmap(net)(X) - data.y).ravel())
    start, end = residuals(net), residuals(run.net)
    # The flow is exact to ten times its tolerance; a decayed residual to that fraction of where it started.
    np.testing.assert_allclose(end, jnp.exp(-eigenvalues * t) * start, atol=1e-9 * float(jnp.linalg.norm(start)))


# ── As an observable ──


def test_lanes_agree_with_one_at_a_time():
    nets = [smooth(), jax.tree.map(lambda a: 2 * a, smooth())]
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
    batch = eqx.filter_vmap(lambda net: ntk_eigenvalues(net, WEIGHTED))(lanes)
    for lane, net in zip(batch, nets, strict=True):
        single = ntk_eigenvalues(net, WEIGHTED)
        np.testing.assert_allclose(lane, single, atol=1e-12 * float(single[0]))


def test_another_network_of_the_same_shape_is_not_compiled_again(compilations):
    net, another, x = smooth(), jax.tree.map(lambda a: 2 * a, smooth()), X + 1
    ntk_eigenvalues(net, X, count=4)
    compilations()
    ntk_eigenvalues(another, x, count=4)
    assert compilations() == 0


def test_memory_may_be_in_scientific_notation(no_type_checks):
    np.testing.assert_array_equal(ntk(smooth(), X, memory=1e3), ntk(smooth(), X, memory=1000))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ntk(smooth(), X, memory=0), "`memory` must be a finite number of at least 1"),
        (lambda: ntk(eqx.nn.MLP(D, "scalar", 5, 1, key=KEYS[0]), X), "`net` must be a map .* to a vector of outputs"),
        (lambda: ntk_eigenvalues(smooth(), X, count=0), "`count` must be a whole number of at least 1, but was 0"),
        (lambda: ntk_eigenvalues(smooth(), X, count=22), "`count` must be at most the number of predictions, 21, but"),
        (lambda: ntk(smooth(), X[:, 1:]), "`data` must be of . inputs, like the network, but was of shape"),
        (lambda: ntk(smooth(), jnp.arange(4)), "`data` must be an array of floating-point samples"),
    ],
)
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
