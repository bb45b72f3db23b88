"""What a run observes is what it minimizes: its own loss, decay and mobilities, unless others are given."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nfa_flow as nf
from nfa_flow import measure

KEYS = jax.random.split(jax.random.key(0), 4)
LABELS = jax.nn.one_hot(jax.random.randint(KEYS[0], (12,), 0, 3), 3)
DATA = nf.Dataset(jax.random.normal(KEYS[1], (12, 4)), LABELS)
NET = nf.nets.MLP([4, 5, 3], key=KEYS[2], activation="tanh", bias=True)
LOSS, DECAY, MOBILITY = "cross_entropy", 0.1, [0.5, 2.0]
SETTINGS = {"loss": LOSS, "weight_decay": DECAY}

# name: (the observable as it is given to a run, the same with every setting given by hand)
OBSERVABLES = {
    "loss": (measure.loss, lambda net: measure.loss(net, DATA, loss=LOSS)),
    "bound loss": (functools.partial(measure.loss), lambda net: measure.loss(net, DATA, loss=LOSS)),
    "given loss": (eqx.Partial(measure.loss, loss="mse"), lambda net: measure.loss(net, DATA, loss="mse")),
    "enfa": (measure.enfa(), lambda net: measure.enfa(loss=LOSS)(net, DATA)),
    "crh": (eqx.Partial(measure.crh, layer=2), lambda net: measure.crh(net, DATA, layer=2, loss=LOSS)),
    "fact": (measure.fact, lambda net: measure.fact(net, DATA, **SETTINGS)),
    "bfact": (measure.bfact, lambda net: measure.bfact(net, DATA, **SETTINGS)),
    "fact error": (measure.FactError(), lambda net: measure.FactError(DECAY, loss=LOSS)(net, DATA)),
    "given decay": (measure.FactError(0.3), lambda net: measure.FactError(0.3, loss=LOSS)(net, DATA)),
    "ntk": (measure.ntk_eigenvalues, lambda net: measure.ntk_eigenvalues(net, DATA, mobility=MOBILITY)),
    "sharpness": (
        measure.Sharpness(1e-6),
        lambda net: measure.Sharpness(1e-6)(net, DATA, **SETTINGS, mobility=MOBILITY),
    ),
}
BY_HAND = {name: by_hand for name, (_, by_hand) in OBSERVABLES.items()}
OBSERVE = {name: observable for name, (observable, _) in OBSERVABLES.items()}


@pytest.fixture(scope="module")
def flow():
    return nf.gradient_flow(
        NET, DATA, 1.0, **SETTINGS, mobility=MOBILITY, observe=OBSERVE, save_at=[0.0, 1.0], progress=False
    )


@pytest.mark.parametrize("name", OBSERVABLES)
def test_a_flow_observes_what_it_minimizes(flow, name):
    for i, net in enumerate((NET, flow.net)):
        observed = jax.tree.map(lambda values, i=i: values[i], flow.observed[name])
        by_hand = BY_HAND[name](net)
        for one, other in zip(jax.tree.leaves(observed), jax.tree.leaves(by_hand), strict=True):
            # Exponents are fitted to logarithms of eigenvalues that range over decades: the same up to 1e-9 of those.
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9 * float(jnp.max(jnp.abs(other))))


def test_gradient_descent_and_a_sweep_observe_it_too():
    settings = {"loss": LOSS, "observe": {"loss": measure.loss, "enfa": measure.enfa()}, "progress": False}
    descent = nf.gradient_descent(NET, DATA, optax.sgd(0.1), 3, **settings)
    np.testing.assert_allclose(descent.observed["loss"][-1], measure.loss(descent.net, DATA, loss=LOSS), rtol=1e-12)
    np.testing.assert_allclose(descent.observed["enfa"][-1], measure.enfa(loss=LOSS)(descent.net, DATA), rtol=1e-9)

    def flow(key, decay):
        return nf.gradient_flow(NET, DATA, 1.0, weight_decay=decay, save_at=[0.0, 1.0], **settings)

    swept, single = nf.sweep(flow, nf.Grid(decay=[0.0, DECAY], seed=[0]), progress=False), flow(None, DECAY)
    for name in ("loss", "enfa"):
        np.testing.assert_allclose(swept[name][1, 0], single.observed[name], rtol=1e-6)


def test_a_run_without_weight_decay_has_no_fact():
    run = nf.gradient_flow(NET, DATA, 0.1, observe={"error": measure.FactError()}, save_at=[0.0, 0.1], progress=False)
    assert np.isnan(run.observed["error"]).all()


def test_a_function_of_ones_own_that_leaves_the_loss_open_is_refused_where_the_run_minimizes_another():
    observe = {"loss": lambda net, data: measure.loss(net, data)}
    squared = nf.gradient_flow(NET, DATA, 0.1, observe=observe, save_at=[0.0, 0.1], progress=False)
    np.testing.assert_allclose(squared.observed["loss"][0], measure.loss(NET, DATA), rtol=1e-12)
    with pytest.raises(ValueError, match="`loss` must be given .* minimizes `cross_entropy`, but was None"):
        nf.gradient_flow(NET, DATA, 0.1, loss=LOSS, observe=observe, progress=False)
    given = {"loss": lambda net, data: measure.loss(net, data, loss=LOSS)}
    run = nf.gradient_flow(NET, DATA, 0.1, loss=LOSS, observe=given, save_at=[0.0, 0.1], progress=False)
    np.testing.assert_allclose(run.observed["loss"][0], measure.loss(NET, DATA, loss=LOSS), rtol=1e-12)


def test_by_hand_the_weight_decay_of_fact_must_be_given():
    for call in (measure.fact, measure.bfact, measure.FactError()):
        with pytest.raises(ValueError, match="`weight_decay` must be a positive number, but was None"):
            call(NET, DATA)
