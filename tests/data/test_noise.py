import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfa_flow.data import Dataset, add_label_noise

KEY = jax.random.key(0)
DATA = Dataset(jnp.ones((4000, 1)), jnp.zeros((4000, 2)), weight=jnp.full(4000, 1 / 4000), index=jnp.eye(1))


def test_noise_changes_the_targets_only():
    noisy = add_label_noise(DATA, 0.5, key=KEY)
    assert noisy.x is DATA.x and noisy.weight is DATA.weight and noisy.index is DATA.index
    # The relative error of a sample variance of 8000 normals is √(2/8000) = .016.
    np.testing.assert_allclose(jnp.mean(noisy.y**2), 0.25, rtol=5 * 0.016)


def test_noise_is_proportional_to_its_deviation_under_vmap():
    lanes = jax.vmap(lambda std: add_label_noise(DATA, std, key=KEY).y)(jnp.array([0.0, 1.0, 2.0]))
    np.testing.assert_array_equal(lanes[0], DATA.y)
    np.testing.assert_allclose(lanes[2], 2 * lanes[1], rtol=1e-14)


def test_noise_keeps_single_precision():
    assert add_label_noise(DATA.astype(jnp.float32), 0.1, key=KEY).y.dtype == jnp.float32


def test_negative_noise_is_refused():
    with pytest.raises(ValueError, match="`std` must be a non-negative number, but was -0.1"):
        add_label_noise(DATA, -0.1, key=KEY)
