"""Which layer is meant, and AGOP through convolutions, modules of one's own, and layers named by a function."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import relative

import nfa_flow as nf
from nfa_flow.measure import agop, agop_estimate, agop_factor, alignment, fit_exponent, nfm
from nfa_flow.measure.layer import patches
from nfa_flow.nets import MLP

KEYS = jax.random.split(jax.random.key(0), 8)
X = jax.random.normal(KEYS[0], (5, 2 * 7 * 6))
EXACT = 1e-13
SOLVER = diffrax.Tsit5()


class ConvNet(eqx.Module):
    """Two convolutions and a read-out, with a skip around the second."""

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    readout: eqx.nn.Linear

    def __init__(self, **options):
        self.first = eqx.nn.Conv2d(2, 3, (3, 2), key=KEYS[1], **options)
        self.second = eqx.nn.Conv2d(3, 3, 3, padding=1, key=KEYS[2])
        size = jax.eval_shape(self.first, jax.ShapeDtypeStruct((2, 7, 6), X.dtype)).size
        self.readout = eqx.nn.Linear(size, 2, key=KEYS[3])

    def after_first(self, z):
        h = jnp.tanh(z)
        return self.readout(jnp.ravel(h + jnp.tanh(self.second(h))))

    def __call__(self, x):
        return self.after_first(self.first(x.reshape(2, 7, 6)))


OPTIONS = {
    "plain": {},
    "stride": dict(stride=(2, 1)),
    "padding": dict(padding=((1, 2), (0, 1)), use_bias=False),
    "dilation": dict(dilation=(2, 1)),
    "padded by reflection": dict(padding=1, padding_mode="REFLECT"),
}


def patch_agop(net, x):
    """By definition: the mean over samples and positions of the Gram matrix of df/d(patch)."""
    first = net.first

    def f(p):  # the network as a function of the patches of one sample
        z = p @ first.weight.reshape(3, -1).T + (0 if first.bias is None else first.bias.ravel())
        shape = jax.eval_shape(first, x.reshape(2, 7, 6)).shape
        return net.after_first(z.T.reshape(shape))

    J = jax.jacfwd(f)(patches(first, x.reshape(2, 7, 6)))
    return jnp.einsum("cpa,cpb->ab", J, J) / J.shape[1]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_convolution_is_measured_by_its_patches(name):
    net = ConvNet(**OPTIONS[name])
    layer = lambda net: net.first
    brute = jnp.mean(jax.vmap(lambda x: patch_agop(net, x))(X), axis=0)
    F = agop_factor(net, X, layer=layer)
    assert relative(agop(net, X, layer=layer) - brute, brute) < EXACT
    assert relative(F.T @ F - brute, brute) < EXACT
    assert relative(agop(net, X, layer=layer, memory=1) - brute, brute) < EXACT


@pytest.mark.parametrize("name", OPTIONS)
def test_patches_are_what_the_unfolded_kernel_multiplies(name):
    conv, image = ConvNet(**OPTIONS[name]).first, X[0].reshape(2, 7, 6)
    bias = 0 if conv.bias is None else conv.bias.reshape(3, 1)
    assert relative(nfm_weight(conv) @ patches(conv, image).T + bias - conv(image).reshape(3, -1), X) < EXACT


def nfm_weight(conv):
    return conv.weight.reshape(conv.weight.shape[0], -1)


def test_the_nfm_of_a_convolution_is_the_gram_matrix_of_the_unfolded_kernel():
    net = ConvNet()
    W = nfm_weight(net.first)
    np.testing.assert_array_equal(nfm(net, layer=lambda net: net.first), W.T @ W)


def test_an_alignment_goes_through_a_convolution():
    net, layer = ConvNet(), lambda net: net.first
    A, N = agop(net, X, layer=layer), nfm(net, layer=layer)
    score = alignment(1.0, layer=layer)(net, X)
    np.testing.assert_allclose(score, jnp.sum(A * N) / jnp.linalg.norm(A) / jnp.linalg.norm(N), rtol=1e-12)
    assert jnp.isfinite(fit_exponent(net, X, layer=layer).exponent)


def test_only_what_goes_through_the_layer_counts():
    """At the second convolution the skip is not part of the Jacobian, at the input of the network it is."""
    net = ConvNet()
    h = jax.vmap(lambda x: jnp.tanh(net.first(x.reshape(2, 7, 6))))(X)
    shape = h.shape[1:]
    shifted = lambda h, z: net.readout(jnp.ravel(h + jnp.tanh(z.reshape(shape))))
    J = jax.vmap(lambda h: jax.jacfwd(lambda z: shifted(h, z))(net.second(h)))(h)
    J = jnp.einsum("ncka,kf->ncaf", J.reshape(*J.shape[:2], 3, -1), nfm_weight(net.second))
    brute = jnp.einsum("ncaf,ncag->fg", J, J) / (len(X) * J.shape[2])
    assert relative(agop(net, X, layer=lambda net: net.second) - brute, brute) < EXACT
    whole = jax.vmap(jax.jacfwd(net))(X)
    assert relative(agop(net, X) - jnp.einsum("nca,ncb->ab", whole, whole) / len(X), agop(net, X)) < EXACT


def test_layers_of_a_sequential_are_counted_as_they_are_applied():
    conv, linear = eqx.nn.Conv1d(1, 4, 3, key=KEYS[4]), eqx.nn.Linear(16, 2, key=KEYS[5])
    net = eqx.nn.Sequential(
        [eqx.nn.Lambda(lambda x: x[None]), conv, eqx.nn.Lambda(jax.nn.silu), eqx.nn.Lambda(jnp.ravel), linear]
    )
    x = X[:, :6]
    np.testing.assert_array_equal(agop(net, x, layer=1), agop(net, x, layer=lambda net: net.layers[1]))
    assert agop(net, x, layer=1).shape == (3, 3)
    whole = jax.vmap(jax.jacfwd(net))(x)
    brute = jnp.einsum("nca,ncb->ab", whole, whole) / len(x)
    assert relative(agop(net, x) - brute, brute) < EXACT
    assert relative(agop(net, x, layer=2) - linear.weight.T @ linear.weight, linear.weight) < EXACT


def test_a_layer_may_be_named_in_an_mlp_too():
    net = MLP([4, 5, 3, 2], key=KEYS[6], activation="tanh")
    same = agop(net, X[:, :4], layer=lambda net: net.layers[1])
    np.testing.assert_array_equal(agop(net, X[:, :4], layer=2), same)


class Shaped(eqx.Module):
    """Images or sequences as they are, through a matrix and a nonlinearity."""

    linear: eqx.nn.Linear

    def __call__(self, x):
        return jnp.tanh(self.linear(jnp.ravel(x)))[:2]


@pytest.mark.parametrize("shape", [(1, 4, 3), (4, 3), (12,), (1,)])
def test_without_a_layer_the_input_is_the_whole_sample_whatever_its_shape(shape):
    d = int(np.prod(shape))
    net, x = Shaped(eqx.nn.Linear(d, 3, key=KEYS[6])), X.ravel()[: 5 * d].reshape(5, *shape)
    J = jax.vmap(jax.jacfwd(net))(x).reshape(5, 2, d)
    exact = jnp.einsum("nca,ncb->ab", J, J) / 5
    F = agop_factor(net, x)
    for same in (agop(net, x), agop(net, x, layer=1), agop(net, iter([x[:2], x[2:]])), F.T @ F):
        assert relative(same - exact, exact) < EXACT
    estimate = agop_estimate(net, x, probes=2, key=KEYS[5])
    assert estimate.value.shape == (d, d)
    # One matrix sees all of the sample here, so NFM and AGOP are of one size.
    N = net.linear.weight.T @ net.linear.weight
    cosine = jnp.sum(exact * N) / jnp.linalg.norm(exact) / jnp.linalg.norm(N)
    np.testing.assert_allclose(alignment(1.0)(net, x), cosine, rtol=1e-12)


class Frozen(eqx.Module):
    """Its first layer is frozen in the usual way."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear

    def __call__(self, x):
        return self.second(jnp.tanh(jax.lax.stop_gradient(self.first)(x)))


def test_a_frozen_layer_is_measured_like_any_other():
    net, free = (kind(eqx.nn.Linear(4, 3, key=KEYS[1]), eqx.nn.Linear(3, 2, key=KEYS[2])) for kind in (Frozen, Two))
    x, layer = X[:, :4], lambda net: net.first
    assert relative(agop(net, x, layer=layer) - agop(free, x, layer=layer), agop(free, x)) < EXACT
    for measure in (alignment(0.5, layer=layer), lambda net, x: fit_exponent(net, x, layer=layer).exponent):
        np.testing.assert_allclose(measure(net, x), measure(free, x), rtol=1e-10)


class Two(eqx.Module):
    """The same with both layers free."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


class Tied(eqx.Module):
    """Two layers with one weight matrix."""

    shared: eqx.nn.Shared

    def __init__(self):
        layers = tuple(eqx.nn.Linear(4, 4, key=key) for key in KEYS[1:3])
        self.shared = eqx.nn.Shared(layers, where=lambda pair: pair[1].weight, get=lambda pair: pair[0].weight)

    def __call__(self, x):
        first, second = self.shared()
        return second(jnp.tanh(first(x)))


def test_a_layer_that_shares_its_weights_is_measured_and_one_that_borrows_them_is_refused():
    net, x = Tied(), X[:, :4]
    untied = Two(*net.shared())
    own, borrowed = (lambda net: net.shared.pytree[0]), (lambda net: net.shared.pytree[1])
    same = agop(untied, x, layer=lambda net: net.first)
    assert relative(agop(net, x, layer=own) - same, same) < EXACT
    np.testing.assert_allclose(
        alignment(0.5, layer=own)(net, x), alignment(0.5, layer=lambda net: net.first)(untied, x), rtol=1e-12
    )
    whole = agop(untied, x)
    assert relative(agop(net, x) - whole, whole) < EXACT
    for measure in (lambda net, x: agop(net, x, layer=borrowed), alignment(0.5, layer=borrowed)):
        with pytest.raises(ValueError, match="`layer` must be one with weights of its own; .* `eqx.tree_at`"):
            measure(net, x)
    with pytest.raises(ValueError, match="`net` must be a network of layers with weights of their own"):
        nf.measure.spectral_norm(net)
    null = nf.measure.null_alignment(net, x, lambda net, x: agop(net, x), key=KEYS[0], draws=2)
    assert jnp.isfinite(null.mean).all()


def test_layers_with_a_state_or_chance_are_refused_by_a_sentence_that_names_the_way():
    dropping = eqx.nn.Sequential([eqx.nn.Linear(4, 3, key=KEYS[1]), eqx.nn.Dropout(0.5)])
    for measure in (agop, alignment(0.5), nf.measure.ntk):
        with pytest.raises(ValueError, match="`net` must be .* switched off by `eqx.nn.inference_mode"):
            measure(dropping, X[:, :4])
    assert jnp.isfinite(alignment(0.5)(eqx.nn.inference_mode(dropping), X[:, :4]))
    normed, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, "batch", mode="batch")
    with pytest.raises(ValueError, match=r"`net` must be .* such as BatchNorm, need `nf.nets.WithState\(net, state\)`"):
        agop(normed, X[:, :4])
    assert jnp.isfinite(agop(nf.nets.WithState(normed, state), X[:, :4])).all()


def test_a_function_written_out_in_a_call_names_the_same_layer_at_each_call():
    def named(i):
        return alignment(0.5, layer=lambda net: net.layers[i])

    assert named(0) == named(0)
    assert hash(named(0)) == hash(named(0))
    assert named(0) != named(1)
    assert alignment(0.5, layer=lambda net: net.layers[0]) != alignment(0.5, layer=lambda net: net.layers[1])
    unhashable = [0]
    assert alignment(0.5, layer=lambda net: net.layers[unhashable[0]]).layer is not None


def test_a_run_observed_at_a_layer_named_anew_compiles_once():
    net, data = MLP([4, 3, 2], key=KEYS[6], activation="tanh"), nf.Dataset(X[:, :4], X[:, :2])
    traced = []

    def count(prediction, target):
        traced.append(None)
        return 0.5 * jnp.sum((prediction - target) ** 2)

    def run(observe):
        traced.clear()
        nf.gradient_flow(net, data, 0.1, loss=count, observe=observe, save_at=[0.0, 0.1], solver=SOLVER, progress=False)
        return len(traced)

    def anew():
        return {"alignment": alignment(0.5, layer=lambda net: net.layers[0])}

    kept = anew()
    run(kept)
    assert run(anew()) == run(kept)  # what is checked at every call, and no more


def test_scanned_layers_are_measured_at_the_input_only():
    net = eqx.nn.MLP(4, 2, 5, 3, scan=True, key=KEYS[7])
    whole = jax.vmap(jax.jacfwd(net))(X[:, :4])
    brute = jnp.einsum("nca,ncb->ab", whole, whole) / len(X)
    assert relative(agop(net, X[:, :4]) - brute, brute) < EXACT
    with pytest.raises(ValueError, match="`layer` must be 1 for a MLP"):
        agop(net, X[:, :4], layer=2)


class Twice(eqx.Module):
    layer: eqx.nn.Linear

    def __call__(self, x):
        return self.layer(jnp.tanh(self.layer(x)))


SCANNED = eqx.nn.MLP(84, 2, 5, 3, scan=True, key=KEYS[7])
GROUPED = eqx.nn.Sequential([eqx.nn.Lambda(lambda x: x.reshape(2, 42)), eqx.nn.Conv1d(2, 2, 3, groups=2, key=KEYS[1])])


@pytest.mark.parametrize(
    ("net", "layer", "message"),
    [
        (Twice(eqx.nn.Linear(84, 84, key=KEYS[0])), lambda net: net.layer, "applies once to each sample, .* 2 times"),
        (ConvNet(), lambda net: net, "`layer` must be a function from the network to one of its `Linear`s or `Conv`s"),
        (ConvNet(), 2, "`layer` must be 1 for a ConvNet; name a deeper layer by a function"),
        (ConvNet(), "first", "`layer` must be a whole number of at least 1, but was 'first'"),
        (SCANNED, lambda net: net.layers[1], "`layer` must be one layer, not several stacked into one"),
        (GROUPED, 1, "`layer` must be a convolution that is not grouped, but was one of 2 groups"),
    ],
)
def test_a_layer_that_cannot_be_measured_is_refused(net, layer, message, no_type_checks):
    with pytest.raises(ValueError, match=message):
        agop(net, X, layer=layer)


def test_the_first_weights_of_a_module_of_unknown_order_have_to_be_named():
    for measure in (alignment(0.5), fit_exponent, nfm):
        with pytest.raises(ValueError, match="`layer` must be named by a function .* as a ConvNet may use any first"):
            measure(ConvNet(), X)


class Tokens(eqx.Module):
    embed: eqx.nn.Linear

    def __call__(self, x):
        return jnp.mean(jax.vmap(self.embed)(x.reshape(12, 7)), axis=0)


def test_a_layer_that_runs_over_many_inputs_within_the_network_is_refused():
    net = Tokens(eqx.nn.Linear(7, 3, key=KEYS[0]))
    with pytest.raises(ValueError, match="one that the network applies itself, but was one within its own"):
        agop(net, X, layer=lambda net: net.embed)


def test_the_change_of_weights_needs_weights():
    net = eqx.nn.Sequential([eqx.nn.Lambda(jnp.sin)])
    linear = Twice(eqx.nn.Linear(84, 84, key=KEYS[0]))
    with pytest.raises(ValueError, match="`layer` must be a layer with weights"):
        alignment(1.0, initial=linear, agop_of_change=True)(linear, X)
    with pytest.raises(ValueError, match="`net` must be a network with an"):
        alignment(1.0)(net, X)


class Residual(eqx.Module):
    """A block with a skip: its layer does not see all of its input."""

    linear: eqx.nn.Linear

    def __call__(self, x, *, key=None):
        return x + jnp.tanh(self.linear(x))


class OutOfOrder(eqx.Module):
    """Uses its second field first."""

    second: eqx.nn.Linear
    first: eqx.nn.Linear

    def __call__(self, x, *, key=None):
        return self.second(jnp.tanh(self.first(x)))


LINEARS = [eqx.nn.Linear(4, 4, key=key) for key in KEYS[4:]]
BLOCKS = {
    "residual": Residual(LINEARS[0]),
    "out of order": OutOfOrder(LINEARS[0], LINEARS[1]),
    "transposed convolution": eqx.nn.Sequential(
        [eqx.nn.Lambda(lambda x: x[None]), eqx.nn.ConvTranspose1d(1, 1, 1, key=KEYS[4]), eqx.nn.Lambda(jnp.ravel)]
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_sequence_of_blocks_of_unknown_order_is_measured_at_its_input(name):
    net, x = eqx.nn.Sequential([BLOCKS[name], LINEARS[2]]), X[:, :4]
    J = jax.vmap(jax.jacrev(net))(x)
    expected = jnp.einsum("nci,ncj->ij", J, J) / len(x)
    assert relative(agop(net, x) - expected, expected) < EXACT
    with pytest.raises(ValueError, match="`layer` must be 1 for a Sequential; name a deeper layer by a function"):
        agop(net, x, layer=2)


def test_a_sequence_of_layers_activations_norms_and_sequences_has_an_order():
    inner = eqx.nn.Sequential([eqx.nn.LayerNorm(4), LINEARS[1], eqx.nn.PReLU()])
    net = eqx.nn.Sequential([LINEARS[0], eqx.nn.Lambda(jnp.tanh), inner, eqx.nn.MLP(4, 2, 3, 1, key=KEYS[7])])
    np.testing.assert_array_equal(nfm(net, layer=2), LINEARS[1].weight.T @ LINEARS[1].weight)
    assert nfm(net, layer=4).shape == (3, 3)


def test_the_number_of_a_layer_may_be_of_numpy(no_type_checks):
    net = MLP([4, 3, 2], key=KEYS[4], activation="tanh")
    np.testing.assert_array_equal(agop(net, X[:, :4], layer=np.int64(2)), agop(net, X[:, :4], layer=2))
    assert alignment(0.5, layer=np.int64(2))(net, X[:, :4]) == alignment(0.5, layer=2)(net, X[:, :4])
