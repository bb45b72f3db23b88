"""`TotalLoss`: any function of the network and the data is minimized, as the mean over samples is, which is one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nfa_flow as nf
from nfa_flow.flow.kinks.find import find_kinks
from nfa_flow.flow.kinks.pieces import count_kinks
from nfa_flow.flow.solvers.choice import choose_solver
from nfa_flow.problem.objective import make_objective

KEY = jax.random.key(0)
DATA = nf.data.linear_teacher(20, 3, 2, key=KEY, noise=0.1)
NET = nf.nets.MLP([3, 4, 2], key=jax.random.key(1), activation="tanh")
LINEAR = nf.nets.MLP([3, 2], key=jax.random.key(1))
QUIET = {"progress": False}
SGD = optax.sgd(0.1)


def squared(prediction, target):
    return 0.5 * jnp.sum((prediction - target) ** 2)


def mean_squared(net, data):
    return jnp.mean(jax.vmap(squared)(jax.vmap(net)(data.x), data.y))


def agop_regularized(net, data, strength):
    """The trace of AGOP, a mean over samples of squared Jacobians, is not a loss of predictions."""
    return mean_squared(net, data) + strength / 2 * jnp.trace(nf.measure.agop(net, data))


def by_flow(loss, net=NET, **options):
    observe = {"loss": nf.measure.loss, "sharpness": nf.measure.Sharpness()}
    return nf.gradient_flow(net, DATA, 5.0, loss=loss, **({"observe": observe, "weight_decay": 0.1} | QUIET | options))


def by_adamw(loss):
    options = {"batch_size": 6, "key": KEY, "weight_decay": 0.1, "time_per_step": 0.1} | QUIET
    return nf.gradient_descent(NET, DATA, optax.adamw(0.1, weight_decay=0.1), 9, loss=loss, **options)


@pytest.mark.parametrize("train", [by_flow, by_adamw])
def test_the_mean_over_samples_is_one_of_all_functions(train):
    ours, theirs = train(nf.TotalLoss(mean_squared)), train(squared)
    for name, values in ours.observed.items():
        np.testing.assert_allclose(values, theirs.observed[name], rtol=1e-13)
    for W, V in zip(ours.net.weights, theirs.net.weights, strict=True):
        np.testing.assert_allclose(W, V, rtol=1e-13)
    assert ours.stats["steps"] == theirs.stats["steps"]


def test_the_trace_of_agop_of_one_linear_layer_is_weight_decay():
    """tr(WᵀW) = ‖W‖²."""
    tight = {"rtol": 1e-9, "observe": {"sharpness": nf.measure.Sharpness(1e-6)}}
    loss = nf.TotalLoss(eqx.Partial(agop_regularized, strength=jnp.asarray(0.3)))
    ours, theirs = by_flow(loss, LINEAR, weight_decay=0.0, **tight), by_flow("mse", LINEAR, weight_decay=0.3, **tight)
    np.testing.assert_allclose(ours.net.weights[0], theirs.net.weights[0], rtol=1e-8)
    np.testing.assert_allclose(ours.observed["sharpness"], theirs.observed["sharpness"], rtol=1e-6)


def descend(strength, net=NET, **options):
    loss = nf.TotalLoss(eqx.Partial(agop_regularized, strength=strength))
    return nf.gradient_descent(net, DATA, SGD, 3, loss=loss, **(QUIET | options))


def test_numbers_of_a_total_loss_are_axes_of_sweeps_and_compile_nothing_again(compilations):
    strengths = jnp.array([0.1, 0.5])
    other = jnp.asarray(0.7, strengths.dtype)
    alone = [descend(strength).observed["loss"] for strength in strengths]
    compilations()
    descend(other)
    assert compilations() == 0
    together = jax.vmap(lambda strength: descend(strength).observed["loss"])(strengths)
    grid = nf.Grid(strength=np.asarray(strengths), seed=[0])
    sweep = nf.sweep(lambda key, strength: descend(strength), grid, progress=False)
    for i, losses in enumerate(alone):
        np.testing.assert_allclose(together[i], losses, rtol=1e-13)
        np.testing.assert_allclose(sweep["loss"].sel(seed=0)[i], losses, rtol=1e-13)


def test_the_loss_that_is_measured_is_the_one_that_is_minimized():
    loss = nf.TotalLoss(eqx.Partial(agop_regularized, strength=jnp.asarray(0.3)))
    run = descend(0.3, observe={"own": nf.measure.loss, "other": eqx.Partial(nf.measure.loss, loss="mse")})
    np.testing.assert_array_equal(run.observed["own"], descend(0.3).observed["loss"])
    assert float(run.observed["own"][-1]) == pytest.approx(float(nf.measure.loss(run.net, DATA, loss=loss)), rel=1e-14)
    assert float(run.observed["other"][0]) == pytest.approx(float(nf.measure.loss(NET, DATA)), rel=1e-14)
    by_hand = nf.measure.Sharpness(1e-6)(NET, DATA, loss=loss, weight_decay=0.1)
    net_of = lambda theta: NET.with_weights([theta[:12].reshape(4, 3), theta[12:].reshape(2, 4)])
    hessian = jax.hessian(lambda theta: loss(net_of(theta), DATA))
    largest = np.linalg.eigvalsh(hessian(jnp.concatenate([W.ravel() for W in NET.weights])))[-1]
    assert float(by_hand) == pytest.approx(largest + 0.1, rel=1e-5)


def test_a_network_may_be_any_tree_that_the_function_takes(tmp_path):
    """θ of a ridge regression in a dictionary, with its data kept aside; the flow tends to the solution."""
    net = {"slope": jnp.zeros((3, 2)), "name": "ridge"}
    total = nf.TotalLoss(lambda net, data: 0.5 * jnp.mean(jnp.sum((data.x @ net["slope"] - data.y) ** 2, axis=1)))
    run = nf.gradient_flow(net, DATA, 300.0, loss=total, weight_decay=0.1, rtol=1e-9, **QUIET)
    solution = np.linalg.solve(DATA.S_xx + 0.1 * np.eye(3), DATA.S_xy)
    np.testing.assert_allclose(run.net["slope"], solution, rtol=1e-8)
    read = nf.Trajectory.load(run.save(tmp_path / "run.zarr"), like=net)
    np.testing.assert_array_equal(read.net["slope"], run.net["slope"])


def normalized(net, data):
    """Features with mean 0 and variance 1 over all samples, as batch normalization over the full batch makes them."""
    z = jax.vmap(net.layers[0])(data.x)
    h = jnp.tanh((z - jnp.mean(z, axis=0)) / jnp.std(z, axis=0))
    return jnp.mean(jax.vmap(squared)(jax.vmap(net.layers[1])(h), data.y))


def test_flows_of_whole_batches_obey_their_laws():
    """The loss does not depend on the norms of rows of W that are normalized, so each norm is conserved."""
    run = by_flow(nf.TotalLoss(normalized), weight_decay=0.0, certify=True, rtol=1e-8, observe={}, save_at=[5.0])
    norms = lambda net: np.linalg.norm(net.weights[0], axis=1)
    np.testing.assert_allclose(norms(run.net), norms(NET), rtol=1e-7)
    assert run.observed["loss_identity_error"] < 1e-7
    assert run.observed["parameter_error"] < 1e-7
    assert "balance_error" not in run.observed


KINKED = nf.nets.MLP([3, 4, 2], key=KEY, activation="relu")
WHOLE = jnp.eye(20)


@pytest.mark.parametrize(
    ("net", "function", "where"),
    [
        (NET, mean_squared, None),
        (NET, lambda net, data: jnp.mean(optax.softmax_cross_entropy(jax.vmap(net)(data.x), data.y)), None),
        (NET, lambda net, data: jnp.sum((WHOLE @ jax.vmap(net)(data.x) - data.y) ** 2), None),
        (KINKED, mean_squared, "network"),
        (NET, lambda net, data: mean_squared(net, data) + jnp.sum(jnp.abs(net.weights[0])), "total loss"),
        (NET, lambda net, data: jnp.sum(jnp.abs(WHOLE @ jax.vmap(net)(data.x) - data.y)), "total loss"),
        (NET, normalized, None),
    ],
)
def test_kinks_of_a_total_loss_are_found(net, function, where):
    loss = nf.TotalLoss(function)
    parameters, objective = make_objective(net, DATA, loss, 0.0)
    assert find_kinks(net, DATA, loss, parameters) == where
    if where is not None:
        solver, reason = choose_solver(np.float64, 100, where, count_kinks(objective, parameters))
        assert isinstance(solver, nf.flow.TSRKC3)
        assert reason == "kinks in a `TotalLoss`: trajectory accuracy is not certified across them"


def test_kinks_in_a_total_loss_are_not_for_piecewise():
    with pytest.raises(ValueError, match="`solver` must be another one for kinks in a `TotalLoss`"):
        by_flow(nf.TotalLoss(mean_squared), KINKED, solver=nf.flow.Piecewise())


@pytest.mark.parametrize(
    ("function", "was"),
    [
        (lambda net, data: jax.vmap(net)(data.x)[:, 0], r"result is one real number, but was .*shape=\(20,\)"),
        (lambda net, data: jnp.sum(net.weights[0], keepdims=True), r"one real number, but was .*shape=\(1, 1\)"),
        (lambda net, data: (jnp.zeros(()), jnp.zeros(())), "one real number, but was "),
        (lambda net, data: 1.0, "one real number, but was 1.0"),
        (lambda net, data: jnp.sum(data.x > 0), "one real number, but was .*int"),
        (lambda net, data: mean_squared(net, data) + 0j, "one real number, but was .*complex"),
        (lambda net: jnp.zeros(()), r"a function of this network and Dataset\(20 samples, .* raises TypeError"),
        (lambda net, data: jnp.sum(jnp.eye(7) @ data.x), r"this network and Dataset\(20 .* raises TypeError"),
    ],
)
def test_functions_that_are_no_total_loss_are_refused(function, was, no_type_checks):
    with pytest.raises(ValueError, match=f"`loss` must be a `TotalLoss` of .*{was}"):
        by_flow(nf.TotalLoss(function))


def test_what_cannot_be_a_total_loss_is_named(no_type_checks):
    with pytest.raises(ValueError, match=r"`function` must be a function \(net, data\) -> scalar, but was 'mse'"):
        nf.TotalLoss("mse")
    only_whole = nf.TotalLoss(lambda net, data: jnp.sum((WHOLE @ jax.vmap(net)(data.x) - data.y) ** 2))
    with pytest.raises(ValueError, match="`loss` must be a `TotalLoss` of a function of this network and Dataset.*"):
        nf.gradient_descent(NET, DATA, SGD, 3, batch_size=6, key=KEY, loss=only_whole, **QUIET)
    for measure in (nf.measure.fact, nf.measure.crh, nf.measure.enfa()):
        with pytest.raises(ValueError, match="`loss` must be one of single samples for this measurement"):
            descend(0.3, observe={"measure": measure}, weight_decay=0.1)
    with pytest.raises(ValueError, match="`loss` must be one of single samples for this measurement"):
        nf.measure.agop(NET, DATA, loss=only_whole)
    nothing = nf.TotalLoss(lambda net, data: jnp.sum(data.x))
    with pytest.raises(ValueError, match="`net` must be an Equinox module with floating-point parameters"):
        by_flow(nothing)
