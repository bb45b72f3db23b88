"""Time is learning rate × step for plain gradient descent; every other optimizer needs its time per step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import linear_net

import nfa_flow as nf
from nfa_flow.descent.plain_rate import plain_rate

DATA = nf.Dataset(np.eye(2), np.ones(2))
STEPS = 8
SGD = optax.sgd(0.1)
PARAMETERS = {"W": jnp.zeros((1, 2)), "b": jnp.zeros(2)}


def train(W, optimizer, **options):
    return nf.gradient_descent(linear_net([W]), DATA, optimizer, STEPS, progress=False, **options)


def test_times_of_plain_gradient_descent_are_learning_rate_times_step():
    run = train(np.ones((1, 2)), SGD)
    np.testing.assert_array_equal(run.times, 0.1 * np.arange(STEPS + 1))
    assert run.end_time == 0.1 * STEPS


def test_every_other_optimizer_needs_the_time_per_step():
    momentum = optax.sgd(0.1, momentum=0.9)
    sentence = (
        r"`time_per_step` must be given for an optimizer other than `optax.sgd\(rate\)` .*, or 1 to count steps\)"
    )
    with pytest.raises(ValueError, match=sentence):
        train(np.ones((1, 2)), momentum)
    np.testing.assert_array_equal(train(np.ones((1, 2)), momentum, time_per_step=0.7).times, 0.7 * np.arange(STEPS + 1))


def test_what_is_given_comes_before_what_is_known():
    np.testing.assert_array_equal(train(np.ones((1, 2)), SGD, time_per_step=1.0).times, np.arange(STEPS + 1))


def test_the_time_axis_is_the_same_while_jax_traces_the_network():
    assert jax.jit(lambda W: train(W, SGD))(jnp.ones((1, 2))).end_time == 0.1 * STEPS
    np.testing.assert_array_equal(jax.vmap(lambda W: train(W, SGD))(jnp.ones((3, 1, 2))).end_time, 0.1 * STEPS)


def test_the_time_axis_is_the_same_while_jax_traces_the_rate():
    end = lambda rate: train(np.ones((1, 2)), optax.sgd(rate)).end_time
    rates = jnp.array([0.05, 0.1])
    alone = [end(float(rate)) for rate in rates]
    np.testing.assert_array_equal(alone, rates * STEPS)
    np.testing.assert_array_equal(jax.vmap(end)(rates), alone)
    assert jax.jit(end)(0.1) == alone[1]


PLAIN = {
    "sgd": SGD,
    "a rate of NumPy": optax.sgd(np.float64(0.1)),
    "a rate of JAX": optax.sgd(jnp.asarray(0.1)),
    "a bare factor": optax.scale(-0.1),
    "two factors": optax.chain(optax.scale(0.5), optax.sgd(0.2)),
}
OTHERS = {
    "momentum": optax.sgd(0.1, momentum=0.9),
    "Nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.1),
    "adamw": optax.adamw(0.1),
    "a schedule": optax.sgd(optax.cosine_decay_schedule(0.1, STEPS)),
    "a schedule that moves between its ends only": optax.sgd(lambda step: jnp.where((step > 2) & (step < 5), 0.2, 0.1)),
    "an injected rate": optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
    "decoupled weight decay": optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)),
    "clipping": optax.chain(optax.clip(1.0), optax.sgd(0.1)),
    "clipping by norm": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
    "signs": optax.sign_sgd(0.1),
    "ascent": optax.scale(0.1),
    "a frozen array": optax.masked(SGD, {"W": True, "b": False}),
    "a rate for each array": optax.stateless(lambda g, _: {"W": -0.1 * g["W"], "b": -0.2 * g["b"]}),
    "a matrix of rates": optax.stateless(lambda g, _: {"W": -np.full((1, 2), 0.1) * g["W"], "b": -0.1 * g["b"]}),
    "no step": optax.set_to_zero(),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_plain_gradient_descent_is_recognized(name, dtype):
    assert plain_rate(PLAIN[name], jax.tree.map(lambda p: p.astype(dtype), PARAMETERS)) == 0.1


def test_a_rate_is_read_off_without_a_compilation(compilations):
    assert plain_rate(optax.sgd(0.123), PARAMETERS) == 0.123
    assert compilations() == 0


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_optimizer_is_told_apart(name):
    assert plain_rate(OTHERS[name], PARAMETERS) is None
