"""What a certified run tells without its second run: the loss identity and the balance of linear layers."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow.flow.invariants import LossBudget, balance_error, loss_budget
from nfa_flow.problem.objective import make_objective
from nfa_flow.run.observation import make_observer

TIMES = [0.0, 1.0, 5.0, 20.0]
DATA = nf.data.linear_teacher(30, 3, 2, key=jax.random.key(0), noise=0.1)
TANH = nf.nets.MLP([3, 5, 2], key=jax.random.key(1), activation="tanh")
LINEAR = nf.nets.MLP([3, 5, 2], key=jax.random.key(1))
# One pair of layers with a law, with biases, and one without.
MIXED = nf.nets.MLP([3, 4, 4, 2], key=jax.random.key(2), activation=["identity", "tanh"], bias=True)


def flow(net, *, rtol=1e-6, t1=TIMES[-1], **options):
    options = {"solver": diffrax.Tsit5(), "save_at": TIMES, "progress": False} | options
    return nf.gradient_flow(net, DATA, t1, rtol=rtol, certify=True, **options)


@pytest.mark.parametrize("solver", [nf.flow.NDF(), diffrax.Tsit5(), nf.flow.TSRKC3()], ids=lambda s: type(s).__name__)
def test_the_error_of_the_loss_identity_follows_the_tolerance(solver):
    for rtol in (1e-4, 1e-6, 1e-8):
        error = flow(TANH, solver=solver, rtol=rtol, weight_decay=0.05).observed["loss_identity_error"]
        assert error[0] == 0
        assert 0 < error[-1] < 10 * rtol  # ten times: what `gradient_flow` promises of the parameters


EXCESS = 1e-3


class TooFast(diffrax.Tsit5):
    """Follows θ' = −(1 + EXCESS)∇F."""

    def wrong(self, terms):
        return diffrax.ODETerm(lambda *args: jax.tree.map(lambda v: (1 + EXCESS) * v, terms.vf(*args)))

    def init(self, terms, *args):
        return super().init(self.wrong(terms), *args)

    def step(self, terms, *args):
        return super().step(self.wrong(terms), *args)


def test_a_wrong_vector_field_shows_in_the_loss_identity_and_not_in_the_second_run():
    """F(t0) − F(t) = (1 + ε)∫‖∇F‖²: the error is ε/(1 + ε), once what was lost is far above the rounding of F."""
    run = flow(TANH, solver=TooFast(), rtol=1e-7)
    np.testing.assert_allclose(run.observed["loss_identity_error"][1:], EXCESS / (1 + EXCESS), atol=10 * 1e-7)
    assert run.observed["parameter_error"][-1] < 10 * 1e-7


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_linear_layers_keep_their_balance_to_the_tolerance(weight_decay):
    run = flow(LINEAR, weight_decay=weight_decay)
    error = run.observed["balance_error"]
    assert error[0] == 0
    assert 0 < error[1:].min() and error.max() < 10 * 1e-6
    assert 0 < run.observed["loss_identity_error"][-1] < 10 * 1e-6


@pytest.mark.parametrize(
    ("mobility", "weight_decay"), [([3.0, 0.5, 1.0], 0.0), ([2.0, 2.0, 0.5], 0.1)], ids=["no decay", "equal"]
)
def test_the_laws_carry_mobilities_and_biases(mobility, weight_decay):
    run = flow(MIXED, mobility=mobility, weight_decay=weight_decay)
    assert jnp.linalg.norm(run.net.layers[0].bias) > 0.01
    for name in ("balance_error", "loss_identity_error"):
        assert 0 < run.observed[name][-1] < 10 * 1e-6


def test_no_balance_is_reported_where_it_has_no_closed_law():
    assert "balance_error" not in flow(TANH, weight_decay=0.05).observed
    assert "balance_error" not in flow(MIXED, mobility=[3.0, 0.5, 1.0], weight_decay=0.1).observed


def repeated(net):
    return jax.tree.map(lambda W: jnp.stack([W, W]), eqx.filter(net, eqx.is_inexact_array))


ELAPSED = jnp.array([0.0, 1.0])


def test_mobilities_known_only_as_a_tree_or_while_tracing_give_no_law_that_may_not_hold():
    tree = jax.tree.map(lambda W: 2.0, eqx.filter(LINEAR, eqx.is_inexact_array))
    assert balance_error(LINEAR, repeated(LINEAR), ELAPSED, 0.0, tree) is None
    error = lambda mobility, decay: balance_error(LINEAR, repeated(LINEAR), ELAPSED, decay, mobility)
    equal, decay, zero = jnp.array([2.0, 2.0]), jnp.array(0.1), jnp.array(0.0)
    assert jax.eval_shape(lambda m: error(m, decay), equal) is None
    assert jax.eval_shape(lambda m: error(m, zero), equal).shape == ELAPSED.shape
    for known in (equal, [*equal]):
        assert jax.eval_shape(lambda decay, m=known: error(m, decay), decay).shape == ELAPSED.shape


def test_other_modules_have_no_balance():
    net = eqx.nn.MLP(3, 2, 4, 1, activation=lambda x: x, key=jax.random.key(0))
    assert balance_error(net, repeated(net), ELAPSED, 0.0, None) is None


def test_a_layer_that_grows_alone_breaks_the_balance_by_its_growth():
    """W_2 → (1 + ε)W_2 adds (2ε + ε²)W_2ᵀW_2 to D."""
    W, V = LINEAR.weights
    nets = repeated(LINEAR.with_weights([W, 1.001 * V]))
    size = jnp.sum((1.001 * V) ** 2) / 5 + jnp.sum(W**2) / 2
    expected = (2e-3 + 1e-6) * jnp.linalg.norm(V.T @ V) / 5 / size
    error = np.asarray(balance_error(LINEAR, nets, ELAPSED, 0.0, [2.0, 5.0]))
    np.testing.assert_allclose(error, expected, rtol=1e-10)


def test_a_network_that_stays_at_zero_keeps_both_laws():
    zero = LINEAR.with_weights([0 * W for W in LINEAR.weights])
    run = flow(zero)
    for name in ("loss_identity_error", "balance_error"):
        np.testing.assert_array_equal(run.observed[name], 0)


def test_a_flow_that_no_longer_moves_has_no_error():
    """Where F(t0) − F(t) is the rounding of F, any number would be noise."""
    converged = flow(LINEAR, rtol=1e-10, t1=300.0, weight_decay=0.1).net
    run = flow(converged, rtol=1e-10, weight_decay=0.1)
    np.testing.assert_array_equal(run.observed["loss_identity_error"], 0)


def test_the_errors_come_in_batches():
    def solve(decay):
        observed = flow(LINEAR, weight_decay=decay).observed
        return observed["loss_identity_error"], observed["balance_error"]

    batch = jax.jit(jax.vmap(solve))(jnp.array([0.0, 0.1]))
    for errors, alone in zip(batch, zip(solve(0.0), solve(0.1), strict=True), strict=True):
        np.testing.assert_allclose(errors, jnp.stack(alone), rtol=1e-3, atol=1e-14)


def test_dissipation_too_small_for_float32_adds_up():
    """A million times 1e-9 after a loss of 1: each is below half a unit in the last place of 1, 6e-8."""
    zero, small = jnp.zeros((), jnp.float32), jnp.float32(1e-9)
    budget = LossBudget(jnp.asarray(True), jnp.float32(1), zero, jnp.float32(1), zero)
    budget = jax.lax.fori_loop(0, 1_000_000, lambda _, budget: budget.spend(small), budget)
    np.testing.assert_allclose(budget.dissipated, 1.001, rtol=2 * float(jnp.finfo(jnp.float32).eps))


def test_an_ordinary_run_keeps_no_budget():
    parameters, objective = make_objective(LINEAR, DATA, "mse", 0.0)
    observer = make_observer(None, DATA, LINEAR, keep_parameters=False)
    assert loss_budget(observer, objective, parameters) is None
