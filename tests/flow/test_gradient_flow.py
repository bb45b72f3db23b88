"""What `gradient_flow` promises besides the physics: agreement, statistics and options."""

import time

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import parameters, relative

import nfa_flow as nf
from nfa_flow.problem.objective import make_objective

QUIET = {"progress": False}


class Wrapped(eqx.Module):
    """A network that is not an `MLP` any more, so that its flow has to go through the samples."""

    net: nf.nets.MLP

    def __call__(self, x):
        return self.net(x)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_linear_nets_flow_alike_through_moments_and_samples(bias, weighted):
    data = nf.data.linear_teacher(30, 5, 3, key=jax.random.key(0), noise=0.2)
    if weighted:
        weight = np.random.default_rng(0).uniform(size=30)
        data = nf.Dataset(data.x, data.y + 1.0, weight / weight.sum())
    net = nf.nets.MLP([5, 4, 3, 3], key=jax.random.key(1), bias=bias)
    options = {"weight_decay": 0.02, "save_nets": True, "save_at": [0.1, 1.0, 5.0], "rtol": 1e-10, "atol": 1e-13}
    moments = nf.gradient_flow(net, data, 5.0, **options, **QUIET)
    samples = nf.gradient_flow(Wrapped(net), data, 5.0, **options, **QUIET)
    assert moments.stats["data_enters_as"] == "second moments"
    assert samples.stats["data_enters_as"] == "samples"
    np.testing.assert_allclose(moments.observed["loss"], samples.observed["loss"], rtol=1e-12)
    for a, b in zip(moments.nets.weights, samples.nets.net.weights, strict=True):
        assert relative(a - b, b) < 1e-12


@pytest.mark.parametrize("solver", [diffrax.Tsit5(), diffrax.Dopri8()], ids=["Tsit5", "Dopri8"])
def test_the_loop_makes_the_steps_that_diffrax_makes(net, data, solver):
    times = jnp.linspace(0.5, 10.0, 7)
    run = nf.gradient_flow(
        net, data, 10.0, solver=solver, rtol=1e-7, atol=1e-9, dt0=0.01, save_at=times, save_nets=True, **QUIET
    )
    theta, objective = make_objective(net, data, "mse", 0.0)
    term = diffrax.ODETerm(lambda t, y, args: jax.tree.map(jnp.negative, objective.gradient(y)))
    controller = diffrax.PIDController(rtol=1e-7, atol=1e-9, pcoeff=0.3, icoeff=0.4)
    reference = diffrax.diffeqsolve(
        term, solver, 0.0, 10.0, 0.01, theta, stepsize_controller=controller, saveat=diffrax.SaveAt(ts=times)
    )
    # diffrax keeps absolute times, this loop steps: rounding may move the last step by one.
    assert abs(run.stats["steps"] - int(reference.stats["num_steps"])) <= 1
    pairs = zip(jax.tree.leaves(eqx.filter(run.nets, eqx.is_inexact_array)), jax.tree.leaves(reference.ys), strict=True)
    for ours, theirs in pairs:
        assert relative(ours - theirs, theirs) < 1e-9


SOLVERS = [diffrax.Tsit5(), diffrax.Dopri8(), diffrax.Bosh3(), diffrax.Heun(), diffrax.Dopri5()]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
@pytest.mark.parametrize("stop", [(), nf.LossBelow(1e-3)], ids=["to the end", "stopped"])
def test_gradient_evaluations_are_counted_as_they_are_spent(solver, stop):
    calls = []

    def counting_loss(prediction, target):
        jax.debug.callback(lambda: calls.append(1))
        return 0.5 * jnp.sum((prediction - target) ** 2)

    one_sample = nf.Dataset(np.ones((1, 2)), np.ones((1, 1)))
    net = nf.nets.MLP([2, 3, 1], key=jax.random.key(0), activation="tanh")
    run = nf.gradient_flow(
        net,
        one_sample,
        20.0,
        loss=counting_loss,
        solver=solver,
        rtol=1e-5,
        dt0=3.0,  # far too long, so that steps are rejected before and after the first accepted one
        stop=stop,
        observe={"weight": lambda net, data: net.weights[0]},
        **QUIET,
    )
    jax.effects_barrier()
    assert run.stats["rejected"] > 0
    assert run.stats["gradient_evaluations"] == len(calls)


def test_choosing_the_first_step_costs_two_evaluations():
    one_sample = nf.Dataset(np.ones((1, 2)), np.ones((1, 1)))
    net = nf.nets.MLP([2, 3, 1], key=jax.random.key(0), activation="tanh")
    chosen = nf.gradient_flow(net, one_sample, 1.0, solver=diffrax.Tsit5(), **QUIET)
    assert chosen.stats["gradient_evaluations"] == 6 * chosen.stats["steps"] + 1 + 2


def test_counts_of_implicit_solvers_are_not_known(net, data):
    run = nf.gradient_flow(net, data, 2.0, solver=diffrax.Kvaerno3(), rtol=1e-5, atol=1e-7, **QUIET)
    explicit = nf.gradient_flow(net, data, 2.0, rtol=1e-9, **QUIET)
    assert run.stats["gradient_evaluations"] is None
    assert relative(parameters(run.net) - parameters(explicit.net), parameters(explicit.net)) < 1e-4


def test_the_loss_falls_by_the_squared_gradient_norm(net, data):
    """dℒ_total/dt = −‖∇ℒ_total‖², by central differences."""
    decay, step = 0.1, 1e-4
    theta, objective = make_objective(net, data, "mse", decay)

    def total(net, data):
        theta = eqx.filter(net, eqx.is_inexact_array)
        loss, gradient = objective.loss_and_gradient(theta)
        squares = [sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)) for tree in (theta, gradient)]
        return jnp.stack([loss + decay / 2 * squares[0], squares[1]])

    middles = np.array([0.5, 2.0, 8.0])
    times = (middles[:, None] + step * np.array([-1, 0, 1])).ravel()
    run = nf.gradient_flow(
        net, data, 9.0, weight_decay=decay, observe={"total": total}, save_at=times, rtol=1e-12, atol=1e-14, **QUIET
    )
    before, now, after = np.moveaxis(np.asarray(run.observed["total"]).reshape(3, 3, 2), 1, 0)
    # Central differences err by step² relative, and by rounding over step.
    np.testing.assert_allclose((after[:, 0] - before[:, 0]) / (2 * step), -now[:, 1], rtol=1e-6)


def test_euler_with_a_fixed_step_is_gradient_descent(net, data):
    import optax

    flow = nf.gradient_flow(net, data, 2.0, solver=diffrax.Euler(), dt0=0.125, **QUIET)
    descent = nf.gradient_descent(net, data, optax.sgd(0.125), 16, **QUIET)
    assert flow.stats["steps"] == flow.stats["gradient_evaluations"] == 16
    assert relative(parameters(flow.net) - parameters(descent.net), parameters(descent.net)) < 1e-14


def test_weights_count_samples(net, data):
    """A sample of double weight acts like two samples."""
    x, y = jnp.concatenate([data.x, data.x[:10]]), jnp.concatenate([data.y, data.y[:10]])
    weight = np.where(np.arange(40) < 10, 2, 1) / 50
    doubled = nf.gradient_flow(net, nf.Dataset(x, y), 3.0, **QUIET)
    weighted = nf.gradient_flow(net, nf.Dataset(data.x, data.y, weight), 3.0, **QUIET)
    assert relative(parameters(doubled.net) - parameters(weighted.net), parameters(doubled.net)) < 1e-12


def test_saved_networks_are_the_observed_ones(net, data):
    run = nf.gradient_flow(
        net, data, 3.0, observe={"nfm": nf.measure.nfm}, save_at=[0.0, 1.0, 3.0], save_nets=True, **QUIET
    )
    for i, expected in enumerate(run.observed["nfm"]):
        np.testing.assert_allclose(nf.measure.nfm(run.net_at(i)), expected, rtol=1e-12)
    np.testing.assert_array_equal(parameters(run.net_at(0)), parameters(net))
    np.testing.assert_array_equal(parameters(run.net_at(-1)), parameters(run.net))


def test_a_flow_goes_on_from_where_another_ended(net, data):
    tight = {"rtol": 1e-10, "atol": 1e-12}
    whole = nf.gradient_flow(net, data, 6.0, **tight, **QUIET)
    first = nf.gradient_flow(net, data, 2.5, **tight, **QUIET)
    second = nf.gradient_flow(first.net, data, 6.0, t0=first.end_time, **tight, **QUIET)
    assert float(second.times[0]) == 2.5
    assert relative(parameters(second.net) - parameters(whole.net), parameters(whole.net)) < 1e-8


def test_any_module_and_any_loss(data):
    module = eqx.nn.MLP(5, 1, 7, 2, activation=jax.nn.gelu, key=jax.random.key(0))

    def absolute(prediction, target):
        return jnp.sum(jnp.sqrt(1e-2 + (prediction - target) ** 2))

    observe = {
        "trace": lambda net, data: jnp.trace(nf.measure.agop(net, data)),
        "cosine": nf.measure.alignment(1 / 2),
        "loss": lambda net, data: nf.measure.loss(net, data, loss=absolute),
    }
    run = nf.gradient_flow(module, data, 5.0, loss=absolute, observe=observe, **QUIET)
    assert run.status == "completed"
    assert isinstance(run.net, eqx.nn.MLP)
    assert np.all(np.diff(run.observed["loss"]) < 0)
    assert np.all(np.isfinite(run.observed["cosine"]))


def test_cross_entropy_separates_classes():
    x = jax.random.normal(jax.random.key(0), (60, 4))
    data = nf.Dataset(x, jax.nn.one_hot((x[:, 0] > 0) * 1 + (x[:, 1] > 0), 3))
    net = nf.nets.MLP([4, 10, 3], key=jax.random.key(1), activation="tanh")
    run = nf.gradient_flow(net, data, 1000.0, loss="cross_entropy", **QUIET)
    accuracy = np.mean(np.argmax(jax.vmap(run.net)(x), axis=1) == np.argmax(data.y, axis=1))
    assert run.observed["loss"][-1] < 0.1 < run.observed["loss"][0]
    assert accuracy == 1


def test_without_observables_the_minimized_loss_is_recorded(net, data):
    run = nf.gradient_flow(net, data, 1.0, weight_decay=0.1, **QUIET)
    assert list(run.observed) == ["loss"]
    np.testing.assert_allclose(run.observed["loss"][-1], nf.measure.loss(run.net, data), rtol=1e-12)
    assert float(run.times[0]) == 0 and float(run.times[-1]) == 1 and len(run.times) == 61


def test_times_may_be_negative(net, data):
    shifted = nf.gradient_flow(net, data, -1.0, t0=-2.0, **QUIET)
    plain = nf.gradient_flow(net, data, 1.0, **QUIET)
    np.testing.assert_allclose(shifted.times, plain.times - 2, rtol=1e-12)
    np.testing.assert_allclose(shifted.observed["loss"], plain.observed["loss"], rtol=1e-9)


def test_progress_is_shown_on_stderr_and_nothing_on_stdout(net, data, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    nf.gradient_flow(net, data, 5.0, progress=True)
    shown = capfd.readouterr()
    assert "gradient flow to t = 5" in shown.err
    assert shown.out == ""


def test_slices_of_a_flow_do_not_change_it(net, data, monkeypatch):
    from nfa_flow.run import drive

    whole = nf.gradient_flow(net, data, 20.0, rtol=1e-8, **QUIET)
    monkeypatch.setattr(drive, "_FIRST_BUDGET", 1)
    monkeypatch.setattr(drive, "_SLICE_SECONDS", 0.0)
    sliced = nf.gradient_flow(net, data, 20.0, rtol=1e-8, **QUIET)
    np.testing.assert_array_equal(parameters(sliced.net), parameters(whole.net))
    np.testing.assert_array_equal(sliced.observed["loss"], whole.observed["loss"])


def test_seconds_include_compilation(net, data):
    began = time.perf_counter()
    run = nf.gradient_flow(net, data, 0.1, observe={"new": lambda net, data: net.weights[0]}, **QUIET)
    assert 0 < run.stats["seconds"] <= time.perf_counter() - began
