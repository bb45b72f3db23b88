import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from nfa_flow.theory import scalar_fixed_points, scalar_mode

TIMES = np.concatenate([[0.0], np.geomspace(1e-3, 1e2, 15)])


def velocity(s, sigma, depth, weight_decay, variance):
    return depth * (s ** (2 - 2 / depth) * variance * (sigma - s) - weight_decay * s)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6, 10])
@pytest.mark.parametrize("s0, sigma", [(1e-3, 2.0), (0.5, 2.0), (2.0, 2.0), (5.0, 2.0), (1.0, 0.0)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_mode_solves_its_equation(depth, s0, sigma, weight_decay):
    # In log s both a growing and a dying mode are resolved to the solver's tolerance; Radau copes with late times.
    # Its local error of 1e-10 per step allows 1e3 steps.
    def field(_, u):
        return velocity(np.exp(u), sigma, depth, weight_decay, 0.7) / np.exp(u)

    solution = solve_ivp(field, (0, TIMES[-1]), [np.log(s0)], "Radau", t_eval=TIMES, rtol=1e-10, atol=1e-10)
    mode = scalar_mode(TIMES, s0, sigma, depth, weight_decay=weight_decay, variance=0.7)
    np.testing.assert_allclose(np.log(mode), solution.y[0], atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(
    depth=st.integers(1, 7),
    s0=st.floats(1e-2, 5),
    sigma=st.floats(0, 5),
    variance=st.floats(0.1, 2),
    times=st.tuples(st.floats(0, 20), st.floats(0, 20)),
)
def test_a_flow_can_be_resumed_where_it_was_left(depth, s0, sigma, variance, times):
    first, second = times
    halfway = scalar_mode(first, s0, sigma, depth, variance=variance).item()
    resumed = scalar_mode(second, halfway, sigma, depth, variance=variance)
    # Relative errors grow at most by s' / s now over s' / s before, (5 / 1e-2)^(1 − 2/L) < 100.
    np.testing.assert_allclose(resumed, scalar_mode(first + second, s0, sigma, depth, variance=variance), rtol=1e-11)


@pytest.mark.parametrize("depth, weight_decay", [(1, 0.5), (2, 0.0), (2, 0.5), (3, 0.0), (3, 0.2), (5, 0.0)])
def test_central_differences_give_the_velocity(depth, weight_decay):
    t, step = np.linspace(0.1, 2, 9), 1e-4
    mode = {k: scalar_mode(t + k * step, 0.3, 1.5, depth, weight_decay=weight_decay, variance=0.8) for k in (-1, 0, 1)}
    # Error step²·s‴/6 with s‴ < 1e3 here, next to rounding 1e-12/step.
    expected = velocity(mode[0], 1.5, depth, weight_decay, 0.8)
    np.testing.assert_allclose((mode[1] - mode[-1]) / (2 * step), expected, atol=2e-6)


@pytest.mark.parametrize("depth", [3, 4, 6, 10])
@pytest.mark.parametrize("side", [-1, 1])
def test_approach_to_the_target_is_resolved_to_rounding(depth, side):
    # Close to σ = 1 the distance falls as exp(−Lt), until it is one unit of rounding.
    t = np.array([0.0, 10, 20, 100]) / depth
    distance = side * (scalar_mode(t, 1 + side * 1e-4, 1.0, depth) - 1)
    np.testing.assert_allclose(distance, 1e-4 * np.exp(-depth * t), rtol=1e-3, atol=2e-16)


@pytest.mark.parametrize("depth", [3, 4, 10])
@pytest.mark.parametrize("sigma", [1e-300, 1e-14, 1e-7])
def test_start_far_above_the_target_falls_as_if_there_were_none(depth, sigma):
    # The target acts on s by a relative σ/s < 2e-5 while s > 5e-3.
    t = np.array([0.0, 1, 100])
    np.testing.assert_allclose(
        scalar_mode(t, 1.0, sigma, depth), scalar_mode(t, 1.0, 0.0, depth), rtol=1e3 * sigma + 1e-13
    )


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_zero_and_the_target_are_at_rest(depth):
    np.testing.assert_array_equal(scalar_mode(TIMES, 0.0, 2.0, depth), 0)
    np.testing.assert_allclose(scalar_mode(TIMES, 2.0, 2.0, depth), 2, rtol=1e-15)


def test_two_layer_mode_survives_only_above_the_weight_decay():
    late = np.array([1e6])
    np.testing.assert_allclose(scalar_mode(late, 1e-3, 2.0, 2, weight_decay=0.5), 1.5)
    np.testing.assert_allclose(scalar_mode(late, 1e-3, 2.0, 2, weight_decay=2.0), 1 / (1e3 + 2e6))
    np.testing.assert_array_equal(scalar_mode(late, 1e-3, 2.0, 2, weight_decay=3.0), 0)
    np.testing.assert_allclose(scalar_mode(late, 1e-3, 0.0, 2), 1 / (1e3 + 2e6))


def test_deep_mode_dies_from_a_small_start_and_survives_from_a_large_one():
    rest = scalar_fixed_points(2.0, 3, weight_decay=0.3)
    assert rest[0] == 0 and rest.size == 3
    just_below, just_above = 0.99 * rest[1], 1.01 * rest[1]
    assert scalar_mode(1e3, just_below, 2.0, 3, weight_decay=0.3) < 1e-100
    np.testing.assert_allclose(scalar_mode(1e3, just_above, 2.0, 3, weight_decay=0.3), rest[2], rtol=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1, 5.0])
def test_velocity_vanishes_at_the_fixed_points(depth, weight_decay):
    rest = scalar_fixed_points(2.0, depth, weight_decay=weight_decay, variance=0.5)
    assert np.all(np.diff(rest) > 0)
    np.testing.assert_allclose(velocity(rest, 2.0, depth, weight_decay, 0.5), 0, atol=1e-13)


def test_decay_beyond_the_fold_leaves_only_zero():
    # p s^{1/3} (σ − s) for L = 3 is largest at s = σ/4.
    fold = 0.5 ** (1 / 3) * 1.5
    assert scalar_fixed_points(2.0, 3, weight_decay=1.001 * fold).size == 1
    assert scalar_fixed_points(2.0, 3, weight_decay=0.999 * fold).size == 3


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_result_is_float64_in_the_shape_of_the_times_whatever_they_are(depth):
    for times in (1, 2.0, [0, 1], jnp.ones((2, 3)), np.zeros((0, 2))):
        mode = scalar_mode(times, jnp.float32(0.5), 2, depth)
        assert isinstance(mode, np.ndarray) and mode.dtype == np.float64 and mode.shape == np.shape(times)


@pytest.mark.parametrize(
    "argument, changed",
    [
        ("times", {"times": [-1.0]}),
        ("times", {"times": [np.nan]}),
        ("s0", {"s0": -1.0}),
        ("sigma", {"sigma": -1.0}),
        ("depth", {"depth": 0}),
        ("weight_decay", {"weight_decay": -0.1}),
        ("variance", {"variance": 0.0}),
    ],
)
def test_wrong_argument_is_named(argument, changed):
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        scalar_mode(**({"times": [1.0], "s0": 0.1, "sigma": 1.0, "depth": 2} | changed))
