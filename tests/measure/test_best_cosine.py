"""The exponent that suits a network best."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow.measure import best_cosine

KEY = jax.random.key(0)
best = jax.jit(best_cosine)


def test_the_best_exponent_of_a_balanced_linear_network_is_one_over_its_depth():
    data = nf.data.linear_teacher(20, 5, 3, key=KEY)
    for depth in (2, 3):
        net = nf.nets.MLP([5] * depth + [3], key=KEY, init=nf.nets.Balanced(0.5))
        found = best(net, data)
        # 1 − cos is of second order in arctan α, known to 1e-7.
        assert found.cosine == pytest.approx(1, abs=1e-12) and found.relative_error < 1e-6
        assert found.exponent == pytest.approx(1 / depth, abs=1e-6)


def test_no_exponent_on_a_fine_grid_does_better():
    data = nf.data.linear_teacher(20, 5, key=KEY)
    for seed in range(3):
        net = nf.nets.MLP([5, 8, 1], key=jax.random.key(seed), activation="relu")
        found = best(net, data)
        powers = np.tan(np.linspace(1e-4, np.pi / 2 - 0.05, 300))
        cosines = jax.vmap(lambda power, net=net: nf.measure.alignment(power)(net, data))(jnp.asarray(powers))
        assert jnp.max(cosines) <= found.cosine + 1e-12
        assert found.relative_error == pytest.approx(np.sqrt(1 - found.cosine**2), rel=1e-6)


def test_single_precision_finds_it_too():
    net = nf.nets.MLP([5, 8, 3], key=KEY, activation="tanh")
    data = nf.data.linear_teacher(20, 5, 3, key=KEY)
    expected = best(net, data)
    with jax.enable_x64(False):
        single = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float32)), (net, data))
        found = best(*single)
    assert found.cosine.dtype == np.float32
    np.testing.assert_allclose(found.cosine, expected.cosine, rtol=1e-5)
    np.testing.assert_allclose(found.exponent, expected.exponent, rtol=1e-2)


def test_the_best_exponent_is_undefined_for_zero_weights_and_for_an_agop_of_rank_one():
    data = nf.data.linear_teacher(20, 5, key=KEY)
    net = nf.nets.MLP([5, 8, 1], key=KEY)
    zero = net.with_weights([0 * W for W in net.weights])
    assert all(jnp.isnan(value) for value in best(zero, data))
    # A linear network with one output has an AGOP of rank one, whose powers are all the same up to their scale.
    found = best(net, data)
    assert jnp.isnan(found.exponent) and 0 < found.cosine < 1
