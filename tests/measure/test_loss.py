import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfa_flow import Dataset
from nfa_flow.measure import loss
from nfa_flow.nets import MLP

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
NET = MLP((3, 5, 2), key=KEY, activation="tanh", bias=True)
X, Y = jnp.asarray(RANDOM.normal(size=(6, 3))), RANDOM.normal(size=(6, 2))
LABELS = np.eye(2)[[0, 1, 1, 0, 1, 0]]
WEIGHT = np.array([0.3, 0.0, 0.1, 0.2, 0.15, 0.25])
PREDICTION = np.asarray(jax.vmap(NET)(X))


def test_the_default_is_half_the_mean_squared_error_of_a_sample():
    np.testing.assert_allclose(loss(NET, Dataset(X, Y)), np.sum((PREDICTION - Y) ** 2) / (2 * 6), rtol=1e-14)


def test_sample_weights_replace_the_mean():
    weighted = 0.5 * WEIGHT @ np.sum((PREDICTION - Y) ** 2, axis=1)
    np.testing.assert_allclose(loss(NET, Dataset(X, Y, WEIGHT)), weighted, rtol=1e-14)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_cross_entropy_is_minus_the_log_probability_of_the_label(weight):
    probability = np.exp(PREDICTION) / np.exp(PREDICTION).sum(axis=1, keepdims=True)
    expected = np.average(-np.log(np.sum(LABELS * probability, axis=1)), weights=weight)
    np.testing.assert_allclose(loss(NET, Dataset(X, LABELS, weight), loss="cross_entropy"), expected, rtol=1e-13)


def test_cross_entropy_of_a_confident_network_does_not_overflow():
    sure = MLP((1, 2), key=KEY).with_weights([jnp.array([[1000.0], [0.0]])])
    data = Dataset(jnp.ones((2, 1)), np.eye(2))
    np.testing.assert_allclose(loss(sure, data, loss="cross_entropy"), (0 + 1000) / 2, rtol=1e-14)


def test_cross_entropy_takes_a_distribution_as_target():
    # Against uniform targets a network that says nothing has the entropy log 2.
    silent = MLP((3, 2), key=KEY).with_weights([jnp.zeros((2, 3))])
    np.testing.assert_allclose(
        loss(silent, Dataset(X, np.full((6, 2), 0.5)), loss="cross_entropy"), np.log(2), rtol=1e-14
    )


def test_a_function_of_prediction_and_target_is_a_loss():
    absolute = loss(NET, Dataset(X, Y, WEIGHT), loss=lambda prediction, target: jnp.sum(jnp.abs(prediction - target)))
    np.testing.assert_allclose(absolute, WEIGHT @ np.sum(np.abs(PREDICTION - Y), axis=1), rtol=1e-14)


def test_another_loss_is_an_observable_by_partial_application():
    observable, data = eqx.Partial(loss, loss="cross_entropy"), Dataset(X, LABELS)
    np.testing.assert_allclose(eqx.filter_jit(observable)(NET, data), loss(NET, data, loss="cross_entropy"), rtol=1e-14)


def test_a_perfect_network_has_no_loss_and_any_module_can_be_measured():
    theirs = eqx.nn.MLP(3, 2, 5, 1, key=KEY)
    assert loss(theirs, Dataset(X, jax.vmap(theirs)(X))) == 0


def test_an_unknown_loss_is_named():
    with pytest.raises(ValueError, match='`loss` must be one of "mse", "cross_entropy", but was \'hinge\''):
        loss(NET, Dataset(X, Y), loss="hinge")
