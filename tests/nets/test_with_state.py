"""Batch normalization: with fixed statistics a map of one sample, with those of the full batch a total loss."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nfa_flow as nf

KEY = jax.random.key(0)
DATA = nf.data.linear_teacher(20, 3, 2, key=KEY, noise=0.1)
QUIET = {"progress": False}


def network(mode="batch", momentum=0.9):
    first, last = jax.random.split(KEY)
    normalization = lambda: eqx.nn.BatchNorm(4, "batch", eps=0.0, momentum=momentum, mode=mode)
    layers = lambda: [
        eqx.nn.Linear(3, 4, use_bias=False, key=first),
        normalization(),
        eqx.nn.Lambda(jnp.tanh),
        eqx.nn.Dropout(0.5),
        eqx.nn.Linear(4, 2, key=last),
    ]
    return nf.nets.WithState(*eqx.nn.make_with_state(lambda: eqx.nn.Sequential(layers()))())


def by_hand(net, x):
    """Predictions with the statistics of the batch x."""
    z = x @ net.net.layers[0].weight.T
    h = jnp.tanh((z - jnp.mean(z, axis=0)) / jnp.std(z, axis=0))
    return h @ net.net.layers[-1].weight.T + net.net.layers[-1].bias


def full_batch(net, data):
    return 0.5 * jnp.mean(jnp.sum((net.on_batch(data.x) - data.y) ** 2, axis=1))


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_a_batch_has_its_own_statistics_and_can_fix_them(mode):
    net = network(mode)
    expected = by_hand(net, DATA.x)
    np.testing.assert_allclose(net.on_batch(DATA.x), expected, rtol=1e-12)
    fixed = net.with_statistics(DATA.x)
    np.testing.assert_allclose(jax.vmap(fixed)(DATA.x), expected, rtol=1e-12)
    again = net.with_statistics(DATA.x[:7]).with_statistics(DATA.x)  # no history is left
    np.testing.assert_allclose(jax.vmap(again)(DATA.x), expected, rtol=1e-12)
    np.testing.assert_allclose(fixed(DATA.x[3]), fixed(DATA.x[3]), rtol=0)  # a state is used as often as one likes


def test_with_fixed_statistics_the_network_is_trained_like_one_with_constants():
    net = network().with_statistics(DATA.x)
    z = DATA.x @ net.net.layers[0].weight.T
    mean, std = jnp.mean(z, axis=0), jnp.std(z, axis=0)

    class Plain(eqx.Module):
        first: eqx.nn.Linear
        scale: jax.Array
        shift: jax.Array
        last: eqx.nn.Linear

        def __call__(self, x):
            return self.last(jnp.tanh((self.first(x) - mean) / std * self.scale + self.shift))

    plain = Plain(net.net.layers[0], jnp.ones(4), jnp.zeros(4), net.net.layers[-1])
    train = lambda net: nf.gradient_descent(net, DATA, optax.sgd(0.1), 5, weight_decay=0.1, **QUIET)
    run, expected = train(net), train(plain)
    np.testing.assert_allclose(run.observed["loss"], expected.observed["loss"], rtol=1e-12)
    np.testing.assert_allclose(run.net.net.layers[0].weight, expected.net.first.weight, rtol=1e-12)
    assert jax.tree.all(jax.tree.map(np.array_equal, run.net.state, net.state))
    assert run.stats["frozen"] == "state"


def test_the_flow_of_the_full_batch_obeys_its_laws():
    """The loss does not depend on the norms of rows of W that are normalized, so each norm is conserved."""
    net, first = network(), lambda net: net.net.layers[0].weight
    observe = {"agop": lambda net, data: nf.measure.agop(net.with_statistics(data.x), data, layer=1)}
    options = {"loss": nf.TotalLoss(full_batch), "observe": observe, "save_at": [5.0], "certify": True, "rtol": 1e-8}
    run = nf.gradient_flow(net, DATA, 5.0, **options, **QUIET)
    assert (run.stats["solver"], run.stats["frozen"]) == ("NDF", "state")
    W, W_0 = first(run.net), first(net)
    np.testing.assert_allclose(np.linalg.norm(W, axis=1), np.linalg.norm(W_0, axis=1), rtol=1e-7)
    assert np.abs(W - W_0).max() > 0.1
    assert run.observed["loss_identity_error"] < 1e-7 and run.observed["parameter_error"] < 1e-7
    J = jax.vmap(jax.jacobian(run.net.with_statistics(DATA.x)))(DATA.x)
    np.testing.assert_allclose(run.observed["agop"][0], np.einsum("ica,icb->ab", J, J) / 20, rtol=1e-10)


def test_minibatches_are_normalized_by_themselves():
    options = {"batch_size": 6, "key": KEY, "loss": nf.TotalLoss(full_batch)} | QUIET
    run = nf.gradient_descent(network(), DATA, optax.sgd(0.1), 1, **options)
    order = jax.random.permutation(jax.random.fold_in(KEY, 0), 20)[:6]
    part = nf.Dataset(DATA.x[order], DATA.y[order])
    expected = nf.gradient_descent(network(), part, optax.sgd(0.1), 1, loss=nf.TotalLoss(full_batch), **QUIET)
    np.testing.assert_allclose(run.net.net.layers[0].weight, expected.net.net.layers[0].weight, rtol=1e-12)


def test_it_is_built_inside_sweeps_and_stored(tmp_path):
    def one_run(key, weight_decay):
        options = {"loss": nf.TotalLoss(full_batch), "weight_decay": weight_decay} | QUIET
        return nf.gradient_descent(network(), DATA, optax.sgd(0.1), 2, **options)

    sweep = nf.sweep(one_run, nf.Grid(weight_decay=[0.0, 0.1], seed=[0]), batch="vmap", progress=False)
    run = one_run(KEY, 0.1)
    np.testing.assert_allclose(sweep["loss"].sel(weight_decay=0.1, seed=0), run.observed["loss"], rtol=1e-13)
    read = nf.Trajectory.load(run.save(tmp_path / "run.zarr"), like=network("batch"))
    assert jax.tree.all(jax.tree.map(np.array_equal, read.net, run.net))


def test_a_network_without_a_state_and_different_axes_are_named(no_type_checks):
    linear = eqx.nn.Linear(3, 2, key=KEY)
    with pytest.raises(ValueError, match="`state` must be an `equinox.nn.State`, as from"):
        nf.nets.WithState(linear, None)
    with pytest.raises(ValueError, match=r"`net` must be a module \(sample, state\) -> \(prediction, state\)"):
        nf.nets.WithState(None, network().state)
    norms = lambda: eqx.nn.Sequential([eqx.nn.BatchNorm(3, name, mode="batch") for name in ("a", "b")])
    with pytest.raises(ValueError, match=r"`net` must be one whose batch normalizations have one axis name, but was"):
        nf.nets.WithState(*eqx.nn.make_with_state(norms)()).on_batch(DATA.x)
