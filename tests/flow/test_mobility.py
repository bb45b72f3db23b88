import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import nfa_flow as nf
from nfa_flow.objective import make_objective

MOBILITY = [3.0, 1.0, 0.2]
TIGHT = {"rtol": 1e-9, "progress": False}


def problem(activation="tanh"):
    net = nf.nets.MLP([3, 5, 4, 2], key=jax.random.key(1), activation=activation)
    return net, nf.data.linear_teacher(jax.random.key(0), 30, 3, 2, noise=0.1)


def by_hand(net, data, t1, weight_decay):
    """dW_l/dt = −m_l (∇_l ℒ + λ W_l), with diffrax alone."""
    parameters, objective = make_objective(net, data, "mse", weight_decay)
    mobility = eqx.tree_at(lambda p: [layer.weight for layer in p.layers], parameters, MOBILITY)

    def velocity(t, y, args):
        return jax.tree.map(lambda m, g: -m * g, mobility, objective.gradient(y))

    controller = diffrax.PIDController(1e-11, 1e-14)
    term, solver = diffrax.ODETerm(velocity), diffrax.Dopri8()
    solution = diffrax.diffeqsolve(term, solver, 0.0, t1, None, parameters, stepsize_controller=controller)
    return ravel_pytree(solution.ys)[0]


def weights_of(net):
    return ravel_pytree(eqx.filter(net, eqx.is_inexact_array))[0]


@pytest.mark.parametrize("activation", ["tanh", "identity"])
def test_each_layer_moves_with_its_own_mobility(activation):
    net, data = problem(activation)
    run = nf.gradient_flow(net, data, 5.0, mobility=MOBILITY, weight_decay=0.05, **TIGHT)
    exact = by_hand(net, data, 5.0, 0.05)
    assert jnp.linalg.norm(weights_of(run.net) - exact) < 1e-8 * jnp.linalg.norm(exact)


def test_networks_are_observed_and_kept_in_their_own_coordinates():
    net, data = problem()
    run = nf.gradient_flow(net, data, 1.0, mobility=MOBILITY, save_at=[0.0, 1.0], save_nets=True, **TIGHT)
    np.testing.assert_allclose(weights_of(run.net_at(0)), weights_of(net), rtol=1e-14)
    np.testing.assert_allclose(run.observed["loss"][0], nf.measure.loss(net, data), rtol=1e-14)


def test_mobility_as_a_tree_is_the_same_as_one_number_per_layer():
    net, data = problem()
    tree = eqx.tree_at(lambda p: [layer.weight for layer in p.layers], eqx.filter(net, eqx.is_inexact_array), MOBILITY)
    runs = [nf.gradient_flow(net, data, 1.0, mobility=mobility, **TIGHT) for mobility in (MOBILITY, tree)]
    np.testing.assert_array_equal(weights_of(runs[0].net), weights_of(runs[1].net))


def test_a_common_mobility_is_a_change_of_the_unit_of_time():
    net, data = problem()
    fast = nf.gradient_flow(net, data, 1.0, mobility=[2.0] * 3, **TIGHT)
    slow = nf.gradient_flow(net, data, 2.0, **TIGHT)
    np.testing.assert_allclose(weights_of(fast.net), weights_of(slow.net), rtol=1e-7)


def test_the_balance_law_carries_the_mobilities():
    """D_l = m_{l+1}⁻¹ W_{l+1}ᵀW_{l+1} − m_l⁻¹ W_l W_lᵀ is conserved between linear layers."""
    net, data = problem("identity")
    run = nf.gradient_flow(net, data, 10.0, mobility=MOBILITY, **TIGHT)

    def balance(net):
        scaled = [W / np.sqrt(m) for W, m in zip(net.weights, MOBILITY, strict=True)]
        return [V.T @ V - W @ W.T for W, V in zip(scaled, scaled[1:], strict=False)]

    for before, after in zip(balance(net), balance(run.net), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-7 * np.linalg.norm(before))


@pytest.mark.parametrize(
    ("mobility", "was"), [([1.0, 2.0], "of 2 numbers for 3 layers"), ([1.0, 0.0, 1.0], "0.0"), ([1.0, 1.0, -1.0], "-1")]
)
def test_bad_mobilities_are_named(mobility, was):
    net, data = problem()
    with pytest.raises(ValueError, match=f"`mobility` must be positive numbers.*{was}"):
        nf.gradient_flow(net, data, 1.0, mobility=mobility)


def test_mobility_may_be_an_array_and_batched():
    net, data = problem("identity")
    solve = lambda mobility: nf.gradient_flow(
        net, data, 1.0, mobility=mobility, save_at=[1.0], progress=False
    ).observed["loss"][0]
    batch = jax.vmap(solve)(jnp.array([MOBILITY, [1.0, 1.0, 1.0]]))
    np.testing.assert_allclose(batch, [solve(MOBILITY), solve(np.ones(3))], rtol=1e-5)


def test_a_tree_of_another_structure_is_named():
    net, data = problem()
    with pytest.raises(ValueError, match="`mobility` must be positive numbers.*dict of another structure"):
        nf.gradient_flow(net, data, 1.0, mobility={"a": 1.0})
