import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfa_flow.data import Dataset, moment_factor

RANDOM = np.random.default_rng(0)


def _data(samples):
    weight = RANDOM.uniform(size=samples)
    return Dataset(RANDOM.normal(size=(samples, 3)), RANDOM.normal(size=(samples, 2)), weight / weight.sum())


@pytest.mark.parametrize("samples", [4, 20])
@pytest.mark.parametrize("intercept", [False, True])
def test_the_factor_squared_is_the_joint_second_moment(samples, intercept):
    data = _data(samples)
    rows = np.hstack([data.x, np.ones((samples, int(intercept))), data.y])
    R = moment_factor(data, intercept=intercept)
    assert R.shape == (min(samples, 5 + intercept), 5 + intercept)
    np.testing.assert_array_equal(R, np.triu(R))
    np.testing.assert_allclose(R.T @ R, rows.T @ (data.sample_weight[:, None] * rows), atol=1e-13)


def test_blocks_of_the_factor_squared_are_the_moments_of_the_data():
    data = _data(20)
    R = moment_factor(data, intercept=False)
    R_x, R_y = R[:, :3], R[:, 3:]
    for found, expected in [(R_x.T @ R_x, data.S_xx), (R_x.T @ R_y, data.S_xy), (R_y.T @ R_y, data.S_yy)]:
        np.testing.assert_allclose(found, expected, atol=1e-13)


def test_the_loss_of_an_affine_map_needs_only_the_factor():
    data, A, c = _data(20), RANDOM.normal(size=(2, 3)), RANDOM.normal(size=2)
    R = moment_factor(data, intercept=True)
    from_factor = 0.5 * jnp.sum((R[:, :3] @ A.T + R[:, 3:4] * c - R[:, 4:]) ** 2)
    from_samples = 0.5 * jnp.sum(data.sample_weight[:, None] * (data.x @ A.T + c - data.y) ** 2)
    np.testing.assert_allclose(from_factor, from_samples, rtol=1e-13)


def test_the_factor_can_be_traced():
    data = _data(20)
    traced = jax.jit(lambda data: moment_factor(data, intercept=True))(data)
    np.testing.assert_allclose(traced, moment_factor(data, intercept=True), atol=1e-13)
