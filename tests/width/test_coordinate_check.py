"""The coordinate check passes what keeps its promise after a step, and catches what does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow.nets import ABC, NTP, SP, MeanField, Spectral, muP
from nfa_flow.nets.promised_exponents import promised_exponents
from nfa_flow.width import coordinate_check

DATA = nf.data.multi_index(key=jax.random.key(1), samples=16, inputs=8, rank=2)
DATA = nf.Dataset(DATA.x, jnp.concatenate([DATA.y, -DATA.y], axis=1))
WIDTHS = [16, 64, 256]


def check(scheme, train, widths=WIDTHS, **options):
    build = lambda width, key: nf.nets.MLP([8, width, width, 2], key=key, activation="tanh", parametrization=scheme)
    return coordinate_check(build, train, DATA, widths, **{"key": jax.random.key(0)} | options)


@jax.jit
def gradient(weights):
    """Of a tanh network; one program per width for all schemes."""

    def loss(weights):
        h = DATA.x
        for W in weights[:-1]:
            h = jnp.tanh(h @ W.T)
        return jnp.mean(jnp.sum((h @ weights[-1].T - DATA.y) ** 2, axis=1)) / 2

    return jax.grad(loss)(weights)


def stepped(net, rate, direction=lambda g: g):
    return net.with_weights(
        [W - r * direction(g) for W, r, g in zip(net.weights, rate, gradient(net.weights), strict=True)]
    )


def sgd(net, data):
    return stepped(net, [0.3 * m for m in net.mobility])


def adam(net, data):
    """Its first step."""
    return stepped(net, [0.02 * m for m in net.mobility], jnp.sign)


def one_rate_for_all(net, data):
    return stepped(net, [0.3] * 3)


@pytest.mark.parametrize(
    ("scheme", "train"), [(muP(), sgd), (NTP(), sgd), (muP("adam"), adam)], ids=["muP, SGD", "NTP, SGD", "muP, Adam"]
)
def test_each_promise_holds_after_a_step(scheme, train):
    found = check(scheme, train)
    assert found.passed, str(found)
    for scaling in found.scalings.values():
        assert scaling.sizes.shape == (3, 4) and abs(scaling.exponent - scaling.promised) < 0.25


def test_a_learning_rate_that_is_not_that_of_the_parametrization_is_caught():
    """muP with one learning rate for all layers: the input layer moves by n⁻¹ and the read-out by n too much."""
    found = check(muP(), one_rate_for_all)
    assert found.passed is False
    assert [found.scalings[f"update {l}"].holds for l in (1, 2, 3)] == [False, True, False]
    assert found.scalings["update 1"].exponent == pytest.approx(-1, abs=0.25)
    assert found.scalings["update 3"].exponent == pytest.approx(1, abs=0.25)
    assert "update 1" in str(found) and "BROKEN" in str(found)


def test_an_unstable_parametrization_promises_nothing():
    found = check(MeanField(), sgd)
    assert found.passed is None and found.scalings["activation 2"].promised is None
    assert found.scalings["activation 2"].exponent == pytest.approx(-0.5, abs=0.1)
    assert "none" in str(found)


EXPONENTS = {
    "SP": (SP(), [0, 0, -1.5, -0.5, -1.5, -0.5, 0, 0, 0]),
    "NTP": (NTP(), [0, 0, -0.5, -0.5, -0.5, -0.5, 0, 0, 0]),
    "muP": (muP(), [0, 0, 0, 0, 0, 0, 0, -0.5, 0]),
    "muP, Adam": (muP("adam"), [0, 0, 0, 0, 0, 0, 0, -0.5, 0]),
    "Spectral": (Spectral(), [0, 0, 0, 0, 0, 0, 0, -0.5, 0]),
    # Only its first layer learns, as fast as is stable, and the second passes that on.
    "one layer": (ABC(muP().a, muP().b, (0, 1, 0)), [0, 0, 0, 0, 0, -1, 0, -0.5, 0]),
    # In lazy training outputs move as the read-out weights do, not by features.
    "SP, slow features": (ABC(SP().a, SP().b, (1, 2, 1)), [0, 0, -1.5, -1.5, -1.5, -1.5, 0, 0, 0]),
}
NAMES = ["activation 1", "activation 2", "change 1", "change 2", "update 1", "update 2", "update 3", "output"]


@pytest.mark.parametrize("name", EXPONENTS)
def test_promises_follow_from_the_exponents(name):
    scheme, powers = EXPONENTS[name]
    promises = promised_exponents(scheme, 3)
    assert list(promises) == [*NAMES, "output change"]
    np.testing.assert_allclose(list(promises.values()), powers, atol=1e-12)


def test_what_blows_up_is_broken_and_what_does_not_move_is_open():
    found = check(muP(), lambda net, data: net.with_weights([jnp.nan * W for W in net.weights]), [4, 8, 16])
    assert found.passed is False and found.scalings["update 2"].holds is False
    still = check(muP(), lambda net, data: net, [4, 8, 16], seeds=1)
    assert still.scalings["change 1"].holds is None and np.isnan(still.scalings["change 1"].exponent)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": [32, 64]}, "`widths` must be at least three increasing widths"),
        ({"widths": [64, 32, 128]}, "`widths` must be at least three increasing widths"),
        ({"seeds": 0}, "`seeds` must be a whole number of at least 1"),
        ({"tolerance": 0.0}, "`tolerance` must be a positive number"),
        ({"scheme": None}, r"`build` must be a function \(width, key=\) to an `MLP` with a parametrization"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        check(**{"scheme": muP(), "train": sgd} | options)
