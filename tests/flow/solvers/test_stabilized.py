"""`RKC2` and `TSRKC3`: their formulas in numbers, their order, and what they promise as diffrax solvers."""

from fractions import Fraction

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import nfa_flow as nf
from nfa_flow.flow.solvers.chebyshev import chebyshev, last_deviation
from nfa_flow.flow.solvers.rkc2 import RKC2, rkc2
from nfa_flow.flow.solvers.tsrkc3 import TSRKC3, tsrkc3
from nfa_flow.problem.objective import make_objective

ROUNDING = float(jnp.finfo(jnp.float64).eps) / 2
RATIOS = [0.49, 0.5, 0.7, 1.0, 1.5, 2.0, 5.0, 100.0, 1e4]
STAGES = [*range(3, 61), 100, 300, 1000]
one_step, two_step = jax.jit(rkc2), jax.jit(tsrkc3)
both = pytest.mark.parametrize("solver", [RKC2(), TSRKC3()], ids=lambda solver: type(solver).__name__)


# The formulas


def of_stages(formula, stages, *ratio):
    """The formula with so many stages, for the longest interval z on which it is used, and that z."""
    low, high = 0.0, 10.0 * stages**2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if formula(jnp.asarray(middle), *ratio).stages <= stages else (low, middle)
    numbers = formula(jnp.asarray(low), *ratio)
    assert numbers.stages == stages
    return numbers, low


def deviation(numbers, z):
    """d_s/y on y' = λy with z = hλ: b_s (T_s(w0 + w1 z) − T_s(w0))."""
    s, w0 = float(numbers.stages), 1 + float(numbers.delta)
    T, T1, T2, _ = (float(value) for value in chebyshev(numbers.stages, numbers.delta))
    x = (w0 + float(numbers.w1) * z).astype(complex)
    return (T2 / T1**2 if s > 2 else float(numbers.b_2)) * (np.cos(s * np.arccos(x)).real - T)


@pytest.mark.parametrize("stages", [2, *STAGES])
def test_rkc2_is_stable_wherever_it_is_used(stages):
    numbers, interval = of_stages(one_step, stages)
    R = 1 + deviation(numbers, -np.linspace(0, interval, 20 * stages))
    assert np.max(np.abs(R)) <= 1 + 10 * ROUNDING * stages**2


@pytest.mark.parametrize("ratio", RATIOS)
def test_tsrkc3_is_stable_wherever_it_is_used(ratio):
    for stages in STAGES:
        numbers, interval = of_stages(two_step, stages, ratio)
        z = -np.linspace(0, interval, 20 * stages)
        # Amplification factors solve x² = R x − past, as y_{n+1} = y_n + past (y_n − y_{n−1}) + final d_s.
        past = float(numbers.past)
        R = 1 + past + float(numbers.final) * deviation(numbers, z)
        root = np.sqrt((R**2 - 4 * past).astype(complex))
        assert np.max(np.abs(np.stack([R + root, R - root]))) / 2 <= 1 + 10 * ROUNDING * stages**2


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 40, 300])
def test_chebyshev_polynomials_and_derivatives_are_exact_to_rounding(n):
    delta = 0.25 / max(n, 1) ** 2
    x = 1 + Fraction(delta)
    before, now = [Fraction(1), *[Fraction(0)] * 3], [x, Fraction(1), *[Fraction(0)] * 2]
    for _ in range(n):
        before, now = (
            now,
            [2 * x * a + 2 * k * now[k - 1] - b for k, (a, b) in enumerate(zip(now, before, strict=True))],
        )
    np.testing.assert_allclose(chebyshev(jnp.asarray(n), jnp.asarray(delta)), [float(T) for T in before], rtol=1e-14)


def step_of_monomial(numbers, power, ratio):
    """(y_{n+1} − y_n, error estimate) on y' = p t^{p−1} from t = 1 to 1.3, with the exact past."""
    t, h = 1.0, jnp.asarray(0.3)
    field = lambda t, y: jnp.full(1, power * t ** (power - 1.0))
    slope, next_slope, y = field(t, None), field(t + h, None), jnp.ones(1)
    stages = numbers.stages.astype(int)
    d = jax.jit(lambda numbers, stages: last_deviation(field, t, h, y, slope, numbers, stages))(numbers, stages)
    past = 1 - (1 - ratio * h) ** power
    change = numbers.past * past + numbers.final * d
    parts = zip(numbers.error, (past, change, h * slope, h * next_slope), strict=True)
    return float(change[0]), float(sum(weight * part for weight, part in parts)[0])


@pytest.mark.parametrize("stages", [3, 4, 30])
@pytest.mark.parametrize("power", [1, 2, 3])
def test_quadrature_is_exact_up_to_the_order(stages, power):
    exact = 1.3**power - 1
    for numbers, order, ratio in [
        (of_stages(one_step, stages)[0], 2, 1.0),
        (of_stages(two_step, stages, 0.6)[0], 3, 0.6),
        (of_stages(two_step, stages, 7.0)[0], 3, 7.0),
    ]:
        change, error = step_of_monomial(numbers, power, ratio)
        if power <= order:
            np.testing.assert_allclose(change, exact, rtol=1e-12)
        if power <= 2:
            assert abs(error) < 1e-12
        elif order == 3:  # h³y'''/10
            np.testing.assert_allclose(error, 0.6 * 0.3**3, rtol=1e-10)


@pytest.mark.parametrize("formula", [lambda z: one_step(z), lambda z: two_step(z, 1.0)], ids=["RKC2", "TSRKC3"])
def test_rounding_in_300_stages_stays_below_10_u_s_squared(formula):
    numbers, interval = of_stages(formula, 300)
    z = -np.linspace(0, interval, 200)
    field = lambda t, y: jnp.asarray(z) * y
    y, h = jnp.ones(200), jnp.asarray(1.0)
    d = jax.jit(lambda y: last_deviation(field, 0.0, h, y, field(0.0, y), numbers, jnp.asarray(300)))(y)
    assert np.max(np.abs(d - deviation(numbers, z))) < 10 * ROUNDING * 300**2


# The order


def riccati_and_linear(t, y, stiffness):
    """u' = −u² cos t, u = 1/(1 + sin t), beside v' = −A v with eigenvalues 1, 0.3 and `stiffness`."""
    eigenvalues = jnp.stack([1.0, 0.3, stiffness]).astype(y["v"].dtype)
    return {"u": -(y["u"] ** 2) * jnp.cos(t).astype(y["u"].dtype), "v": -eigenvalues * y["v"]}


def start(dtype=float):
    return {"u": jnp.ones((), dtype), "v": jnp.asarray([1.0, 2.0, 0.0], dtype)}


def exact(t):
    return np.array([1 / (1 + np.sin(t)), np.exp(-t), 2 * np.exp(-0.3 * t), 0.0])


@eqx.filter_jit
def solve(field, solver, t0, t1, dt0, y0, args, rtol=None, saveat=None):
    """With constant steps, or, given `rtol`, with adapted ones."""
    controller = diffrax.PIDController(rtol, rtol / 100, pcoeff=0.3, icoeff=0.4) if rtol is not None else None
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver,
        t0,
        t1,
        dt0,
        y0,
        args,
        stepsize_controller=controller or diffrax.ConstantStepSize(),
        saveat=saveat or diffrax.SaveAt(t1=True, solver_state=True),
        max_steps=100_000,
    )


def end(solution):
    return np.asarray(ravel_pytree(jax.tree.map(lambda leaf: leaf[-1], solution.ys))[0], float)


def array(value, dtype=float):
    """Of strong type, so that all tests share what is compiled."""
    return jnp.asarray(value, dtype)


@both
def test_the_order_is_that_of_the_method(solver):
    stiffness = array(1e5)  # with many stages their number does not change the error constants
    solutions = [
        solve(riccati_and_linear, solver, array(0.0), array(2.0), array(dt), start(), stiffness)
        for dt in (1 / 40, 1 / 80)
    ]
    coarse, fine = (np.abs(end(solution) - exact(2.0))[:3] for solution in solutions)
    np.testing.assert_allclose(np.log2(coarse / fine), solver.order(None), atol=0.1)


# The solvers


def tolerance(solver, rtol):
    """Steps shrink as rtol^(1/3), so errors of order p as rtol^(p/3); the constant is of the order of one."""
    return 5 * rtol ** (solver.order(None) / 3)


@both
@pytest.mark.parametrize("rtol", [1e-3, 1e-5])
def test_errors_follow_the_tolerance_for_any_stiffness(solver, rtol, compilations):
    stages = []
    for stiffness in (1.0, 1e4, 1e8):
        solution = solve(
            riccati_and_linear, solver, array(0.0), array(3.0), array(1e-3), start(), array(stiffness), array(rtol)
        )
        assert np.max(np.abs(end(solution) - exact(3.0))) < tolerance(solver, rtol)
        stages.append(int(solver.work(solution.solver_state)["largest_stages"]))
        if stiffness == 1.0:
            compilations()
    assert compilations() == 0
    # The stages grow as the root of the stiffness, up to one stage.
    assert stages[0] < 4
    assert abs(stages[2] - 100 * stages[1]) <= 100


@both
def test_a_batch_gives_what_its_members_give(solver):
    def gradients_and_end(stiffness):
        solution = solve(
            riccati_and_linear, solver, array(0.0), array(3.0), array(1e-3), start(), stiffness, array(1e-4)
        )
        return solution.solver_state.work.gradients, solution.ys

    stiffness = array([1.0, 30.0, 1e4])
    gradients, ys = jax.vmap(gradients_and_end)(stiffness)
    for i, alone in enumerate(map(gradients_and_end, stiffness)):
        assert gradients[i] == alone[0]
        for lanes, leaf in zip(jax.tree.leaves(ys), jax.tree.leaves(alone[1]), strict=True):
            np.testing.assert_allclose(lanes[i], leaf, rtol=1e-12)


@both
def test_float32_states_stay_float32(solver):
    single = lambda value: array(value, jnp.float32)
    times = single(0.0), single(3.0), single(1e-3)
    solution = solve(riccati_and_linear, solver, *times, start(jnp.float32), single(1e4), single(1e-3))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(solution.ys))
    assert np.max(np.abs(end(solution) - exact(3.0))) < tolerance(solver, 1e-3)


@both
def test_time_can_run_backwards(solver):
    y1 = {"u": array(1 / (1 + np.sin(1.0))), "v": array([np.exp(-1.0), 2 * np.exp(-0.3), 0.0])}
    solution = solve(riccati_and_linear, solver, array(1.0), array(0.0), array(-1e-3), y1, array(1.0), array(1e-5))
    # Backwards, errors grow by e.
    assert np.max(np.abs(end(solution) - exact(0.0))) < np.e * tolerance(solver, 1e-5)


@both
def test_where_the_field_is_not_a_number_the_step_is_rejected(solver):
    field = lambda t, y, args: (1 - y) * jnp.sqrt(1.5 - y)
    solution = solve(field, solver, array(0.0), array(30.0), array(25.0), array(-20.0), None, array(1e-4))
    assert solution.stats["num_rejected_steps"] > 0
    np.testing.assert_allclose(solution.ys[-1], 1, rtol=tolerance(solver, 1e-4))


@both
def test_at_a_minimum_nothing_moves(solver):
    y0 = {"u": array(0.0), "v": jnp.zeros(3)}
    solution = solve(riccati_and_linear, solver, array(0.0), array(1e6), array(1e-3), y0, array(1.0), array(1e-4))
    assert np.all(end(solution) == 0)
    assert solution.stats["num_steps"] < 20


@both
def test_every_gradient_and_product_is_counted(solver):
    calls = []

    def field(t, y, args):
        jax.debug.callback(lambda: calls.append(1))
        return -jnp.array([1.0, 100.0]) * y

    solution = solve(field, solver, array(0.0), array(2.0), array(0.1), jnp.ones(2), None)
    jax.effects_barrier()
    work = solver.work(solution.solver_state)
    # A product is the derivative of the field along a vector, for which the field is evaluated too.
    assert len(calls) == work["gradient_evaluations"] + work["hessian_vector_products"]
    assert work["gradient_evaluations"] == 1 + 20 * work["mean_stages"]
    assert work["largest_stages"] >= work["mean_stages"] > 1


# On networks


@pytest.fixture(scope="module")
def flow():
    """The field of a small tanh network, on raveled parameters, with data that can be batched over."""
    net = nf.nets.MLP([4, 6, 5, 1], key=jax.random.key(0), activation="tanh")
    data = nf.data.multi_index(30, 4, 2, key=jax.random.key(1))
    parameters, objective = make_objective(net, data, "mse", 0.0)
    y, unravel = ravel_pytree(parameters)
    loss = lambda y: objective.loss(unravel(y))
    gradient = jax.grad(loss)
    return lambda t, y, args: -gradient(y), y, jax.jit(jax.hessian(loss))


@pytest.fixture(scope="module")
def reference(flow):
    field, y, _ = flow
    saveat = diffrax.SaveAt(ts=jnp.linspace(1.0, 60.0, 30))
    return solve(field, diffrax.Dopri8(), array(0.0), array(60.0), array(1e-2), y, None, array(1e-11), saveat)


@both
def test_a_network_flows_as_with_a_tight_explicit_solver_also_between_steps(solver, flow, reference):
    field, y, _ = flow
    rtol, saveat = 1e-5, diffrax.SaveAt(ts=reference.ts)
    solution = solve(field, solver, array(0.0), array(60.0), array(1e-2), y, None, array(rtol), saveat)
    errors = np.linalg.norm(solution.ys - reference.ys, axis=1) / np.linalg.norm(reference.ys, axis=1)
    assert np.max(errors) < tolerance(solver, rtol)
    zeros = solve(field, solver, array(0.0), array(60.0), array(1e-2), jnp.zeros_like(y), None, array(rtol), saveat)
    assert np.all(zeros.ys == 0)


@both
def test_the_spectral_radius_is_bounded_to_ten_per_cent_all_along_the_flow(solver, flow):
    field, y0, hessian = flow
    term = diffrax.ODETerm(field)

    @jax.jit
    def march(y):
        def step(carry, h):
            y, state = carry
            new, _, _, state, _ = solver.step(term, 0.0, h, y, None, state, False)
            return (new, state), (y, state.age, state.spectral_radius, state.sharpness)

        return jax.lax.scan(step, (y, solver.init(term, 0.0, 1.0, y, None)), jnp.geomspace(0.02, 3.0, 31))[1]

    for seed in range(10):
        scale = jnp.where(seed == 9, 0.01, 1.0)
        ys, ages, bounds, sharpness = march(y0 + scale * 0.5 * jax.random.normal(jax.random.key(seed), y0.shape))
        fresh = np.flatnonzero(ages == 1)
        assert len(fresh) == 4
        for i in fresh:
            largest = np.linalg.eigvalsh(hessian(ys[i]))[-1]
            assert 1 <= bounds[i] / largest <= 1.1
            np.testing.assert_allclose(sharpness[i], largest, rtol=0.04)


# Steps that change


def test_a_step_more_than_twice_as_long_is_one_of_rkc2():
    z = array(50.0)
    for ratio, expected in [(0.0, one_step(z)), (0.48, one_step(z)), (0.5, two_step(z, 0.5)), (3.0, two_step(z, 3.0))]:
        chosen = TSRKC3().formula(z, array(ratio))
        np.testing.assert_allclose(jax.tree.leaves(chosen), jax.tree.leaves(expected), rtol=1e-12)


@both
def test_a_rejected_step_leaves_only_its_cost(solver):
    term = diffrax.ODETerm(lambda t, y, args: -jnp.array([1.0, 10.0]) * y)

    @jax.jit
    def step(y, state, h):
        y, _, _, state, _ = solver.step(term, 0.0, h, y, None, state, False)
        return y, state

    y, before = step(jnp.ones(2), solver.init(term, 0.0, 0.1, jnp.ones(2), None), 0.1)
    _, attempted = step(y, before, 0.3)
    again = solver.after_rejection(before, attempted)
    for name in ("slope", "last_change", "last_step", "top_vector", "spectral_radius"):
        assert jnp.all(getattr(again, name) == getattr(before, name))
    assert solver.work(again) == solver.work(attempted)
    _, retried = step(y, again, 0.1)
    assert retried.age == 1  # a new estimate
    assert retried.work.products > attempted.work.products
