"""A step size controller of the user's own takes the place of the tolerances."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow.problem.objective import make_objective

TSIT5, NDF = diffrax.Tsit5(), nf.flow.NDF()


def problem():
    data = nf.data.linear_teacher(10, 3, 2, key=jax.random.key(0))
    return nf.nets.MLP([3, 4, 2], key=jax.random.key(1), activation="tanh"), data


def flow(**options):
    return nf.gradient_flow(*problem(), 4.0, save_at=[4.0], progress=False, **options)


@pytest.mark.parametrize("solver, coefficients", [(TSIT5, {"pcoeff": 0.3, "icoeff": 0.4}), (NDF, {})])
def test_the_default_is_a_controller_with_the_tolerances(solver, coefficients):
    chosen = flow(solver=solver, rtol=1e-5, atol=1e-8)
    given = flow(solver=solver, stepsize_controller=diffrax.PIDController(1e-5, 1e-8, **coefficients))
    assert {**given.stats, "seconds": 0} == {**chosen.stats, "seconds": 0}
    np.testing.assert_array_equal(given.net.weights[0], chosen.net.weights[0])


def test_its_longest_step_is_respected():
    controller = diffrax.PIDController(1e-3, 1e-6, dtmax=0.05)
    assert flow(solver=TSIT5, stepsize_controller=controller).stats["steps"] == 80


def test_a_constant_step_is_that_of_diffrax():
    run = flow(solver=TSIT5, stepsize_controller=diffrax.ConstantStepSize(), dt0=0.25)
    theta, objective = make_objective(*problem(), "mse", 0.0)
    term = diffrax.ODETerm(lambda t, y, args: jax.tree.map(jnp.negative, objective.gradient(y)))
    reference = diffrax.diffeqsolve(term, TSIT5, 0.0, 4.0, 0.25, theta)
    assert run.stats["steps"] == 16
    np.testing.assert_allclose(run.net.weights[0], reference.ys.layers[0].weight[0], rtol=1e-12)


def test_the_error_of_a_run_with_a_controller_is_certified_at_a_tenth_of_its_tolerances():
    run = flow(solver=TSIT5, stepsize_controller=diffrax.PIDController(1e-5, 1e-8), certify=True)
    assert 0 < run.observed["parameter_error"][-1] < 1e-4


PID = diffrax.PIDController(1e-5, 1e-8)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rtol": 1e-5, "stepsize_controller": PID}, "`rtol` must be None with a `stepsize_controller`"),
        ({"atol": 1e-5, "stepsize_controller": PID}, "`atol` must be None with a `stepsize_controller`"),
        (
            {"solver": NDF, "stepsize_controller": diffrax.PIDController(1e-5, 1e-8, pcoeff=0.3)},
            "`stepsize_controller` must be a `PIDController` with default coefficients for NDF, .* another pcoeff",
        ),
        (
            {"solver": NDF, "stepsize_controller": diffrax.ConstantStepSize(), "dt0": 0.1},
            "`stepsize_controller` must be a `diffrax.PIDController` for NDF",
        ),
        (
            {"solver": TSIT5, "stepsize_controller": diffrax.StepTo(np.array([0.0, 4.0]))},
            "`stepsize_controller` must be a `diffrax.PIDController` or `diffrax.ConstantStepSize`",
        ),
        (
            {"solver": diffrax.Euler(), "stepsize_controller": PID, "dt0": 0.1},
            "`stepsize_controller` must be `diffrax.ConstantStepSize..` for Euler, which has no error estimate",
        ),
        (
            {"solver": TSIT5, "stepsize_controller": diffrax.PIDController(1e-5, 1e-8, dtmin=1e-3, force_dtmin=False)},
            "`stepsize_controller` must be one with `force_dtmin=True` if it has a `dtmin`",
        ),
        (
            {"solver": TSIT5, "stepsize_controller": diffrax.ConstantStepSize()},
            "`dt0` must be given for Tsit5, with a constant step",
        ),
        (
            {"solver": TSIT5, "stepsize_controller": diffrax.ConstantStepSize(), "dt0": 0.1, "certify": True},
            "`certify` must be False with a constant step",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        flow(**options)
