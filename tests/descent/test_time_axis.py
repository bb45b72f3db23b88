"""Time is learning rate × step for plain gradient descent, and counts steps for everything else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import linear_net

import nfa_flow as nf
from nfa_flow.descent.learning_rate import plain_learning_rate

DATA = nf.Dataset(np.eye(2), np.ones(2))
STEPS = 8
SGD = optax.sgd(0.1)


def train(W, optimizer, **options):
    return nf.gradient_descent(linear_net([W]), DATA, optimizer, STEPS, progress=False, **options)


def test_times_are_learning_rate_times_step():
    run = train(np.ones((1, 2)), SGD)
    np.testing.assert_array_equal(run.times, 0.1 * np.arange(STEPS + 1))
    assert run.end_time == 0.1 * STEPS


def test_an_optimizer_with_memory_counts_steps_unless_told_otherwise():
    momentum = optax.sgd(0.1, momentum=0.9)
    np.testing.assert_array_equal(train(np.ones((1, 2)), momentum).times, np.arange(STEPS + 1))
    np.testing.assert_array_equal(train(np.ones((1, 2)), momentum, learning_rate=0.7).times, 0.7 * np.arange(STEPS + 1))


def test_the_time_axis_is_the_same_while_jax_traces_the_network():
    assert jax.jit(lambda W: train(W, SGD))(jnp.ones((1, 2))).end_time == 0.1 * STEPS
    np.testing.assert_array_equal(jax.vmap(lambda W: train(W, SGD))(jnp.ones((3, 1, 2))).end_time, 0.1 * STEPS)


PLAIN = {
    "sgd": SGD,
    "a constant schedule": optax.sgd(optax.constant_schedule(0.1)),
    "an injected rate": optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
    "a bare factor": optax.scale(-0.1),
}
OTHERS = {
    "momentum": optax.sgd(0.1, momentum=0.9),
    "Nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.1),
    "adamw": optax.adamw(0.1),
    "a schedule": optax.sgd(optax.cosine_decay_schedule(0.1, STEPS)),
    "a late schedule": optax.sgd(optax.piecewise_constant_schedule(0.1, {STEPS - 1: 0.5})),
    "decoupled weight decay": optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)),
    "clipping": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
    "signs": optax.sign_sgd(0.1),
    "ascent": optax.scale(0.1),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_gradient_descent_is_recognised(name):
    assert plain_learning_rate(PLAIN[name], {"W": jnp.zeros((1, 2))}, STEPS) == 0.1


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_optimizer_is_told_apart_even_where_all_weights_are_zero(name):
    assert plain_learning_rate(OTHERS[name], {"W": jnp.zeros((1, 2))}, STEPS) is None
