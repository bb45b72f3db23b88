import jax
import jax.numpy as jnp
import numpy as np
from oracles import linear_net

from nfa_flow.measure import balance
from nfa_flow.nets import MLP, Orthogonal

WIDTHS = (3, 5, 4, 2)
NET = MLP(WIDTHS, key=jax.random.key(0), activation="tanh", bias=True)
# A sum of h products, each rounded, of entries of order one.
ROUNDING = dict(rtol=0, atol=1e-14)


def rotation(size):
    return MLP((size, size), key=jax.random.key(size), init=Orthogonal()).weights[0]


def test_balance_is_what_a_layer_puts_out_minus_what_it_takes_in():
    W_1, W_2, W_3 = NET.weights
    D_1, D_2 = balance(NET)
    np.testing.assert_allclose(D_1, W_2.T @ W_2 - W_1 @ W_1.T, **ROUNDING)
    np.testing.assert_allclose(D_2, W_3.T @ W_3 - W_2 @ W_2.T, **ROUNDING)


def test_balance_is_symmetric_with_the_difference_of_the_squared_norms_as_trace():
    for D, before, after in zip(balance(NET), NET.weights[:-1], NET.weights[1:], strict=True):
        np.testing.assert_allclose(D, D.T, **ROUNDING)
        np.testing.assert_allclose(jnp.trace(D), jnp.sum(after**2) - jnp.sum(before**2), **ROUNDING)


def test_the_transposed_network_has_the_opposite_balance_in_reverse_order():
    transposed = linear_net([W.T for W in reversed(NET.weights)])
    for D, opposite in zip(balance(NET), reversed(balance(transposed)), strict=True):
        np.testing.assert_allclose(D, -opposite, **ROUNDING)


def test_balance_does_not_see_rotations_of_inputs_and_outputs():
    W_1, W_2, W_3 = NET.weights
    rotated = NET.with_weights([W_1 @ rotation(3), W_2, rotation(2) @ W_3])
    for D, same in zip(balance(NET), balance(rotated), strict=True):
        np.testing.assert_allclose(same, D, **ROUNDING)


def test_balance_turns_with_a_rotation_of_its_hidden_layer():
    W_1, W_2, W_3 = NET.weights
    R = rotation(5)
    D_1, D_2 = balance(NET.with_weights([R @ W_1, W_2 @ R.T, W_3]))
    np.testing.assert_allclose(D_1, R @ balance(NET)[0] @ R.T, **ROUNDING)
    np.testing.assert_allclose(D_2, balance(NET)[1], **ROUNDING)


def test_a_single_layer_has_nothing_to_balance():
    assert balance(MLP((3, 2), key=jax.random.key(0))) == ()
