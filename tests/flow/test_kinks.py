import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import nfa_flow as nf
from nfa_flow.flow.kinks import has_kinks

DATA = nf.data.linear_teacher(jax.random.key(0), 50, 5, 2)


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.gelu, jax.nn.softplus, jax.nn.elu, jnp.square, lambda x: x])
def test_smooth_functions_have_none(activation):
    assert not has_kinks(nf.nets.MLP([5, 16, 2], key=jax.random.key(1), activation=activation), DATA)


@pytest.mark.parametrize("activation", [jax.nn.relu6, jax.nn.hard_tanh, lambda x: jnp.maximum(x, 0.1 * x)])
def test_kinks_of_functions_without_a_name_are_found(activation):
    assert has_kinks(nf.nets.MLP([5, 16, 2], key=jax.random.key(1), activation=activation), DATA)


def test_kinks_of_any_module_are_found():
    assert has_kinks(eqx.nn.MLP(5, 2, 32, 2, key=jax.random.key(1)), DATA)
    assert not has_kinks(eqx.nn.MLP(5, 2, 32, 2, activation=jnp.tanh, key=jax.random.key(1)), DATA)


@pytest.mark.parametrize(
    ("loss", "kinks"),
    [
        (lambda p, y: jnp.sum(jnp.abs(p - y)), True),
        (lambda p, y: jnp.sum(jnp.maximum(0, 1 - p * y)), True),
        (lambda p, y: jnp.sum((p - y) ** 4), False),
    ],
)
def test_kinks_of_a_loss_are_found(loss, kinks):
    net = nf.nets.MLP([5, 16, 2], key=jax.random.key(1), activation="tanh")
    assert has_kinks(net, DATA, loss) == kinks


def test_looking_again_compiles_nothing(compilations):
    net = eqx.nn.MLP(5, 2, 32, 2, key=jax.random.key(1))
    loss = lambda p, y: jnp.sum((p - y) ** 4)
    has_kinks(net, DATA, loss)
    assert compilations() > 0
    has_kinks(net, DATA, loss)
    assert compilations() == 0


def test_in_float32_rounding_is_no_kink():
    data = DATA.astype("float32")
    for activation, expected in ((lambda x: jnp.tanh(x), False), (lambda x: jnp.abs(x), True)):
        net = nf.nets.MLP([5, 64, 2], key=jax.random.key(1), activation=activation, dtype="float32")
        assert has_kinks(net, data) == expected


@pytest.mark.parametrize(("activation", "kinks"), [(jax.nn.relu, True), (jnp.tanh, False), (jax.nn.elu, False)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kinks_of_wide_networks_are_found_though_many_lie_close_together(activation, kinks, dtype):
    net = eqx.nn.MLP(5, 2, 1024, 3, activation=activation, key=jax.random.key(1), dtype=dtype)
    assert has_kinks(net, DATA.astype(dtype)) == kinks
