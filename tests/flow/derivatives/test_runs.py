"""Derivatives of runs as programs: blocks of the path, batches, sweeps, failures, kinks, and what is refused."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow.flow.derivatives import path

QUIET = {"progress": False}
X = jax.random.normal(jax.random.key(0), (12, 3))
DATA = nf.Dataset(X, jnp.sin(X[:, :1]) + 0.3 * X[:, 1:2])
TANH = nf.nets.MLP([3, 4, 1], key=jax.random.key(3), activation="tanh")
RELU = nf.nets.MLP([3, 4, 1], key=jax.random.key(2), activation="relu")


def scaled(net, sigma):
    return net.with_weights([sigma * W for W in net.weights])


def tanh_loss(sigma, decay=0.0, rtol=1e-8, **options):
    """At t = 1 and 5."""
    options = {"solver": diffrax.Tsit5(), "save_at": [1.0, 5.0], "rtol": rtol, **QUIET, **options}
    return nf.gradient_flow(scaled(TANH, sigma), DATA, 5.0, weight_decay=decay, **options).observed["loss"]


def difference(function, x, h=1e-3):
    """A central difference of order four: its error is of the size of h⁴, and of the errors of the values over h."""
    near, far = (function(x + k * h) - function(x - k * h) for k in (1, 2))
    return (8 * near - far) / (12 * h)


def test_a_network_against_finite_differences():
    """Through a whole run outside of `jax.jit`, with the solver that is the default."""
    total = lambda sigma, decay, rtol: jnp.sum(tanh_loss(sigma, decay, rtol, solver=None))
    found = jax.grad(total, argnums=(0, 1))(1.1, 0.01, 1e-8)
    np.testing.assert_allclose(found[0], difference(lambda s: total(s, 0.01, 1e-11), 1.1), rtol=1e-6)
    np.testing.assert_allclose(found[1], difference(lambda d: total(1.1, d, 1e-11), 0.01), rtol=1e-6)


def test_errors_at_loose_tolerances():
    """Each relative to the whole derivative with respect to the data, their weights, the decay, or the scale."""

    def last(at, rtol):
        net, data = scaled(TANH, at["scale"]), nf.Dataset(at["x"], DATA.y, weight=at["weight"])
        run = nf.gradient_flow(net, data, 5.0, weight_decay=at["decay"], save_at=[5.0], rtol=rtol, **QUIET)
        return run.observed["loss"][-1]

    slope = jax.jit(jax.grad(last))
    at = {"scale": 1.1, "x": X, "weight": jnp.full(12, 1 / 12), "decay": 0.01}
    exact = slope(at, 1e-10)
    for rtol in (1e-4, 1e-6):
        for name, found in slope(at, rtol).items():
            error = jnp.linalg.norm(jnp.ravel(found - exact[name])) / jnp.linalg.norm(jnp.ravel(exact[name]))
            assert error < 10 * rtol, name


@pytest.mark.parametrize("solver", [nf.flow.RKC2(), diffrax.Kvaerno5()], ids=["RKC2", "Kvaerno5"])
def test_other_solvers(solver):
    last = lambda sigma, solver, rtol: tanh_loss(sigma, solver=solver, rtol=rtol)[-1]
    exact = difference(lambda sigma: last(sigma, diffrax.Tsit5(), 1e-11), 1.1)
    np.testing.assert_allclose(jax.grad(last)(1.1, solver, 1e-6), exact, rtol=1e-5)


def test_class_labels():
    net, labels = nf.nets.MLP([3, 4, 2], key=jax.random.key(3), activation="tanh"), jnp.asarray(X[:, 0] > 0, int)

    def last(decay, rtol=1e-8):
        options = {"loss": "cross_entropy", "weight_decay": decay, "save_at": [5.0], "rtol": rtol, **QUIET}
        return nf.gradient_flow(net, nf.Dataset(X, labels), 5.0, **options).observed["loss"][-1]

    np.testing.assert_allclose(jax.grad(last)(0.01), difference(lambda decay: last(decay, 1e-11), 0.01), rtol=1e-6)


class Pulled(eqx.Module):
    strength: jax.Array

    def __call__(self, net, data):
        return nf.measure.loss(net, data) + self.strength @ jnp.sum(net.weights[0] ** 2, axis=1)


def test_arrays_of_a_total_loss():
    def last(strength, rtol=1e-8):
        loss = nf.TotalLoss(Pulled(strength * jnp.arange(4.0)))
        observe = {"plain": nf.measure.loss}
        run = nf.gradient_flow(TANH, DATA, 5.0, loss=loss, observe=observe, save_at=[5.0], rtol=rtol, **QUIET)
        return run.observed["plain"][-1]

    np.testing.assert_allclose(jax.grad(last)(0.01), difference(lambda s: last(s, 1e-11), 0.01, 1e-4), rtol=1e-6)


@pytest.mark.parametrize("options", [{"atol": 1e-9}, {"solver": diffrax.Euler(), "dt0": 0.05}], ids=["atol", "Euler"])
def test_what_only_the_start_depends_on(options):
    """Outside of `jax.jit`, where nothing but the network is traced."""
    last = lambda sigma: tanh_loss(sigma, **options)[-1]
    np.testing.assert_allclose(jax.grad(last)(1.1), difference(last, 1.1), rtol=0.1 if "dt0" in options else 1e-6)


def test_rules_that_are_not_met_and_observables_without_derivatives():
    """A condition, which has no slope, and counts beside the loss."""
    active = lambda net, data: jnp.sum(net.weights[0] > 0)
    observe = {"loss": nf.measure.loss, "active": active, "large": lambda net, data: active(net, data) > 100}
    rule = nf.StopWhen("active", above=100.0)

    def last(sigma, **options):
        settings = {"solver": diffrax.Tsit5(), "save_at": [1.0, 5.0], "rtol": 1e-8} | QUIET | options
        return nf.gradient_flow(scaled(TANH, sigma), DATA, 5.0, **settings).observed["loss"][-1]

    found = jax.grad(lambda sigma: last(sigma, observe=observe, stop=rule))(1.1)
    np.testing.assert_allclose(found, jax.grad(last)(1.1), rtol=1e-7)


def test_the_path_in_many_blocks_is_the_same_path(monkeypatch):
    """Blocks of 8 steps and 8 marks, whose distance doubles twice: both directions compute steps again."""
    rtol = 1e-11
    loss = lambda sigma: tanh_loss(sigma, rtol=rtol)
    both = lambda: jax.jit(lambda s: (jax.jvp(loss, (s,), (1.0,))[1], jax.vjp(loss, s)[1](jnp.ones(2))[0]))
    whole = both()(1.1)
    assert nf.gradient_flow(TANH, DATA, 5.0, solver=diffrax.Tsit5(), rtol=rtol, **QUIET).stats["steps"] > 2 * 8 * 8
    monkeypatch.setattr(path, "_LONGEST", 8)
    forwards, backwards = both()(1.1)
    np.testing.assert_allclose(forwards, whole[0], rtol=10 * rtol)
    np.testing.assert_allclose(backwards, whole[1], rtol=10 * rtol)
    np.testing.assert_allclose(jnp.sum(forwards), backwards, rtol=10 * rtol)


def test_a_batch_is_its_lanes_and_compiles_once(compilations):
    last = lambda sigma, decay: tanh_loss(sigma, decay)[-1]
    many = jax.jit(jax.vmap(jax.grad(last), in_axes=(0, None)))
    sigmas, others = jnp.array([0.5, 1.0, 2.0]), jnp.array([0.6, 1.1, 2.1])
    found = many(sigmas, 0.0)
    compilations()
    many(others, 0.01)
    assert compilations() == 0
    for sigma, slope in zip(sigmas, found, strict=True):
        np.testing.assert_allclose(slope, jax.grad(last)(sigma, 0.0), rtol=1e-7)
    compilations()
    jax.grad(last)(0.7, 0.0)
    assert compilations() == 0


def test_in_a_sweep():
    """One training run whose initial scale is that of a step of gradient descent through a flow."""

    def run(*, key, sigma):
        slope = jax.grad(lambda sigma: tanh_loss(sigma)[-1])(sigma)
        return nf.gradient_flow(scaled(TANH, sigma - slope), DATA, 1.0, save_at=[1.0], rtol=1e-8, **QUIET)

    runs = nf.sweep(run, nf.Grid(sigma=[0.5, 1.0]), progress=False)
    alone = [run(key=None, sigma=sigma).observed["loss"] for sigma in (0.5, 1.0)]
    np.testing.assert_allclose(runs["loss"].squeeze(), np.squeeze(alone), rtol=1e-7)


def test_a_run_that_failed_has_no_derivative():
    fails = lambda sigma: tanh_loss(sigma, max_steps=5, throw=False)[0]
    assert np.isnan(jax.grad(fails)(1.0))
    assert np.isnan(jax.jit(jax.grad(fails))(1.0))
    with pytest.raises(nf.RunError, match="maximum number of steps"):
        jax.grad(lambda sigma: tanh_loss(sigma, max_steps=5)[0])(1.0)


def test_second_derivatives_are_refused():
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        jax.hessian(lambda sigma: tanh_loss(sigma)[-1])(1.0)


def relu_run(sigma, t1, solver=None, rtol=1e-8):
    return nf.gradient_flow(scaled(RELU, sigma), DATA, t1, save_at=[t1], solver=solver, rtol=rtol, **QUIET)


def relu_loss(*settings, **more):
    return relu_run(*settings, **more).observed["loss"][-1]


def test_kinks():
    """The derivative of the exact flow across crossings and slides; that of the rounded one is near to it."""
    met, exact = relu_run(1.0, 5.0).stats, lambda t1: difference(lambda s: relu_loss(s, t1, rtol=1e-11), 1.0, 1e-4)
    assert (met["crossings"], met["slides"]) == (11, 1)
    slope = jax.grad(relu_loss)
    np.testing.assert_allclose(slope(1.0, 5.0), exact(5.0), rtol=0, atol=1e-8)  # of a loss of 0.01 to 1
    np.testing.assert_allclose(slope(1.0, 0.2, nf.flow.Smoothed(beta=1e4)), exact(0.2), rtol=1e-5)
    with pytest.raises(NotImplementedError, match="where it meets kinks .here in the network.*Smoothed"):
        slope(1.0, 0.05, nf.flow.TSRKC3(), 1e-3)


def test_single_precision():
    rtol = 1e-4
    with jax.enable_x64(False):
        single = lambda tree: jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float32) if eqx.is_array(leaf) else leaf, tree
        )
        net, data = single(TANH), single(DATA)
        run = lambda sigma: nf.gradient_flow(scaled(net, sigma), data, 5.0, save_at=[5.0], rtol=rtol, **QUIET)
        found = jax.grad(lambda sigma: run(sigma).observed["loss"][-1])(jnp.float32(1.1))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, jax.grad(lambda sigma: tanh_loss(sigma)[-1])(1.1), rtol=10 * rtol)
