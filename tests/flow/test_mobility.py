import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import nfa_flow as nf
from nfa_flow.problem.objective import make_objective

MOBILITY = [3.0, 1.0, 0.2]
TIGHT = {"rtol": 1e-9, "progress": False}


def problem(activation="tanh"):
    net = nf.nets.MLP([3, 5, 4, 2], key=jax.random.key(1), activation=activation)
    return net, nf.data.linear_teacher(30, 3, 2, key=jax.random.key(0), noise=0.1)


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


WIDTHS, END = (3, 6, 6, 2), 3.0
MUP = nf.nets.MLP(WIDTHS, key=jax.random.key(1), activation="tanh", parametrization="muP")
NODES, WEIGHTS = np.polynomial.legendre.leggauss(20)


def dissipation(net, data):
    """Σ m_l ‖∇_l ℒ‖²."""
    gradient = jax.grad(lambda W: nf.measure.loss(net.with_weights(W), data))(net.weights)
    return sum(m * jnp.sum(g**2) for m, g in zip(net.mobility, gradient, strict=True))


@pytest.fixture(scope="module")
def mup_run():
    return mup_flow(MUP, END)


def mup_flow(net, end):
    """The flow of a muP network, observed at its ends and at the nodes of a quadrature between them."""
    observe = {"loss": nf.measure.loss, "dissipation": dissipation}
    times = [0.0, *(end / 2 * (1 + NODES)), end]
    return nf.gradient_flow(net, problem()[1], end, observe=observe, save_at=times, **TIGHT)


class WithMultipliers(eqx.Module):
    """muP as Tensor Programs IV writes it: √n W_1, W_2, W_3/√n in the forward pass, one learning rate for all."""

    net: nf.nets.MLP

    def __call__(self, x):
        return self.net.with_weights([n * W for n, W in zip(FACTORS, self.net.weights, strict=True)])(x)


FACTORS = (6**0.5, 1.0, 6**-0.5)


def test_mup_is_the_plain_flow_of_a_network_with_multipliers(mup_run):
    raw = WithMultipliers(MUP.with_weights([W / n for n, W in zip(FACTORS, MUP.weights, strict=True)]))
    # Without its parametrization, whose mobilities are those of the other coordinates.
    run = nf.gradient_flow(raw, problem()[1], END, observe={}, **TIGHT)
    for n, raw_W, W in zip(FACTORS, run.net.net.weights, mup_run.net.weights, strict=True):
        assert jnp.linalg.norm(n * raw_W - W) < 20 * 1e-9 * jnp.linalg.norm(W)  # 10 × rtol each


def test_the_loss_falls_by_what_the_mobilities_dissipate(mup_run):
    """ℒ(0) − ℒ(T) = ∫ Σ m_l ‖∇_l ℒ‖² dt."""
    loss, rate = np.asarray(mup_run.observed["loss"]), np.asarray(mup_run.observed["dissipation"])
    lost = loss[0] - loss[-1]
    assert lost > 0.1 * loss[0]
    np.testing.assert_allclose(END / 2 * WEIGHTS @ rate[1:-1], lost, rtol=1e-7)


def test_the_next_network_of_a_parametrization_compiles_nothing(compilations):
    mup_flow(MUP, END)
    net = MUP.with_weights([2 * W for W in MUP.weights])
    compilations()
    mup_flow(net, 2.0)
    assert compilations() == 0


def test_a_linear_mup_network_keeps_the_balance_of_its_mobilities():
    net = nf.nets.MLP(WIDTHS, key=jax.random.key(1), parametrization="muP")
    run = nf.gradient_flow(net, problem()[1], 10.0, save_at=[0.0, 10.0], observe={"D": nf.measure.balance}, **TIGHT)
    n, (W_1, W_2, W_3) = WIDTHS[1], net.weights
    for D, by_hand in zip(
        run.observed["D"], (W_2.T @ W_2 - W_1 @ W_1.T / n, n * W_3.T @ W_3 - W_2 @ W_2.T), strict=True
    ):
        np.testing.assert_allclose(D[0], by_hand, atol=1e-14)
        np.testing.assert_allclose(D[1], D[0], atol=1e-7 * np.linalg.norm(by_hand))


def euler(net, t1=0.2, **options):
    """One or two cheap steps, which tell mobilities apart."""
    data, solver = problem()[1], diffrax.Euler()
    return nf.gradient_flow(net, data, t1, solver=solver, dt0=0.1, observe={}, progress=False, **options)


def test_given_mobilities_take_the_place_of_those_of_the_parametrization():
    plain = nf.nets.MLP(WIDTHS, key=jax.random.key(2), activation="tanh").with_weights(MUP.weights)
    own, given = euler(MUP), euler(MUP, mobility=[1.0, 1.0, 1.0])
    np.testing.assert_array_equal(weights_of(given.net), weights_of(euler(plain, mobility=[1.0] * 3).net))
    np.testing.assert_array_equal(weights_of(own.net), weights_of(euler(plain, mobility=MUP.mobility).net))
    assert jnp.linalg.norm(weights_of(own.net) - weights_of(given.net)) > 0.01


def test_biases_move_with_mobilities_of_their_own():
    net = nf.nets.MLP([3, 6, 2], key=jax.random.key(1), activation="tanh", bias=True, parametrization="muP")
    gradient = eqx.filter_grad(nf.measure.loss)(net, problem()[1])
    moved = euler(net, t1=0.1).net
    for new, old, g, (m, m_bias) in zip(moved.layers, net.layers, gradient.layers, [(6, 6), (1 / 6, 1)], strict=True):
        np.testing.assert_allclose(new.weight, old.weight - 0.1 * m * g.weight, rtol=1e-12)
        np.testing.assert_allclose(new.bias, old.bias - 0.1 * m_bias * g.bias, rtol=1e-12)


def test_a_flow_does_not_follow_the_learning_rates_of_adam():
    net = nf.nets.MLP(WIDTHS, key=jax.random.key(1), activation="tanh", parametrization=nf.nets.muP("adam"))
    with pytest.raises(ValueError, match="`mobility` must be given for a network whose muP is meant for Adam"):
        euler(net)
