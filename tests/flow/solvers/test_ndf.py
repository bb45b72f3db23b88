"""NDF is accurate to its tolerance on problems with known solutions, stiff or not, and says when it fails."""

import math
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfa_flow.flow import NDF

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


def test_a_flow_leaves_the_neighborhood_of_a_saddle():
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
