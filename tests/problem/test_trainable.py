"""`trainable`: a part of a network is trained, and the rest is as constant as a number in its code."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flow.kinks.box_flow import BoxFlow
from jax.scipy.linalg import expm
from oracles import linear_net, relative

import nfa_flow as nf
from nfa_flow.flow.certify import with_parameter_error
from nfa_flow.flow.kinks.find import find_kinks
from nfa_flow.problem.objective import make_objective
from nfa_flow.sweep.identity.describe import describe
from nfa_flow.training import scale_layers

KEY = jax.random.key(0)
DATA = nf.data.linear_teacher(20, 3, 2, key=KEY, noise=0.1)
NET = nf.nets.MLP([3, 4, 2], key=jax.random.key(1), activation="tanh", bias=True)
SGD = optax.sgd(0.1)
QUIET = {"progress": False}


def except_first(net):
    """True for all arrays but those of the first layer."""
    return eqx.tree_at(lambda net: net.layers[0], jax.tree.map(lambda _: True, net), False)


FORMS = {
    "tree": jax.tree.map(lambda leaf: leaf.shape[0] == 2, NET),
    "tree that ends at branches": except_first(NET),
    "function": lambda leaf: leaf.shape[0] == 2,
    "tree of functions": eqx.tree_at(lambda net: net.layers, NET, (False, eqx.is_inexact_array)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_filter_of_equinox_selects_the_parameters(form):
    parameters, objective = make_objective(NET, DATA, "mse", 0.0, trainable=FORMS[form])
    assert [leaf.shape for leaf in jax.tree.leaves(parameters)] == [(2, 4), (2,)]
    assert jax.tree.all(jax.tree.map(np.array_equal, objective.net(parameters), NET))
    assert jax.tree.all(jax.tree.map(np.array_equal, eqx.filter(NET, objective.trainable), parameters))


class Stopped(eqx.Module):
    net: nf.nets.MLP

    def __call__(self, x):
        return eqx.tree_at(lambda net: net.layers[0], self.net, replace_fn=jax.lax.stop_gradient)(x)


def by_flow(net, **options):
    sharpness, rates = nf.measure.Sharpness(), eqx.Partial(nf.measure.ntk_eigenvalues, count=3)
    observe = {"loss": nf.measure.loss, "sharpness": sharpness, "rates": rates}
    return nf.gradient_flow(net, DATA, 10.0, weight_decay=0.1, observe=observe, **QUIET, **options)


def by_adamw(net, **options):
    options = {"batch_size": 6, "key": KEY, "weight_decay": 0.1, "time_per_step": 0.1} | QUIET | options
    return nf.gradient_descent(net, DATA, optax.adamw(0.1, weight_decay=0.1), 9, **options)


@pytest.mark.parametrize("train", [by_flow, by_adamw])
def test_a_frozen_layer_is_a_layer_behind_stop_gradient(train):
    run, stopped = train(NET, trainable=except_first(NET)), train(Stopped(NET))
    assert (run.stats["frozen"], stopped.stats["frozen"]) == ("layers.0", "net.layers.0")
    for name, values in run.observed.items():
        np.testing.assert_allclose(values, stopped.observed[name], rtol=1e-14)
    for ours, theirs in zip(jax.tree.leaves(run.net), jax.tree.leaves(stopped.net), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)
    np.testing.assert_array_equal(run.net.layers[0].weight, NET.layers[0].weight)
    assert run.stats["steps"] == stopped.stats["steps"]


def test_above_a_frozen_linear_layer_the_flow_is_that_of_a_regression():
    """dW/dt = −m(W A − B) with A = V S_xx Vᵀ + λ, B = S_yx Vᵀ; the Hessian is A for each output, the NTK A − λ."""
    rng = np.random.default_rng(0)
    V, W, m, decay = rng.normal(size=(4, 3)), rng.normal(size=(2, 4)), 0.5, 0.2
    kernel = V @ np.asarray(DATA.S_xx) @ V.T
    A, B = kernel + decay * np.eye(4), np.asarray(DATA.S_xy).T @ V.T
    net, observe = (
        linear_net([V, W]),
        {
            "hessian": nf.measure.HessianEigenvalues(4, rtol=1e-8),
            "ntk": eqx.Partial(nf.measure.ntk_eigenvalues, count=4),
        },
    )
    options = {"mobility": (7.0, m), "weight_decay": decay, "observe": observe, "rtol": 1e-9} | QUIET
    run = nf.gradient_flow(net, DATA, 3.0, trainable=except_first(net), **options)
    assert run.stats["data_enters_as"] == "second moments"
    limit = B @ np.linalg.inv(A)
    expected = limit + (W - limit) @ expm(-3.0 * m * A)
    assert relative(run.net.weights[1] - expected, expected) < 1e-8
    of = lambda matrix: np.repeat(np.linalg.eigvalsh(matrix)[::-1], 2)[:4]
    np.testing.assert_allclose(run.observed["hessian"], np.broadcast_to(m * of(A), (61, 4)), rtol=1e-7)
    np.testing.assert_allclose(run.observed["ntk"], np.broadcast_to(m * of(kernel), (61, 4)), rtol=1e-5)


def test_measurements_by_hand_take_the_same_filter():
    trainable = except_first(NET)
    J = jax.vmap(lambda x: jax.jacobian(lambda layer: eqx.tree_at(lambda n: n.layers[1], NET, layer)(x))(NET.layers[1]))
    J = np.concatenate([np.asarray(leaf).reshape(40, -1) for leaf in jax.tree.leaves(J(DATA.x))], axis=1)
    np.testing.assert_allclose(nf.measure.ntk(NET, DATA, trainable=trainable), J @ J.T, rtol=1e-12, atol=1e-14)
    gauss_newton = np.linalg.eigvalsh(J.T @ J / 20)[::-1]  # the Hessian, as the last layer is linear
    found = nf.measure.HessianEigenvalues(3)(NET, DATA, trainable=trainable, weight_decay=0.1)
    np.testing.assert_allclose(found, gauss_newton[:3] + 0.1, rtol=1e-3)


def descend(net=NET, optimizer=SGD, **options):
    options = {"trainable": except_first(NET), "save_at": [0, 2], "save_nets": True} | QUIET | options
    return nf.gradient_descent(net, DATA, optimizer, 2, **options)


def test_the_networks_of_a_run_and_its_store_have_the_frozen_arrays(tmp_path):
    run = descend()
    read = nf.Trajectory.load(run.save(tmp_path / "run.zarr"))
    assert read.stats["frozen"] == "layers.0"
    for each in (run, read):
        assert [leaf.shape for leaf in jax.tree.leaves(each.nets)] == [(2, 4, 3), (2, 4), (2, 2, 4), (2, 2)]
        assert jax.tree.all(jax.tree.map(np.array_equal, each.net_at(1), run.net))
        np.testing.assert_array_equal(each.net_at(0).layers[0].weight, NET.layers[0].weight)
    assert "frozen" not in descend(trainable=None).stats


def test_a_second_call_with_an_equal_filter_compiles_nothing(compilations):
    descend()
    compilations()
    descend()
    assert compilations() == 0


def test_a_part_is_trained_in_lockstep_and_in_sweeps_as_alone():
    scaled = lambda scale: NET.with_weights([scale * W for W in NET.weights])
    scales = np.array([0.5, 1.0])
    nets = jax.vmap(lambda scale: descend(scaled(scale)).net)(scales)
    sweep = nf.sweep(lambda key, scale: descend(scaled(scale)), nf.Grid(scale=scales, seed=[0]), progress=False)
    for i, scale in enumerate(scales):
        alone = descend(scaled(scale))
        np.testing.assert_allclose(nets.weights[1][i], alone.net.weights[1], rtol=1e-14)
        np.testing.assert_array_equal(nets.weights[0][i], scale * NET.weights[0])
        np.testing.assert_allclose(sweep["loss"].sel(scale=scale, seed=0), alone.observed["loss"], rtol=1e-14)
    assert sweep.attrs["frozen"] == "layers.0"


def test_the_filter_is_part_of_what_a_sweep_is():
    def of(trainable):
        return describe(lambda key: nf.gradient_descent(NET, DATA, SGD, 2, trainable=trainable))

    every = jax.tree.map(lambda _: True, NET)
    assert of(except_first(NET)) == of(except_first(NET)) != of(every)


@pytest.mark.parametrize(("frozen", "has_law"), [(0, True), (1, False)])
def test_balance_is_certified_between_layers_that_move(frozen, has_law):
    net = nf.nets.MLP([3, 3, 3, 2], key=KEY)
    trainable = eqx.tree_at(lambda net: net.layers[frozen], jax.tree.map(lambda _: True, net), False)
    run = nf.gradient_flow(net, DATA, 1.0, trainable=trainable, certify=True, save_at=[1.0], **QUIET)
    assert ("balance_error" in run.observed) == has_law
    assert all(error < 1e-5 for name, values in run.observed.items() if name.endswith("error") for error in values)
    assert run.nets is None


def test_the_error_of_the_parameters_is_that_of_the_trained_ones():
    run = descend()
    of_layer = lambda run: [
        array for net in (run.nets, run.net) for array in (net.layers[1].weight, net.layers[1].bias)
    ]
    other = eqx.tree_at(of_layer, run, replace_fn=lambda array: 1.5 * array)
    before = jnp.asarray(-1.0)  # the start, at which the error is zero, is none of the times here
    error = with_parameter_error(run, other, except_first(NET), before).observed["parameter_error"]
    np.testing.assert_allclose(error, 1 / 3, rtol=1e-14)


RELU = [eqx.nn.Linear(3, 4, key=KEY), eqx.nn.Lambda(jax.nn.relu), eqx.nn.Linear(4, 2, key=KEY)]
SOFTMAX = eqx.nn.Sequential([*RELU, eqx.nn.Lambda(jax.nn.softmax)])


@pytest.mark.parametrize("net", [nf.nets.MLP([3, 4, 2], key=KEY, activation="relu"), SOFTMAX])
def test_random_features_with_kinks_have_a_smooth_flow(net):
    def of(trainable):
        return find_kinks(net, DATA, "mse", make_objective(net, DATA, "mse", 0.0, trainable=trainable)[0])

    assert of(None) == of(lambda leaf: eqx.is_array(leaf) and leaf.shape == (4, 3)) == "network"
    assert of(lambda leaf: eqx.is_array(leaf) and leaf.shape == (2, 4)) is None


def test_the_flow_across_kinks_locates_those_that_move():
    """Behind a frozen layer it is the flow of two layers on what that layer sends them."""
    net = nf.nets.MLP([3, 4, 4, 1], key=KEY, activation="relu")
    data = nf.Dataset(DATA.x, DATA.y[:, :1])
    options = {"trainable": except_first(net), "rtol": 1e-9, "save_at": [3.0]} | QUIET
    run = nf.gradient_flow(net, data, 3.0, **options)
    assert run.stats["solver"] == "Piecewise" and run.stats["crossings"] > 0
    first, *rest = map(np.asarray, net.weights)
    exact = BoxFlow(np.maximum(data.x @ first.T, 0), np.asarray(data.y), 0.0, 1.0).run(rest, 3.0)
    assert relative(np.concatenate([np.ravel(W) for W in run.net.weights[1:]]) - exact, exact) < 1e-8
    np.testing.assert_array_equal(run.net.weights[0], first)


def test_the_rates_of_a_parametrization_are_those_of_the_layers_that_move():
    net = nf.nets.MLP([3, 4, 5, 2], key=KEY, activation="tanh", bias=True, parametrization="Spectral")
    optimizer = optax.chain(SGD, nf.nets.scale_by_parametrization())
    after = lambda trainable: (
        nf.gradient_descent(net, DATA, optimizer, 1, time_per_step=0.1, trainable=trainable, **QUIET).net
    )
    part, whole = after(except_first(net)), after(None)
    assert jax.tree.all(jax.tree.map(np.array_equal, part.layers[0], net.layers[0]))
    for ours, theirs in zip(jax.tree.leaves(part.layers[1:]), jax.tree.leaves(whole.layers[1:]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)


def test_the_factors_of_layers_do_not_matter_where_a_layer_is_frozen():
    optimizer = optax.chain(SGD, scale_layers((5.0, 0.0)))
    after = descend(trainable=except_first(NET), optimizer=optimizer, time_per_step=0.1).net
    assert jax.tree.all(jax.tree.map(np.array_equal, after.weights, NET.weights))


def test_a_frozen_layer_may_have_another_dtype():
    net = eqx.tree_at(lambda net: net.layers[0], NET, replace_fn=lambda layer: jax.tree.map(jnp.float32, layer))
    run = descend(net)
    assert run.net.weights[0].dtype == np.float32 and run.net.weights[1].dtype == np.float64
    np.testing.assert_allclose(run.observed["loss"], descend().observed["loss"], rtol=1e-6)


class Tied(eqx.Module):
    """V tanh(W tanh(W x)), with one W in two layers."""

    shared: eqx.nn.Shared
    head: eqx.nn.Linear

    def __init__(self, key):
        layers = eqx.nn.Linear(3, 3, use_bias=False, key=key), eqx.nn.Linear(3, 3, use_bias=False, key=key)
        self.shared = eqx.nn.Shared(layers, lambda pair: pair[1].weight, lambda pair: pair[0].weight)
        self.head = eqx.nn.Linear(3, 2, use_bias=False, key=KEY)

    def __call__(self, x):
        first, second = self.shared()
        return self.head(jnp.tanh(second(jnp.tanh(first(x)))))


def test_tied_weights_are_one_array_that_is_selected_and_measured_by_name():
    net, tied = Tied(jax.random.key(2)), lambda net: net.shared.pytree[0]
    only_tied = eqx.tree_at(lambda net: net.head, jax.tree.map(lambda _: True, net), False)
    observe = {"nfm": eqx.Partial(nf.measure.nfm, layer=tied), "agop": eqx.Partial(nf.measure.agop, layer=tied)}
    run = nf.gradient_descent(net, DATA, SGD, 1, trainable=only_tied, observe=observe, **QUIET)
    W = tied(run.net).weight
    first, second = run.net.shared()
    np.testing.assert_array_equal(first.weight, second.weight)
    np.testing.assert_array_equal(run.net.head.weight, net.head.weight)
    assert np.abs(W - tied(net).weight).min() > 0
    np.testing.assert_allclose(run.observed["nfm"][-1], W.T @ W, rtol=1e-14)
    slope = lambda x: jax.jacobian(lambda h: run.net.head(jnp.tanh(second(jnp.tanh(h)))))(W @ x) @ W
    J = jax.vmap(slope)(DATA.x)
    np.testing.assert_allclose(run.observed["agop"][-1], np.einsum("ica,icb->ab", J, J) / 20, rtol=1e-12)


class Lookup(eqx.Module):
    """x → (W + stop(V)) x[order]."""

    W: jax.Array
    V: jax.Array
    order: jax.Array

    def __call__(self, x):
        return (self.W + jax.lax.stop_gradient(self.V)) @ x[self.order]


LOOKUP = Lookup(jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.array([2, 0, 1]))


@pytest.mark.parametrize(
    ("trainable", "must_be"),
    [
        (lambda leaf: False, "a selection of at least one array on which the loss depends, but was one of none"),
        (
            Lookup(False, True, False),
            "a selection of at least one array on which the loss depends, but was one of none",
        ),
        ([True, False], "a function of leaves, or a tree of True and False in the structure of `net`"),
        (LOOKUP, "a function of leaves, or a tree of True and False"),
        ("weight", "a function of leaves, or a tree of True and False"),
        (lambda leaf: leaf.nothing, "a function of leaves, .* but was one that raises AttributeError: "),
        (lambda leaf: True, "a selection of floating-point arrays .* but was one with order, of type int"),
    ],
)
def test_filters_that_select_no_parameters_are_refused(trainable, must_be):
    with pytest.raises(ValueError, match=f"`trainable` must be {must_be}"):
        nf.gradient_descent(LOOKUP, DATA, SGD, 1, trainable=trainable, **QUIET)


def test_a_network_without_an_array_that_the_loss_depends_on_is_refused():
    stopped = eqx.nn.Lambda(lambda x: x[:2] + jax.lax.stop_gradient(LOOKUP.W @ x))
    with pytest.raises(ValueError, match="`net` must be an Equinox module with floating-point parameters"):
        nf.gradient_flow(stopped, DATA, 1.0, **QUIET)
