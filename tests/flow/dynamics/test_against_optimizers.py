"""The flows against the optimizers that they follow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import nfa_flow as nf

D = nf.dynamics
END = 2.0
ADAM = {"b2": 0.9, "eps": 1e-2}  # a short memory and a smooth root: the order shows at few steps
# The optimizer, its dynamics, and a rate at which the order shows.
CASES = {
    "gd": (optax.sgd, D.Modified, 0.0125),
    "momentum": (lambda rate: optax.sgd(rate, 0.8), lambda rate: D.HeavyBall(rate, 0.8), 0.001),
    "nesterov": (lambda rate: optax.sgd(rate, 0.8, nesterov=True), lambda rate: D.HeavyBall(rate, 0.8, True), 0.001),
    "no_momentum": (optax.sgd, lambda rate: D.HeavyBall(rate, 0.0), 0.0125),
    "rmsprop": (
        lambda rate: optax.rmsprop(rate, 0.5, 1e-2, bias_correction=True),
        lambda rate: D.RMSProp(rate, 0.5, 1e-2, bias_correction=True),
        0.0025,
    ),
    "adam": (lambda rate: optax.adam(rate, **ADAM), lambda rate: D.Adam(rate, **ADAM), 0.001),
    "adamw": (
        lambda rate: optax.adamw(rate, **ADAM, weight_decay=0.5),
        lambda rate: D.AdamW(rate, **ADAM, weight_decay=0.5),
        0.001,
    ),
}


@pytest.fixture(scope="module")
def problem():
    net = nf.nets.MLP([4, 5, 2], key=jax.random.key(1), activation="tanh")
    return net, nf.data.linear_teacher(20, 4, 2, key=jax.random.key(0), noise=0.1)


def distance(net, other):
    return float(jnp.linalg.norm(ravel_pytree(jax.tree.map(jnp.subtract, net.weights, other.weights))[0]))


@pytest.mark.parametrize("name", CASES)
def test_distance_is_of_second_order_in_the_learning_rate(problem, name):
    optimizer, dynamics, first = CASES[name]
    distances = []
    for rate in (first, first / 2):
        step = dynamics(rate).time_per_step
        steps = round(END / step)
        descent = nf.gradient_descent(*problem, optimizer(rate), steps, time_per_step=step, progress=False)
        flow = nf.gradient_flow(
            *problem, steps * step, dynamics=dynamics(rate), rtol=1e-8, save_at=[steps * step], progress=False
        )
        np.testing.assert_allclose(flow.times[-1], descent.times[-1], rtol=1e-14)
        distances.append(distance(descent.net, flow.net))
    assert abs(np.log2(distances[0] / distances[1]) - 2) < 0.2
