import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import above, relative, with_random_biases

import nfa_flow as nf
from nfa_flow.measure.fact import FactError, bfact, fact
from nfa_flow.nets import MLP
from nfa_flow.problem.losses import resolve

KEY = jax.random.key(0)
N, WIDTHS, DECAY = 7, (4, 5, 3, 2), 0.1
X = jax.random.normal(jax.random.key(1), (N, 4))
Y = jax.nn.softmax(jax.random.normal(jax.random.key(2), (N, 2)))
WEIGHT = jnp.array([0.3, 0.0, 0.1, 0.2, 0.15, 0.05, 0.2])
WEIGHTED = nf.Dataset(X, Y, WEIGHT)
NET = with_random_biases(MLP(WIDTHS, key=KEY, activation=["tanh", "silu"], bias=True))

MATRICES = {"forward": fact, "backward": bfact}

# Both sides are backward stable sums of n rank-one matrices: some tens of rounding errors of 2e-16.
EXACT = 1e-13


class Convolutional(eqx.Module):
    """A strided, padded convolution over rows of eight numbers, then a layer without bias."""

    conv: eqx.nn.Conv1d
    out: eqx.nn.Linear

    def __init__(self, bias):
        keys = jax.random.split(KEY)
        self.conv = eqx.nn.Conv1d(2, 3, 3, stride=2, padding=1, use_bias=bias, key=keys[0])
        self.out = eqx.nn.Linear(6, 2, use_bias=False, key=keys[1])

    def __call__(self, x):
        return self.out(jnp.tanh(self.conv(x.reshape(2, 4))).ravel())


class Residual(eqx.Module):
    """A module whose layers are not applied in the order of its fields."""

    after: eqx.nn.Linear
    before: eqx.nn.Linear

    def __init__(self):
        self.after, self.before = eqx.nn.Linear(4, 2, key=KEY), eqx.nn.Linear(4, 4, key=jax.random.key(1))

    def __call__(self, x):
        return self.after(x + jnp.tanh(self.before(x)))


class Narrow(eqx.Module):
    """A module whose first field is a layer that does not see the samples."""

    after: eqx.nn.Linear = eqx.nn.Linear(2, 2, key=KEY)

    def __call__(self, x):
        return self.after(x[:2] * x[2:])


@eqx.filter_jit
def by_definition(net, data, layer, loss):
    """(FACT, bFACT): the sums over samples, with the gradients of each written out."""
    loss, W = resolve(loss), net.weights[layer - 1]
    h = jax.vmap(lambda x: net.to_layer(layer, x))(data.x)
    z = jax.vmap(net.layers[layer - 1])(h)
    of_h = jax.vmap(jax.grad(lambda h, y: loss(above(net, layer)(h), y)))(h, data.y)
    of_z = jax.vmap(jax.grad(lambda z, y: loss(net.from_preactivation(layer, z), y)))(z, data.y)
    w = data.sample_weight
    forward = -sum(w[i] * jnp.outer(of_h[i], h[i]) for i in range(len(w))) / DECAY
    return forward, -sum(w[i] * jnp.outer(of_z[i], W @ h[i]) for i in range(len(w))) / DECAY


def from_weight_gradient(net, data, where):
    """(FACT, bFACT) as −Wᵀ(∂ℒ/∂W)/λ and −(∂ℒ/∂W)Wᵀ/λ, for any layer of any network."""
    loss = lambda W: nf.measure.loss(eqx.tree_at(where, net, W), data)
    G, W = jax.grad(loss)(where(net)), where(net)
    G, W = G.reshape(len(G), -1), W.reshape(len(W), -1)
    return -W.T @ G / DECAY, -G @ W.T / DECAY


# ── What the matrices are ──


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_the_matrices_are_the_weighted_sums_of_their_definition(loss, layer):
    forward, backward = by_definition(NET, WEIGHTED, layer, loss)
    options = dict(weight_decay=DECAY, layer=layer, loss=loss)
    assert relative(fact(NET, WEIGHTED, **options) - forward, forward) < EXACT
    assert relative(bfact(NET, WEIGHTED, **options) - backward, backward) < EXACT


@pytest.mark.parametrize(
    ("net", "layer", "where"),
    [
        (Convolutional(bias=True), lambda net: net.conv, lambda net: net.conv.weight),
        (Convolutional(bias=False), lambda net: net.conv, lambda net: net.conv.weight),
        (Residual(), lambda net: net.before, lambda net: net.before.weight),
        (eqx.nn.MLP(4, 2, 5, 2, key=KEY), 2, lambda net: net.layers[1].weight),
    ],
    ids=["convolution", "convolution without bias", "own module", "equinox"],
)
def test_they_are_the_products_of_weights_and_weight_gradient_for_any_layer(net, layer, where):
    x = jax.random.normal(jax.random.key(3), (N, 8)) if isinstance(net, Convolutional) else X
    data = nf.Dataset(x, Y, WEIGHT)
    for matrix, expected in zip((fact, bfact), from_weight_gradient(net, data, where), strict=True):
        assert relative(matrix(net, data, weight_decay=DECAY, layer=layer) - expected, expected) < EXACT


def test_at_the_input_of_a_module_of_unknown_order_h_is_the_sample():
    slopes = jax.vmap(jax.grad(lambda x, y: resolve("mse")(Residual()(x), y)))(X, Y)
    expected = -jnp.einsum("i,ia,ib->ab", WEIGHT, slopes, X) / DECAY
    assert relative(fact(Residual(), WEIGHTED, weight_decay=DECAY) - expected, expected) < EXACT


# 1 byte asks for less than one sample at a time; 1 000 hold four of the seven.
@pytest.mark.parametrize("memory", [1, 1000])
@pytest.mark.parametrize("matrix", MATRICES)
def test_they_do_not_depend_on_the_size_of_the_chunks(matrix, memory):
    at_once = MATRICES[matrix](NET, WEIGHTED, weight_decay=DECAY, layer=2)
    in_chunks = MATRICES[matrix](NET, WEIGHTED, weight_decay=DECAY, layer=2, memory=memory)
    assert relative(in_chunks - at_once, at_once) < EXACT


# ── At critical points ──


def errors(net, data, decay, loss="mse"):
    """FactError of every layer, forward and backward."""
    layers = range(1, len(net.layers) + 1)
    return jnp.stack(
        [FactError(decay, loss=loss, layer=l, backward=b)(net, data) for l in layers for b in (False, True)]
    )


@pytest.mark.parametrize("decayed_bias", [True, False], ids=["bias decayed", "bias free"])
def test_ridge_regression_is_a_critical_point_whether_or_not_its_bias_is_decayed(decayed_bias):
    # One layer, W = C_yx (C_xx + λ)⁻¹ with an intercept; with both decayed it is a ridge regression on [x, 1].
    ones = np.ones((N, 1)) if decayed_bias else np.zeros((N, 1))
    mean_x, mean_y = (0.0, 0.0) if decayed_bias else (WEIGHT @ X, WEIGHT @ Y)
    inputs, targets = np.hstack([X - mean_x, ones]), Y - mean_y
    S_xx, S_yx = inputs.T @ (WEIGHT[:, None] * inputs), targets.T @ (WEIGHT[:, None] * inputs)
    A = np.linalg.solve(S_xx + DECAY * np.eye(5), S_yx.T).T
    W, b = A[:, :4], A[:, 4] if decayed_bias else mean_y - A[:, :4] @ mean_x
    net = MLP((4, 2), key=KEY, bias=True)
    net = eqx.tree_at(lambda net: (net.layers[0].weight, net.layers[0].bias), net, (jnp.asarray(W), jnp.asarray(b)))
    # The equations are solved to some tens of rounding errors, and dividing by λ = 1/10 of their terms makes hundreds.
    assert jnp.max(errors(net, WEIGHTED, DECAY)) < 1e-13


# The signs of the first two inputs decide, so that no weights vanish under a weight decay of .02.
CLASSES = nf.Dataset(X, jax.nn.one_hot(jnp.argmax(X[:, :2], axis=1), 2), WEIGHT)
BOUND = 1e-9


def flow_to_convergence(net, decay, loss):
    """The network where the flow has come to rest, and the error of its first layer at time 1."""
    observe = {"error": FactError(decay, loss=loss)}
    options = dict(save_at=[1.0, 1e5], stop=nf.GradientNormBelow(BOUND), solver=diffrax.Tsit5(), rtol=1e-8)
    run = nf.gradient_flow(net, CLASSES, 1e5, weight_decay=decay, loss=loss, observe=observe, progress=False, **options)
    return run.net, run.observed["error"][0]


def assert_converged(net, decay, loss):
    late = errors(net, CLASSES, decay, loss)
    # ‖Wᵀ(∂ℒ/∂W + λW)‖ ≤ ‖W‖₂ ‖∇‖ and ‖WᵀW‖ ≥ ‖W‖₂², up to rounding.
    sizes = np.repeat([np.linalg.norm(W, 2) for W in net.weights], 2)
    assert np.all(late <= BOUND / (decay * sizes) + 1e-12)
    assert np.all(late <= 1e-6)


@pytest.mark.parametrize(
    ("activation", "loss"), [("tanh", "mse"), ("tanh", "cross_entropy"), ("identity", "cross_entropy")]
)
def test_features_are_those_of_the_theorem_once_the_flow_has_converged_and_not_before(activation, loss):
    net = MLP((4, 4, 2), key=KEY, activation=activation, bias=activation == "tanh")
    converged, early = flow_to_convergence(net, 0.02, loss)
    assert early > 0.1 and np.all(errors(net, CLASSES, 0.02, loss) > 0.1)
    assert_converged(converged, 0.02, loss)


def test_so_are_they_in_a_batch_of_flows_for_each_of_its_weight_decays():
    net, decays = MLP((4, 4, 2), key=KEY), jnp.array([0.02, 0.04])
    converged, early = eqx.filter_vmap(lambda decay: flow_to_convergence(net, decay, "mse"))(decays)
    assert np.all(early > 0.1)
    for lane, decay in enumerate(decays):
        assert_converged(net.with_weights([W[lane] for W in converged.weights]), decay, "mse")


# ── As an observable ──


def test_frozen_layers_have_none():
    first = lambda net: net.layers[0].weight
    only_first = eqx.tree_at(first, jax.tree.map(lambda _: False, NET), True)
    options = {"weight_decay": DECAY, "trainable": only_first, "progress": False}
    run = nf.gradient_flow(NET, WEIGHTED, 0.1, observe={"error": FactError()}, **options)
    np.testing.assert_allclose(run.observed["error"][-1], FactError(DECAY)(run.net, WEIGHTED), rtol=1e-12)
    frozen = "`layer` must be one whose weights are trained, .* but was 2, which is frozen"
    for observable in (FactError(layer=2), FactError(layer=2, backward=True), eqx.Partial(fact, layer=2)):
        with pytest.raises(ValueError, match=frozen):
            nf.gradient_flow(NET, WEIGHTED, 0.1, observe={"error": observable}, **options)


def test_the_error_is_the_relative_distance_to_the_gram_matrix_of_the_weights():
    W = NET.weights[1]
    forward, backward = by_definition(NET, WEIGHTED, 2, "mse")
    expected = [relative(forward - W.T @ W, W.T @ W), relative(backward - W @ W.T, W @ W.T)]
    np.testing.assert_allclose(errors(NET, WEIGHTED, DECAY)[2:4], expected, rtol=1e-12)


@pytest.mark.parametrize("size", [0.0, 1e-9])
def test_the_error_of_vanishing_weights_is_undefined(size):
    vanishing = NET.with_weights([W if i != 1 else size * W for i, W in enumerate(NET.weights)])
    np.testing.assert_array_equal(jnp.isnan(errors(vanishing, WEIGHTED, DECAY)), [0, 0, 1, 1, 0, 0])


def test_lanes_of_networks_and_weight_decays_agree_with_one_at_a_time():
    nets = [NET, with_random_biases(NET, seed=5), jax.tree.map(jnp.zeros_like, NET)]
    lanes, decays = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets), jnp.array([0.1, 0.3, 0.1])
    batch = eqx.filter_jit(eqx.filter_vmap(lambda net, decay: errors(net, WEIGHTED, decay)))(lanes, decays)
    np.testing.assert_allclose(batch[1], errors(nets[1], WEIGHTED, 0.3), rtol=1e-12)
    assert jnp.all(jnp.isnan(batch[2]))


def test_other_weights_samples_and_weight_decays_do_not_compile_again(compilations):
    fact(NET, WEIGHTED, weight_decay=0.1), FactError(0.1)(NET, WEIGHTED)
    other = with_random_biases(NET, seed=3), nf.Dataset(2 * X, Y, WEIGHT)
    compilations()
    fact(*other, weight_decay=0.2), FactError(0.2)(*other)
    assert compilations() == 0


def test_single_precision_stays_in_it():
    net, data = MLP(WIDTHS, key=KEY, dtype="float32"), nf.Dataset(X.astype("float32"), Y.astype("float32"))
    assert FactError(0.1)(net, data).dtype == jnp.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(weight_decay=0.0), "`weight_decay` must be a positive number, but was 0"),
        (dict(weight_decay=-0.1), "`weight_decay` must be a positive number, but was -0.1"),
        (dict(weight_decay=float("nan")), "`weight_decay` must be a positive number, but was nan"),
        (dict(layer=0), "`layer` must be a whole number of at least 1, but was 0"),
        (dict(loss="mae"), '`loss` must be one of "mse", "cross_entropy", but was \'mae\''),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    arguments = {"weight_decay": 0.1} | arguments
    for call in (lambda: fact(NET, WEIGHTED, **arguments), lambda: bfact(NET, WEIGHTED, **arguments)):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match=message):
        FactError(**arguments)


@pytest.mark.parametrize(
    ("net", "data", "arguments", "message"),
    [
        (NET, WEIGHTED, dict(layer=4), "`layer` must be at most the number of layers, 3, but was 4"),
        (NET, WEIGHTED, dict(memory=0), "`memory` must be a finite number of at least 1, but was 0"),
        (NET, nf.Dataset(X, X), {}, "`net` must be a map to 4 outputs, like the data, but was"),
        (eqx.nn.MLP(4, "scalar", 5, 1, key=KEY), WEIGHTED, {}, "`net` must be a map .* to a vector of outputs"),
    ],
)
def test_a_network_and_data_that_do_not_fit_are_refused(net, data, arguments, message):
    with pytest.raises(ValueError, match=message):
        fact(net, data, weight_decay=0.1, **arguments)


def test_the_backward_form_needs_a_layer_with_weights():
    with pytest.raises(ValueError, match="`layer` must be a layer with weights .* but was the input of a Residual"):
        bfact(Residual(), WEIGHTED, weight_decay=0.1)


def test_samples_without_targets_are_refused(no_type_checks):
    with pytest.raises(ValueError, match="`data` must be a `Dataset`, because the loss needs targets, but was a"):
        fact(NET, X, weight_decay=0.1)


def test_a_module_whose_first_layer_is_not_at_its_input_needs_a_layer_by_name():
    with pytest.raises(ValueError, match="`layer` must be named by a function where the first layer of a Narrow"):
        FactError(0.1)(Narrow(), WEIGHTED)
