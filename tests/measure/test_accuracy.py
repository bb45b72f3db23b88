"""Accuracy is the weighted share of samples whose largest score is that of their class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfa_flow as nf

X = np.random.default_rng(0).normal(size=(6, 3))
NET = nf.nets.MLP([3, 4, 3], key=jax.random.key(0), activation="tanh")
PREDICTED = np.argmax(np.asarray(jax.vmap(NET)(X)), axis=1)
LABELS = (PREDICTED + np.array([1, 1, 0, 0, 0, 0])) % 3  # two of six are wrong


def test_labels_and_one_hot_targets_have_the_same_accuracy():
    assert nf.measure.accuracy(NET, nf.Dataset(X, LABELS)) == pytest.approx(4 / 6, rel=1e-15)
    assert nf.measure.accuracy(NET, nf.Dataset(X, np.eye(3)[LABELS])) == pytest.approx(4 / 6, rel=1e-15)


def test_samples_count_with_their_weights():
    weight = np.array([0.5, 0.0, 0.1, 0.1, 0.1, 0.2])
    assert nf.measure.accuracy(NET, nf.Dataset(X, LABELS, weight)) == pytest.approx(0.5, rel=1e-15)


def test_each_position_of_a_sequence_counts():
    images, targets = X.reshape(3, 2, 3), np.eye(3)[LABELS].reshape(3, 2, 3)
    assert nf.measure.accuracy(jax.vmap(NET), nf.Dataset(images, targets)) == pytest.approx(4 / 6, rel=1e-15)


def test_undefined_predictions_have_none():
    broken = NET.with_weights([jnp.full_like(W, jnp.nan) for W in NET.weights])
    assert np.isnan(nf.measure.accuracy(broken, nf.Dataset(X, LABELS)))


@pytest.mark.parametrize("targets", [X[:, :1], X[:, :2]], ids=["one column", "another number of columns"])
def test_targets_must_be_classes(targets):
    with pytest.raises(ValueError, match=r"`data` must be of class labels, or of one-hot targets like the predictions"):
        nf.measure.accuracy(NET, nf.Dataset(X, targets))


def test_a_flow_stops_when_enough_samples_are_right():
    data = nf.Dataset(X, LABELS)
    options = {"loss": "cross_entropy", "observe": {"accuracy": nf.measure.accuracy}, "progress": False}
    stop = nf.StopWhen("accuracy", above=1.0)
    first, second = (nf.gradient_flow(NET, data, 1e4, stop=stop, rtol=rtol, **options) for rtol in (1e-4, 1e-8))
    assert first.status == second.status == "stopped"
    assert first.observed["accuracy"][-1] == 1 > first.observed["accuracy"][-2]
    # Two scores are equal there: their difference is a smooth function, and its root is as accurate as the flow.
    assert abs(first.end_time / second.end_time - 1) < 1e-3
