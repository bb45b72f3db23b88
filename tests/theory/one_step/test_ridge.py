import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfa_flow.theory import (
    GradientDirection,
    finite_ridge_losses,
    gradient_direction,
    hermite,
    hermite_series,
    linear_losses,
    resolvent_traces,
    ridge_losses,
)

TEACHER = hermite(hermite_series([0, 1, 0.5**0.5]))
RELU = hermite("relu")
PHI, PSI, PENALTY, NOISE = 0.3, 0.6, 0.01, 0.5
# How far the one unknown is from its root: rounding, times the condition of the root.
EXACT = 1e-11


def losses(**changed):
    given = {"penalty": PENALTY, "phi": PHI, "psi": PSI, "activation": RELU, "teacher": TEACHER, "noise": NOISE}
    return ridge_losses(**(given | changed))


@pytest.mark.parametrize(
    "orders, train, test",
    [((), "0.8557", "2.588"), ((1,), "0.7545", "2.3055"), ((1, 2), "0.624", "1.9035")],
)
def test_the_limits_are_those_known_for_a_relu(orders, train, test):
    found = losses(orders=orders)
    assert (f"{found.train:.{len(train) - 2}f}", f"{found.test:.{len(test) - 2}f}") == (train, test)


def test_traces_solve_their_equations_everywhere():
    axes = np.geomspace(1e-8, 1e4, 7), [0.1, 0.3, 1.0, 3.0], [0.05, 0.3, 1.0, 5.0]
    penalty, phi, psi = (jnp.asarray(axis).ravel() for axis in np.meshgrid(*axes))
    t_1, t_2, q = jax.jit(jax.vmap(lambda *point: resolvent_traces(*point, RELU)))(penalty, phi, psi)
    c_1, nonlinear = RELU.coefficients[1], RELU.nonlinear
    k = phi / psi / (1 + q)
    np.testing.assert_allclose((penalty + k * nonlinear) * t_1 + k * c_1**2 * t_2, 1, rtol=EXACT)
    np.testing.assert_allclose(t_2 * (1 + k * c_1**2 * t_1 / phi), t_1, rtol=EXACT)
    np.testing.assert_allclose(c_1**2 * t_2 + nonlinear * t_1, q, rtol=EXACT)
    assert np.all((t_1 > 0) & (t_2 > 0))


def test_a_large_penalty_leaves_nothing_but_the_targets():
    found = losses(penalty=1e9, orders=())
    np.testing.assert_allclose(found, 2.25, rtol=1e-8)


def test_the_test_loss_is_the_slope_of_the_training_loss():
    step = 1e-4 * PENALTY
    ratio = lambda penalty: float(losses(penalty=penalty, orders=(1, 2)).train) / penalty
    slope = (ratio(PENALTY + step) - ratio(PENALTY - step)) / (2 * step)
    t_1 = resolvent_traces(PENALTY, PHI, PSI, RELU).t_1
    # A central difference is off by step²/penalty² ~ 1e-8 relatively.
    np.testing.assert_allclose(losses(orders=(1, 2)).test, -slope / t_1**2, rtol=1e-6)


def test_least_squares_on_the_inputs_has_its_classical_risk():
    found = linear_losses(1e-9, PHI, TEACHER, noise=NOISE)
    unexplained = 1 + 0.25
    np.testing.assert_allclose(found.test, unexplained / (1 - PHI), rtol=1e-7)
    np.testing.assert_allclose(found.train, unexplained * (1 - PHI), rtol=1e-7)


def test_linear_features_of_a_wide_network_are_the_inputs():
    # WᵀW = (N/d) I up to √(d/N) = 1e-4, so that the penalty of the inputs is d/N of that of the features.
    psi = 1e-8
    of_features = losses(penalty=PENALTY / psi, psi=psi, activation=hermite("identity"))
    np.testing.assert_allclose(of_features, linear_losses(PENALTY, PHI, TEACHER, noise=NOISE), rtol=1e-3)


def test_each_order_that_the_teacher_has_is_worth_something_and_others_are_not():
    train, test = np.array([losses(orders=orders) for orders in ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))]).T
    for values in (train, test):
        assert values[0] > values[1] > values[2] > values[4]
        np.testing.assert_allclose(values[3], values[2], rtol=1e-12)
        # u⁴ beside u² makes up for the constant in u²; He_2 by itself would gain 3/2 of what u² gains.
        assert values[2] - values[4] < (values[1] - values[2]) / 2


def test_a_teacher_without_linear_part_gains_nothing_from_spikes():
    teacher = hermite(hermite_series([0, 0, 1, 0.3]))
    with pytest.warns(UserWarning, match="learns nothing"):
        found = losses(teacher=teacher, orders=(1, 2, 3))
    np.testing.assert_allclose(found, losses(teacher=teacher), rtol=1e-12)


def test_the_sign_of_the_teacher_does_not_count():
    negative = hermite(hermite_series([0, -1, 0.5**0.5, 0.2]))
    positive = hermite(hermite_series([0, 1, 0.5**0.5, -0.2]))
    found, mirrored = (losses(teacher=teacher, orders=(1, 2, 3)) for teacher in (negative, positive))
    np.testing.assert_allclose(found, mirrored, rtol=1e-12)


def test_scatter_costs_the_second_order_and_not_the_first():
    direction = gradient_direction(TEACHER, PHI, noise=NOISE, activation=RELU, own_output=False)
    without = gradient_direction(TEACHER, PHI, noise=NOISE)
    np.testing.assert_allclose(losses(orders=(1,), direction=direction), losses(orders=(1,)), rtol=1e-12)
    np.testing.assert_allclose(losses(orders=(1, 2), direction=without), losses(orders=(1, 2)), rtol=1e-12)
    # The gain of the second, (2 ρ² c_2)²/(2 + m²) in t_1, has the mean m = 1 + s² of (u + sξ)² instead of 1.
    gain = lambda **given: float(losses(orders=(1,), **given).train - losses(orders=(1, 2), **given).train)
    m = 1 + direction.scatter**2
    np.testing.assert_allclose(gain(direction=direction) / gain(), 3 / (2 + m**2), rtol=1e-10)


@pytest.mark.parametrize("own_output", [False, True])
def test_large_spikes_of_finite_size_give_the_limit_and_small_ones_nothing(own_output):
    direction = gradient_direction(TEACHER, PHI, noise=NOISE, activation=RELU, own_output=own_output)
    columns = np.array([[0, 1 + direction.scatter**2], [1, 0], [0, 2**0.5]])  # u and (u + sξ)² in the basis 1, h_1, h_2
    given = PENALTY, PHI, PSI, RELU, TEACHER
    # u along v, (u + sξ)² along v²: as the spikes are.
    S = columns @ np.array([[0, 1, 0], [1, 0, 2**0.5]])
    finite = lambda scale: finite_ridge_losses(*given, scale * S, direction, noise=NOISE)
    # What is missing falls with the scale.
    np.testing.assert_allclose(finite(1e5), losses(orders=(1, 2), direction=direction), rtol=1e-6)
    np.testing.assert_allclose(finite(1e-9), losses(), rtol=1e-6)
    between = np.array([finite(scale).train for scale in (0.1, 0.3, 1.0, 3.0, 10.0)])
    if not own_output:
        assert np.all(np.diff(between) < 0)


def test_other_numbers_do_not_compile_again(compilations):
    tanh = hermite("tanh")
    losses(orders=(1, 2))
    compilations()
    losses(orders=(1, 2), penalty=1, psi=0.5, noise=0, activation=tanh)
    assert compilations() == 0


def test_losses_are_batched_and_compiled_once(compilations):
    batched = jax.jit(
        jax.vmap(lambda penalty, phi, psi, noise: losses(penalty=penalty, phi=phi, psi=psi, noise=noise, orders=(1, 2)))
    )
    points = np.array([[0.01, 0.1, 1.0], [0.3, 0.5, 2.0], [0.6, 0.2, 4.0], [0.5, 0.0, 1.0]])
    found = batched(*points)
    one_by_one = [ridge_losses(*point[:3], RELU, TEACHER, noise=point[3], orders=(1, 2)) for point in points.T.tolist()]
    np.testing.assert_allclose(np.array(found).T, one_by_one, rtol=1e-12)
    compilations()
    batched(*(0.9 * points))
    assert compilations() == 0


def test_teachers_can_be_batched_too():
    shares = jnp.array([0.0, 0.5, 1.0])

    def of(share):
        teacher = TEACHER._replace(coefficients=jnp.array([0, 1, share]), square=1 + 2 * share**2)
        return losses(teacher=teacher, orders=(1, 2)).test

    expected = [losses(teacher=hermite(hermite_series([0, 1, share])), orders=(1, 2)).test for share in [0, 0.5, 1]]
    np.testing.assert_allclose(jax.vmap(of)(shares), expected, rtol=1e-12)


def test_float32_keeps_five_digits():
    with jax.enable_x64(False):
        found = losses(orders=(1, 2))
    assert found.test.dtype == np.float32
    np.testing.assert_allclose(found, losses(orders=(1, 2)), rtol=1e-5)


def test_a_known_direction_replaces_the_limit():
    seen = GradientDirection(norm=1.3, cosine=0.9)
    assert losses(orders=(1, 2), direction=seen).test < losses(orders=(1, 2)).test


@pytest.mark.parametrize(
    "argument, changed",
    [
        ("penalty", {"penalty": 0.0}),
        ("penalty", {"penalty": -1.0}),
        ("phi", {"phi": 0.0}),
        ("psi", {"psi": -1.0}),
        ("noise", {"noise": -1.0}),
        ("orders", {"orders": (0, 1)}),
        ("teacher", {"teacher": hermite("relu")}),
    ],
)
def test_wrong_argument_is_named(argument, changed):
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        losses(**changed)


def test_a_spike_matrix_is_square():
    with pytest.raises(ValueError, match="`S` must be a square matrix"):
        finite_ridge_losses(PENALTY, PHI, PSI, RELU, TEACHER, np.ones((2, 3)), GradientDirection(1.0, 0.5))


def test_an_order_that_is_given_twice_is_refused():
    with pytest.raises(ValueError, match=r"`orders` must be different from one another, but was \[1, 1\]"):
        losses(orders=(1, 1))
