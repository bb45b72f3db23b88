"""Data that come in batches, are centered, or have so many outputs that they are probed at random."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import balanced_net, relative, with_random_biases

from nfa_flow import Dataset
from nfa_flow.measure import (
    agop,
    agop_estimate,
    agop_factor,
    alignment,
    balance,
    best_cosine,
    fit_exponent,
    head_matrix,
    loss,
    ntk_eigenvalues,
    null_alignment,
    on_change,
    preactivation_agop,
    spectrum,
)
from nfa_flow.nets import MLP

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (11, 4))
Y = jax.random.normal(jax.random.key(2), (11, 3))
NET = with_random_biases(MLP((4, 5, 6, 3), key=KEY, activation="tanh", bias=True))
EXACT = 1e-13
FORMS = {"gram": agop, "factor": lambda *a, **o: gram(agop_factor(*a, **o))}


def gram(F):
    return F.T @ F


def jacobians(net, x):
    return np.asarray(jax.vmap(jax.jacfwd(net))(x))


def batches():
    return iter([X[:4], Dataset(X[4:5], Y[4:5]), np.asarray(X[5:])])


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_batches_give_what_the_whole_gives(form, centered):
    whole = FORMS[form](NET, X, centered=centered, layer=2)
    assert relative(FORMS[form](NET, batches(), centered=centered, layer=2) - whole, whole) < EXACT


@pytest.mark.parametrize("form", FORMS)
def test_centering_subtracts_the_weighted_mean_over_all_samples_from_each_output(form):
    weight = jnp.arange(1.0, 12.0) / 66
    J = jacobians(NET, X)
    J = J - np.einsum("n,nca->ca", weight, J)
    brute = np.einsum("n,nca,ncb->ab", weight, J, J)
    for memory in (1, 1000, 2**25):
        value = FORMS[form](NET, Dataset(X, Y, weight), centered=True, memory=memory)
        assert relative(value - brute, brute) < 1e-12  # a difference of numbers ten times as large


def test_the_centered_factor_keeps_what_the_mean_would_drown():
    """The gradient of x ↦ 10⁹ x + sin x is 10⁹ + cos x: its variance is lost in the rounding of its square."""
    net = MLP((1, 2, 1), key=KEY, activation=lambda z: jnp.array([1.0, 0.0]) * z + jnp.array([0.0, 1.0]) * jnp.sin(z))
    net = net.with_weights([jnp.ones((2, 1)), jnp.array([[1e9, 1.0]])])
    F = agop_factor(net, X[:, :1], centered=True)
    np.testing.assert_allclose(jnp.sum(F**2), jnp.var(jnp.cos(X[:, 0])), rtol=1e-6)  # cos + 1e9 keeps 7 digits


def test_a_constant_jacobian_has_no_variance():
    net = balanced_net((4, 5, 3))
    np.testing.assert_array_equal(agop(net, X, centered=True), 0)
    np.testing.assert_array_equal(agop_factor(net, X, centered=True), 0)


def test_alignment_and_exponent_take_batches():
    np.testing.assert_allclose(alignment(0.4)(NET, batches()), alignment(0.4)(NET, X), rtol=1e-12)
    np.testing.assert_allclose(fit_exponent(NET, batches())[:4], fit_exponent(NET, X)[:4], rtol=1e-9)


def test_batches_of_one_size_compile_once(compilations):
    first, second = X[:4], X[4:8]
    agop(NET, iter([first, second]))
    compilations()
    agop(NET, iter([first, second, first]))
    assert compilations() == 0


def test_repeated_measurements_compile_nothing(compilations):
    other_net, other_x = jax.tree.map(lambda leaf: 2 * leaf, NET), X + 1
    for measure in (agop, agop_factor, preactivation_agop, alignment(0.3), alignment(1.0), fit_exponent):
        measure(NET, X)
        compilations()
        measure(other_net, other_x)
        assert compilations() == 0, measure


def test_the_small_form_is_the_agop_of_the_preactivation():
    W = NET.weights[1]
    K = preactivation_agop(NET, X, layer=2)
    assert K.shape == (6, 6)
    assert relative(W.T @ K @ W - agop(NET, X, layer=2), K) < EXACT
    for centered in (False, True):
        R = preactivation_agop(NET, X, layer=2, factor=True, centered=centered)
        assert relative(gram(R) - preactivation_agop(NET, X, layer=2, centered=centered), K) < EXACT


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_the_agop_of_the_loss_is_that_of_its_gradients(loss):
    data = Dataset(X, jax.nn.softmax(Y), jnp.arange(1.0, 12.0) / 66)
    value = {"mse": lambda p, y: jnp.sum((p - y) ** 2) / 2, "cross_entropy": lambda p, y: -y @ jax.nn.log_softmax(p)}
    g = jax.vmap(jax.grad(lambda x, y: value[loss](NET(x), y)))(data.x, data.y)
    brute = jnp.einsum("n,na,nb->ab", data.weight, g, g)
    assert relative(agop(NET, data, loss=loss) - brute, brute) < EXACT
    assert relative(gram(agop_factor(NET, data, loss=loss)) - brute, brute) < EXACT


def test_the_variance_of_equal_gradients_is_undefined_at_any_power():
    same = jnp.broadcast_to(X[0], X.shape)
    for power in (0.5, 1.0):
        assert jnp.isnan(alignment(power, centered=True)(NET, same))


def test_a_constant_gradient_of_any_sequential_network_has_an_undefined_variance():
    net = eqx.nn.Sequential([eqx.nn.Linear(4, 5, key=KEY), eqx.nn.Linear(5, 3, key=KEY)])
    for power in (0.5, 1.0):
        assert jnp.isnan(alignment(power, centered=True)(net, X))


def test_small_outputs_do_not_underflow():
    net = MLP((4, 5, 3), key=KEY, activation="tanh", dtype="float32")
    small = net.with_weights([net.weights[0], 1e-12 * net.weights[1]])
    x = X.astype("float32")
    np.testing.assert_allclose(alignment(1.0)(small, x), alignment(1.0)(net, x), rtol=1e-5)


def test_weights_of_zero_have_derivatives():
    weight = jnp.arange(11.0) / 55
    moved = lambda w: alignment(0.5)(NET, eqx.tree_at(lambda d: d.weight, Dataset(X, Y, weight), w))
    slope = jax.grad(moved)(weight)
    direction = jnp.arange(11.0) - 5.0
    direction = direction.at[0].set(0)
    step = (moved(weight + 1e-6 * direction) - moved(weight - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(slope @ direction, step, rtol=1e-6)


# ── Random probes ──

MANY = MLP((3, 4, 40), key=KEY, activation="tanh")


def test_the_estimate_is_unbiased_and_its_standard_error_true():
    exact, draws = agop(MANY, X[:, :3]), 400
    estimate = jax.vmap(lambda key: agop_estimate(MANY, X[:, :3], probes=4, key=key))(jax.random.split(KEY, draws))
    errors = jnp.linalg.norm(estimate.value - exact, axis=(1, 2))
    typical = jnp.sqrt(jnp.mean(errors**2))
    # The mean of 400 draws is twenty times as close; the size of the errors is known to some 1/√400 of itself.
    assert jnp.linalg.norm(jnp.mean(estimate.value, axis=0) - exact) < 3 * typical / np.sqrt(draws)
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(estimate.standard_error**2)), typical, rtol=4 / np.sqrt(draws))


def test_the_estimate_depends_on_the_key_but_not_on_the_chunks():
    estimates = [agop_estimate(MANY, X[:, :3], probes=3, key=KEY, memory=memory) for memory in (1, 2000, 2**25)]
    for other in estimates[1:]:
        assert relative(other.value - estimates[0].value, other.value) < EXACT
        np.testing.assert_allclose(other.standard_error, estimates[0].standard_error, rtol=1e-12)
    another = agop_estimate(MANY, X[:, :3], probes=3, key=jax.random.key(1))
    assert relative(another.value - estimates[0].value, another.value) > 1e-3


def test_one_output_needs_no_luck():
    net = MLP((4, 5, 1), key=KEY, activation="tanh")
    estimate = agop_estimate(net, X, probes=2, key=KEY)
    assert relative(estimate.value - agop(net, X), estimate.value) < EXACT
    assert estimate.standard_error < 1e-7


def test_a_convolution_can_be_probed():
    conv = eqx.nn.Conv1d(1, 2, 2, key=KEY)
    net = eqx.nn.Sequential([eqx.nn.Lambda(lambda x: x[None]), conv, eqx.nn.Lambda(lambda z: jnp.tanh(z).ravel() ** 2)])
    draws = 400
    estimate = jax.vmap(lambda key: agop_estimate(net, X, probes=2, key=key))(jax.random.split(KEY, draws))
    errors = jnp.linalg.norm(estimate.value - agop(net, X), axis=(1, 2))
    np.testing.assert_allclose(
        jnp.mean(estimate.standard_error**2), jnp.mean(errors**2), rtol=6 / np.sqrt(draws)
    )  # squares of errors scatter about one and a half times their mean


# ── Mistakes ──


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (iter([]), "`data` must be an iterable with at least one batch, but was empty"),
        (iter([Dataset(X, Y, jnp.full(11, 1 / 11))]), "batches without weights"),
        (jnp.ones((3, 4), int), "`data` must be an array of floating-point samples, but was of type int64"),
        (jnp.ones((3, 4), complex), "`data` must be an array of floating-point samples, but was of type complex128"),
        (
            jnp.ones(4),
            r"`data` must be samples in rows, with at least one of them and one input, but was of shape \(4,\)",
        ),
        (jnp.ones((0, 4)), "at least one of them"),
        (3.0, "`data` must be samples, a `Dataset`, or an iterable of batches of either, but was 3.0"),
    ],
    ids=["empty", "weighted", "integers", "complex", "vector", "no samples", "number"],
)
def test_samples_that_are_none_are_refused(x, message, no_type_checks):
    with pytest.raises(ValueError, match=message):
        agop(NET, x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: agop(NET, X, memory=0), "`memory` must be a finite number of at least 1, but was 0"),
        (lambda: agop(NET, X, loss="mse"), "`data` must be a `Dataset` .*, because the loss needs targets"),
        (lambda: agop(NET, Dataset(X, Y), loss="absolute"), "`loss` must be one of"),
        (lambda: agop(lambda x: x[0], X), "`net` must be a map from a sample to a vector of outputs"),
        (lambda: agop(lambda x: {"y": x}, X), "`net` must be a map from a sample to a vector of outputs"),
        (lambda: agop(lambda x: jnp.outer(x, x), X), r"to an array of shape \(4, 4\)"),
        (lambda: preactivation_agop(jnp.tanh, X), "`layer` must be a layer with weights"),
        (lambda: agop_estimate(MANY, X[:, :3], probes=1, key=KEY), "`probes` must be a whole number of at least 2"),
        (
            lambda: agop_estimate(MANY, iter([X]), probes=2, key=KEY),
            "`data` must be samples or a `Dataset`, all at once",
        ),
        (
            lambda: agop(NET, Dataset(X, Y[:, :1]), loss="mse"),
            "`net` must be a map to 1 output, like the data, but was",
        ),
        (lambda: loss(NET, Dataset(X, Y[:, :1])), "`net` must be a map to 1 output, like the data"),
        (lambda: agop(balanced_net((4, 3, 2)), X[:, :3]), r"`data` must be of 4 inputs, .* but was of shape \(11, 3\)"),
        (lambda: agop(NET, X[:, :3]), r"`data` must be of 4 inputs, like the network, but was of shape \(11, 3\)"),
        (
            lambda: agop(NET, X[:, :, None]),
            r"`data` must be of 4 inputs, like the network, but was of shape \(11, 4, 1\)",
        ),
        (lambda: agop(balanced_net((4, 3, 2)), iter([X, X[:, :3]])), r"but was of shape \(11, 3\)"),
        (lambda: agop(eqx.nn.MLP(4, 2, 3, 1, key=KEY), X[:, :3]), "`data` must be of 4 inputs, like the network"),
        (lambda: agop(NET, Dataset(X, Y), loss=lambda f, y: f), "`loss` must be a function with one scalar per sample"),
        (lambda: loss(NET, Dataset(X[:, :3], Y)), "`data` must be of 4 inputs, like the network"),
        (lambda: loss(NET, Dataset(X, Y), loss=lambda f, y: f), "`loss` must be a function with one scalar per sample"),
        (lambda: loss(NET, Dataset(X, Y), loss="cross_entropy"), "`data` must be of one-hot or probability targets"),
        (lambda: balance(MANY.layers[0]), "`net` must be an `nfa_flow.nets.MLP`, but was a Linear"),
        (lambda: alignment(1.0, initial=MANY)(NET, X), r"`initial` must be a network with a layer of shape \(5, 4\)"),
        (lambda: alignment(0.5, agop_of_change=True), "`initial` must be the network at the start"),
    ],
)
def test_a_wrong_argument_is_named(call, message, no_type_checks):
    with pytest.raises(ValueError, match=message):
        call()


def test_masked_samples_keys_and_arrays_for_names_are_refused_by_name(no_type_checks):
    masked = np.ma.masked_array(np.ones((5, 4)), mask=np.eye(5, 4))
    with pytest.raises(ValueError, match="`data` must be samples without a mask"):
        agop(NET, masked)
    with pytest.raises(ValueError, match="`metric` must be one of"):
        alignment(0.5, metric=np.ones(3))


@pytest.mark.parametrize(
    "measurement", [agop, best_cosine, fit_exponent, ntk_eigenvalues, spectrum, head_matrix, alignment(0.5)]
)
def test_samples_and_networks_are_named(measurement, no_type_checks):
    with pytest.raises(ValueError, match="`data` must be .*but was of shape"):
        measurement(NET, jnp.ones(3))
    for net in (np.ones(3), np.ma.masked_array([1.0, 2.0], [0, 1])):
        with pytest.raises(ValueError, match="`net` must be"):
            measurement(net, X)


def test_functions_that_raise_and_flags_that_are_none_are_named(no_type_checks):
    with pytest.raises(
        ValueError, match="`observable` must be a function .*raises ZeroDivisionError: division by zero"
    ):
        null_alignment(NET, X, lambda net, data: 1 / 0, key=KEY)
    with pytest.raises(ValueError, match="`untrained` must be .*raises TypeError"):
        null_alignment(NET, X, alignment(0.5), key=KEY, untrained=lambda: NET)
    with pytest.raises(ValueError, match="`centered` must be True or False"):
        agop(NET, X, centered=jnp.ones(3))
    with pytest.raises(ValueError, match="`initial` must be a network"):
        on_change(alignment(0.5), "start")
