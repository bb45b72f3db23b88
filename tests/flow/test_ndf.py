"""NDF is accurate to its tolerance, of the order it claims, cheap on stiff flows, and says when it fails."""

import contextlib
import math
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
from oracles import balanced_net, relative, scalar_net, whitened_problem

import nfa_flow as nf
from nfa_flow import drive
from nfa_flow.flow import NDF
from nfa_flow.flow.newton_cg import NewtonCG

TOLERANCES = [1e-3, 1e-6, 1e-9]

# One compiled solve serves all these problems y' = f(t, y); all but the quadratic flow act on each component alone.
SIZE = 9
EIGENVALUES = np.geomspace(1e-4, 1e4, SIZE)
BASIS, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, SIZE)))
HESSIAN, MINIMUM = BASIS * EIGENVALUES @ BASIS.T, np.random.default_rng(1).normal(size=SIZE)
SPREAD = np.linspace(0.5, 1.0, SIZE)
FIELDS = {
    "non-autonomous": lambda t, y: -(y**2) * jnp.cos(t),
    "quadratic": lambda t, y: jnp.asarray(HESSIAN, y.dtype) @ (jnp.asarray(MINIMUM, y.dtype) - y),
    "double well": lambda t, y: y - y**3,
    "growth": lambda t, y: y,
    "very stiff": lambda t, y: -1e8 * (y - jnp.cos(t)),
    "blows up": lambda t, y: y**2,
    "no number below 0.4": lambda t, y: jnp.where(y < 0.4, jnp.nan, -y),
}


def solve(name: str, y0: Any, t1: Any, *, rtol: Any, t0: Any = 0.0, times: Any = None, solver: Any = None) -> Any:
    """The solution of one of the problems: `ys` at the times and at the steps."""
    times = np.linspace(t0, t1, 11) if times is None else times
    index = list(FIELDS).index(name)
    traced = [jnp.asarray(value) for value in (index, y0, t0, t1, times, rtol)]
    return _solve(NDF() if solver is None else solver, *traced)


@eqx.filter_jit
def _solve(solver, index, y0, t0, t1, times, rtol):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: jax.lax.switch(index, list(FIELDS.values()), t, y)),
        solver,
        t0,
        t1,
        None,
        y0,
        saveat=diffrax.SaveAt(
            subs=[diffrax.SubSaveAt(ts=times), diffrax.SubSaveAt(steps=True)], dense=True, solver_state=True
        ),
        stepsize_controller=diffrax.PIDController(rtol, (1e-3 * rtol).astype(rtol.dtype)),
        max_steps=2048,
        throw=False,
    )


def succeeded(solution):
    return bool(solution.result == diffrax.RESULTS.successful)


def non_autonomous(t):
    """From SPREAD at 0."""
    return 1 / (np.sin(t)[..., None] + 1 / SPREAD)


def quadratic(t, y0):
    decay = np.exp(-np.multiply.outer(t, EIGENVALUES))
    return MINIMUM + decay * ((y0 - MINIMUM) @ BASIS) @ BASIS.T


def worst(computed, exact):
    """The largest relative error among times, in the norm over components."""
    return np.max(np.linalg.norm(computed - exact, axis=-1) / np.linalg.norm(exact, axis=-1))


@pytest.mark.parametrize("rtol", TOLERANCES)
def test_the_error_of_a_non_autonomous_problem_is_within_ten_tolerances(rtol):
    """Twice that, as the flow itself doubles relative errors, which vary as y, from π/2 to π."""
    times = np.linspace(0, np.pi, 11)
    solution = solve("non-autonomous", SPREAD, np.pi, rtol=rtol, times=times)
    assert succeeded(solution)
    assert worst(solution.ys[0], non_autonomous(times)) < 20 * rtol


@pytest.mark.parametrize("rtol", TOLERANCES)
def test_the_error_of_a_stiff_flow_is_within_ten_tolerances(rtol):
    """Eigenvalues from 1e-4 to 1e4, for a time of 1e5."""
    y0, times = MINIMUM + np.random.default_rng(2).normal(size=SIZE), np.geomspace(1e-5, 1e5, 11)
    solution = solve("quadratic", y0, 1e5, rtol=rtol, times=times)
    assert succeeded(solution)
    assert worst(solution.ys[0], quadratic(times, y0)) < 10 * rtol


def test_steps_and_the_times_between_them_are_as_accurate_as_saved_times():
    solution = solve("non-autonomous", SPREAD, np.pi, rtol=1e-6)
    steps = np.isfinite(solution.ts[1])
    assert steps.sum() == solution.stats["num_accepted_steps"]
    assert worst(np.asarray(solution.ys[1])[steps], non_autonomous(np.asarray(solution.ts[1])[steps])) < 1e-5
    times = np.linspace(0, np.pi, 101)
    between = jax.vmap(solution.evaluate)(jnp.asarray(times))
    assert worst(between, non_autonomous(times)) < 20e-6
    at_saved_times = jax.vmap(solution.evaluate)(solution.ts[0])
    np.testing.assert_allclose(at_saved_times, solution.ys[0], rtol=1e-14)


def test_the_order_climbs_to_the_highest():
    solution = solve("non-autonomous", SPREAD, np.pi, rtol=1e-9)
    assert NDF().work(solution.solver_state)["largest_order"] == 6


def test_other_times_tolerances_and_problems_compile_nothing(compilations):
    solve("growth", SPREAD, 1.0, rtol=1e-4)
    compilations()
    solve("very stiff", 2 * SPREAD, 2.0, rtol=1e-5, t0=0.5)
    assert compilations() == 0


def test_lanes_of_a_batch_agree_with_single_runs():
    """A lane makes the steps that it makes alone, to rounding: Newton's tolerance allows no more."""
    starts = SPREAD * np.array([0.2, 1.0, 3.0])[:, None]
    lanes = jax.vmap(lambda y0: solve("double well", y0, 5.0, rtol=1e-6).ys[0])(jnp.asarray(starts))
    for lane, y0 in zip(lanes, starts, strict=True):
        assert worst(lane, solve("double well", y0, 5.0, rtol=1e-6).ys[0]) < 1e-6


def test_time_runs_backwards_too():
    """y' = y from 5 to 0 decays."""
    solution = solve("growth", SPREAD, 0.0, t0=5.0, rtol=1e-6)
    assert succeeded(solution)
    assert worst(solution.ys[0], np.exp(np.linspace(0, -5, 11))[:, None] * SPREAD) < 1e-5


@pytest.mark.parametrize("rtol", TOLERANCES)
def test_negative_curvature_everywhere_is_followed(rtol):
    """y' = y is ascent on a paraboloid: errors grow with the solution, which grows by e⁵."""
    solution = solve("growth", SPREAD, 5.0, rtol=rtol)
    assert succeeded(solution)
    assert worst(solution.ys[0][-1:], np.exp(5.0) * SPREAD[None]) < 20 * rtol


@pytest.mark.parametrize("rtol", TOLERANCES)
def test_a_curvature_of_1e8_costs_no_accuracy(rtol):
    """y' = −λ(y − cos t) follows y = cos t + sin t/λ within O(λ⁻²) as soon as its start has decayed."""
    solution = solve("very stiff", SPREAD, 1.0, rtol=rtol)
    assert succeeded(solution)
    times = np.linspace(0, 1, 11)[1:, None]
    assert worst(solution.ys[0][1:], (np.cos(times) + 1e-8 * np.sin(times)) * np.ones(SIZE)) < 10 * rtol


@pytest.mark.parametrize("rest", [-1.0, 0.0, 1.0])
def test_critical_points_are_rested_at_in_few_steps(rest):
    """The two minima of the double well, and the saddle between them."""
    solution = solve("double well", np.full(SIZE, rest), 100.0, rtol=1e-6)
    assert succeeded(solution) and solution.stats["num_steps"] < 20
    np.testing.assert_allclose(solution.ys[0], rest, rtol=0, atol=1e-12)


def test_a_flow_leaves_the_neighbourhood_of_a_saddle():
    """y = ±1/√(1 + (1/y0² − 1)e^{−2t}); the curvature changes its sign on the way."""
    y0, times = 1e-3 * SPREAD, np.linspace(0, 20, 11)
    solution = solve("double well", y0, 20.0, rtol=1e-6)
    exact = 1 / np.sqrt(1 + (1 / y0**2 - 1) * np.exp(-2 * times)[:, None])
    # A relative error made at the saddle stays one until the well: as many tolerances as its time has e-foldings.
    assert succeeded(solution) and worst(solution.ys[0], exact) < 20e-6


@pytest.mark.parametrize(("name", "end"), [("blows up", 1.0), ("no number below 0.4", math.log(0.5 / 0.4))])
def test_a_solution_that_ends_early_is_no_success(name, end):
    solution = solve(name, SPREAD, 2.0, rtol=1e-6)
    assert not succeeded(solution)
    reached = np.asarray(solution.ts[1])
    assert np.max(reached[np.isfinite(reached)]) <= end + 1e-5
    assert np.all(np.isfinite(np.asarray(solution.ys[1])[np.isfinite(reached)]))


@pytest.mark.parametrize("max_order", [0, 7, 2.5, 2.0, "x", True])
def test_a_bad_highest_order_is_named(max_order, no_type_checks):
    with pytest.raises(ValueError, match="`max_order` must be"):
        NDF(max_order=max_order)


def test_the_highest_order_is_not_exceeded():
    solver = NDF(max_order=2)
    solution = solve("quadratic", MINIMUM + 1, 1e5, rtol=1e-4, solver=solver)
    assert succeeded(solution)
    assert worst(solution.ys[0], quadratic(np.linspace(0, 1e5, 11), MINIMUM + 1)) < 1e-3
    assert solver.work(solution.solver_state)["largest_order"] == 2


def test_states_are_trees_of_arrays_of_any_shape():
    y0 = {"scalar": jnp.asarray(1.0), "nested": (jnp.ones((2, 3)), [jnp.full(4, 2.0)])}
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: jax.tree.map(jnp.negative, y)),
        NDF(),
        0.0,
        1.0,
        None,
        y0,
        stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-9),
    )
    assert jax.tree.structure(solution.ys) == jax.tree.structure(y0)
    for end, start in zip(jax.tree.leaves(solution.ys), jax.tree.leaves(y0), strict=True):
        np.testing.assert_allclose(end[0], start / math.e, rtol=1e-5)


def test_a_jump_of_the_field_that_is_announced_costs_no_accuracy():
    """y' = −(y − b) with b = 1 until t = 1 and b = −1 after it."""
    times = np.linspace(0, 3, 13)
    solution: Any = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: jnp.where(t < 1, 1, -1) - y),
        NDF(),
        0.0,
        3.0,
        None,
        jnp.array([3.0]),
        saveat=diffrax.SaveAt(ts=jnp.asarray(times)),
        stepsize_controller=diffrax.ClipStepSizeController(diffrax.PIDController(1e-7, 1e-9), jump_ts=[1.0]),
    )
    before = 1 + 2 * np.exp(-times)
    after = -1 + (2 + 2 / math.e) * np.exp(1 - times)
    np.testing.assert_allclose(solution.ys[:, 0], np.where(times <= 1, before, after), rtol=0, atol=1e-6)


def test_after_a_jump_the_past_is_forgotten():
    term = diffrax.ODETerm(lambda t, y, args: -y)
    solver, y0 = NDF(root_finder=NewtonCG(1e-3, 1e-6, optx.rms_norm)), jnp.array([1.0])
    fresh = solver.init(term, 0.0, 0.01, y0, None)
    stale = eqx.tree_at(lambda s: (s.differences, s.order), fresh, (7 * (jnp.ones(1),), jnp.asarray(4, jnp.int32)))
    step = eqx.filter_jit(lambda state, jump: solver.step(term, 0.0, 0.01, y0, None, state, jump)[0])
    expected = step(fresh, jnp.asarray(False))
    assert step(stale, jnp.asarray(True)) == expected != y0
    assert step(stale, jnp.asarray(False)) != expected


# --- The formulas, of each order.

# Shampine & Reichelt 1997, table 1; order 6 is the backward differentiation formula, as order 5.
KAPPA = {1: -0.185, 2: -1 / 9, 3: -0.0823, 4: -0.0415, 5: 0.0, 6: 0.0}


class ToTheLastDigit(NewtonCG):
    """Solves better than its tolerance asks, so that a step has no error but that of its formula."""

    def solve(self, field, y, psi, a, scale, *settings):
        return super().solve(field, y, psi, a, 1e-18 * scale, *settings)


def monomial(order):
    """y = t^{order+1}."""
    return lambda t: t ** (order + 1.0), lambda t, y: (order + 1) * t**order


def bell(order):
    """y = exp(−t²/2)."""
    return lambda t: jnp.exp(-(t**2) / 2), lambda t, y: -t * y


@eqx.filter_jit
def error_of_formula(problem, order, steps):
    """The error at t = 2 after equal steps of one order from exact differences at t = 1."""
    y, f = problem(order)
    h = 1 / steps
    points = y(1 - h * jnp.arange(7, -1, -1))[:, None]
    term = diffrax.ODETerm(lambda t, y, args: f(t, y))
    solver = NDF(root_finder=ToTheLastDigit(1e6, 1e6, optx.rms_norm, exact_products=True))  # pyright: ignore
    exact_differences = tuple(jnp.diff(points, n=j, axis=0)[-1] for j in range(1, 8))
    state = solver.init(term, 1.0, 1 + h, points[-1], None)
    state = eqx.tree_at(lambda s: s.differences, state, exact_differences)

    def step(i, carry):
        value, state = carry
        state = eqx.tree_at(lambda s: (s.order, s.rate), state, (order, jnp.ones(())))
        value, _, _, state, _ = solver.step(term, 1 + i * h, 1 + (i + 1) * h, value, None, state, False)
        return value, state

    end, _ = jax.lax.fori_loop(0, steps, step, (points[-1], state))
    return end[0] - y(1 + steps * h)


@pytest.mark.parametrize("order", KAPPA)
def test_the_error_constant_is_the_published_one(order):
    """One step on t^{k+1}, where it is all the error: (κγ + 1/(k+1))/((1 − κ)γ) ∇^{k+1}y, with γ = 1 + … + 1/k."""
    gamma = sum(1 / j for j in range(1, order + 1))
    constant = (KAPPA[order] * gamma + 1 / (order + 1)) / ((1 - KAPPA[order]) * gamma)
    error = error_of_formula(monomial, jnp.asarray(order, jnp.int32), 1)
    assert float(error) == pytest.approx(constant * math.factorial(order + 1), rel=1e-9)


@pytest.mark.parametrize("order", KAPPA)
def test_the_formula_of_each_order_has_that_order(order):
    coarse, fine = (error_of_formula(bell, jnp.asarray(order, jnp.int32), n) for n in (20, 40))
    assert math.log2(abs(coarse / fine)) == pytest.approx(order, abs=0.2)


# --- Through `gradient_flow`.

DATA = nf.data.multi_index(jax.random.key(0), 20, 3, 2)
NET = nf.nets.MLP([3, 6, 1], key=jax.random.key(1), activation="tanh")


def flow(net=NET, t1=1e3, *, solver=None, rtol=1e-6, **options):
    solver = NDF() if solver is None else solver
    return nf.gradient_flow(net, DATA, t1, solver=solver, rtol=rtol, atol=1e-3 * rtol, progress=False, **options)


def parameters(net):
    return np.concatenate([np.ravel(W) for W in net.weights])


@pytest.fixture(scope="module")
def reference():
    return parameters(flow(solver=diffrax.Dopri8(), rtol=1e-12).net)


@pytest.mark.parametrize("rtol", TOLERANCES)
def test_the_parameters_of_a_network_are_within_ten_tolerances(rtol, reference):
    run = flow(rtol=rtol)
    assert relative(parameters(run.net) - reference, reference) < 10 * rtol


def test_a_stiff_flow_costs_less_than_a_tenth_of_an_explicit_solver():
    implicit, explicit = flow().stats, flow(solver=diffrax.Tsit5()).stats
    cost = implicit["gradient_evaluations"] + implicit["hessian_vector_products"]
    assert 10 * cost < explicit["gradient_evaluations"]


def test_an_interrupted_flow_goes_on_to_the_same_bits(monkeypatch, tmp_path):
    @contextlib.contextmanager
    def interrupted_at_once(label, progress):
        def show(fraction):
            raise KeyboardInterrupt

        yield show

    with monkeypatch.context() as patch:
        patch.setattr(drive, "_FIRST_BUDGET", 50)
        patch.setattr(drive, "_progress_bar", interrupted_at_once)
        partial = flow(checkpoint=tmp_path / "run", throw=False)
    assert partial.status == "interrupted" and partial.stats["steps"] == 50
    resumed, whole = flow(checkpoint=tmp_path / "run"), flow()
    np.testing.assert_array_equal(parameters(resumed.net), parameters(whole.net))
    np.testing.assert_array_equal(resumed.observed["loss"], whole.observed["loss"])
    assert {**resumed.stats, "seconds": 0} == {**whole.stats, "seconds": 0}


def test_a_network_of_zeros_stays_zero():
    """A saddle of the loss."""
    run = flow(NET.with_weights([np.zeros_like(W) for W in NET.weights]))
    assert run.stats["steps"] < 40
    np.testing.assert_array_equal(parameters(run.net), 0)


def test_float32_networks_follow_their_float64_twins():
    low = nf.nets.MLP([3, 6, 1], key=jax.random.key(1), activation="tanh", dtype="float32")
    twin = NET.with_weights([np.asarray(W, float) for W in low.weights])
    run, exact = flow(low, rtol=1e-4), flow(twin, rtol=1e-8)
    assert run.net.weights[0].dtype == jnp.float32
    assert relative(parameters(run.net) - parameters(exact.net), parameters(exact.net)) < 1e-3


@pytest.fixture(scope="module")
def counted():
    """For finite differences and exact products: a flow with rejected steps, and how often it took a gradient."""
    one_sample = nf.Dataset(np.ones((1, 2)), np.ones((1, 1)))
    net = nf.nets.MLP([2, 3, 1], key=jax.random.key(0), activation="tanh")
    runs = {}
    for exact in (False, True):
        calls = []

        def counting_loss(prediction, target, calls=calls):
            jax.debug.callback(lambda: calls.append(1))
            return 0.5 * jnp.sum((prediction - target) ** 2)

        run = nf.gradient_flow(
            net,
            one_sample,
            20.0,
            loss=counting_loss,
            solver=NDF(root_finder=diffrax.with_stepsize_controller_tols(NewtonCG)(exact_products=exact)),  # pyright: ignore
            rtol=1e-5,
            dt0=3.0,  # far too long, so that steps are rejected before and after the first accepted one
            observe={"weight": lambda net, data: net.weights[0]},
            progress=False,
        )
        jax.effects_barrier()
        runs[exact] = run, len(calls)
    return runs


@pytest.mark.parametrize("exact_products", [False, True])
def test_work_is_counted_as_it_is_spent(counted, exact_products):
    run, gradients = counted[exact_products]
    assert run.stats["rejected"] > 0
    assert run.stats["gradient_evaluations"] + run.stats["hessian_vector_products"] == gradients


def test_exact_products_and_finite_differences_lead_to_the_same_end(counted):
    by_differences, exact = (parameters(run.net) for run, _ in counted.values())
    assert relative(by_differences - exact, exact) < 1e-5


# --- The physics of deep linear networks.

LINEAR_DATA = nf.data.linear_teacher(jax.random.key(1), 50, 6, 3, noise=0.3)
WIDTHS, DECAY, TIMES = [6, 7, 5, 3], 0.05, np.linspace(0, 20, 11)


def linear_flow(net, solver):
    observe = {"error": nf.measure.alignment(1 / 3, metric="fixed_scale_error"), "balance": nf.measure.balance}
    options = {"weight_decay": DECAY, "observe": observe, "save_at": TIMES, "progress": False}
    return nf.gradient_flow(net, LINEAR_DATA, 20.0, solver=solver, rtol=1e-10, atol=1e-13, **options)


def test_balanced_networks_satisfy_the_ansatz_all_along():
    run = linear_flow(balanced_net(WIDTHS), NDF())
    assert np.max(run.observed["error"]) < 1e-7


def test_balance_decays_at_twice_the_weight_decay_and_the_end_is_that_of_an_explicit_solver():
    net = nf.nets.MLP(WIDTHS, key=jax.random.key(1), init=nf.nets.Gaussian(1.0))
    run, explicit = linear_flow(net, NDF()), linear_flow(net, diffrax.Dopri8())
    for D in map(np.asarray, run.observed["balance"]):
        law = nf.theory.balance_decay(TIMES, DECAY)[:, None, None] * D[0]
        assert relative(D - law, law) < 1e-8
    ours, theirs = parameters(run.net), parameters(explicit.net)
    assert relative(ours - theirs, theirs) < 1e-8


def test_a_scalar_mode_lies_on_its_closed_form():
    s0, sigma, times = 0.05, 1.7, np.linspace(0, 6, 31)
    net = scalar_net(s0, 3)
    data = whitened_problem(net.weights[0], np.array([[sigma]]))
    observe = {"s": lambda net, data: net.affine()[0]}
    options = {"observe": observe, "save_at": times, "rtol": 1e-11, "atol": 1e-14, "progress": False}
    run = nf.gradient_flow(net, data, 6.0, solver=NDF(), **options)
    np.testing.assert_allclose(run.observed["s"].ravel(), nf.theory.scalar_mode(times, s0, sigma, 3), rtol=1e-8)
