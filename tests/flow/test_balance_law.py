"""D_l(t) = e^{−2λt} D_l(0) between consecutive linear layers, for any loss, any data and any later layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import relative

import nfa_flow as nf

TIMES = np.array([0.0, 0.5, 1.0, 2.0, 4.0])
DECAY = 0.15


def flow(net, data, observe, **options):
    return nf.gradient_flow(
        net,
        data,
        TIMES[-1],
        weight_decay=DECAY,
        observe=observe,
        save_at=TIMES,
        rtol=1e-10,
        atol=1e-13,
        progress=False,
        **options,
    )


def balances(net, data, **options):
    return [np.asarray(D) for D in flow(net, data, {"balance": nf.measure.balance}, **options).observed["balance"]]


def law(D):
    return nf.theory.balance_decay(TIMES, DECAY)[:, None, None] * D[0]


@pytest.fixture(scope="module")
def data():
    return nf.data.linear_teacher(60, 6, 5, key=jax.random.key(0), noise=0.2)


INITIALIZATIONS = [nf.nets.Gaussian(1.0), nf.nets.Orthogonal(0.7), nf.nets.LambdaBalanced(0.4)]


@pytest.mark.parametrize("init", INITIALIZATIONS, ids=lambda init: type(init).__name__)
def test_balance_decays_at_twice_the_weight_decay(init, data):
    net = nf.nets.MLP([6, 4, 5, 5], key=jax.random.key(1), init=init)
    computed = balances(net, data)
    largest = max(np.linalg.norm(D[0]) for D in computed)
    assert largest > 0.1
    for D in computed:
        assert np.linalg.norm(D - law(D), axis=(1, 2)).max() < 1e-8 * largest


def test_balance_law_holds_for_linear_layers_in_front_of_a_relu_head():
    """This trajectory crosses kinks."""
    data = nf.data.multi_index(10, 6, 2, key=jax.random.key(1))
    net = nf.nets.MLP([6, 7, 5, 4, 1], key=jax.random.key(101), activation=["identity", "identity", "relu"])

    def active(net, data):
        return jax.vmap(lambda x: net.layers[2](net.to_layer(3, x)) > 0)(data.x)

    run = flow(net, data, {"balance": nf.measure.balance, "active": active})
    assert np.any(np.diff(np.asarray(run.observed["active"]), axis=0))
    linear_1, linear_2, relu = (np.asarray(D) for D in run.observed["balance"])
    for D in (linear_1, linear_2):
        assert relative(D - law(D), D[0]) < 1e-8
    # Before a relu the law only holds neuron by neuron: on the diagonal, not off it.
    diagonal = np.diagonal(relu, axis1=1, axis2=2)
    assert relative(diagonal - nf.theory.balance_decay(TIMES, DECAY)[:, None] * diagonal[0], diagonal[0]) < 1e-8
    assert relative(relu - law(relu), relu[0]) > 1e-3


def test_balance_law_fails_across_tanh():
    data = nf.data.multi_index(40, 6, 2, key=jax.random.key(0))
    net = nf.nets.MLP([6, 7, 1], key=jax.random.key(2), activation="tanh", init=nf.nets.Gaussian(2.0))
    (D,) = balances(net, data)
    diagonal = np.diagonal(D, axis1=1, axis2=2)
    assert relative(diagonal - nf.theory.balance_decay(TIMES, DECAY)[:, None] * diagonal[0], diagonal[0]) > 1e-2


def test_balance_law_holds_for_cross_entropy_and_for_a_custom_loss(data):
    net = nf.nets.MLP([6, 4, 5], key=jax.random.key(1), init=nf.nets.Gaussian(1.0))
    classes = nf.Dataset(data.x, jax.nn.one_hot(jnp.argmax(data.y, axis=1), 5))
    (D,) = balances(net, classes, loss="cross_entropy")
    assert relative(D - law(D), D[0]) < 1e-8
    (D,) = balances(net, data, loss=lambda prediction, target: jnp.sum(jnp.log(jnp.cosh(prediction - target))))
    assert relative(D - law(D), D[0]) < 1e-8
