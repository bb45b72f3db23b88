"""The limit of small starts, and the scores of networks whose samples are on kinks."""

import jax
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow.studies.nfa.common import best_of_both_sides, on_one_side
from nfa_flow.studies.nfa.early_alignment import EXPONENT, NORM, TARGETS


def relu_net(W, a):
    return nf.nets.MLP([W.shape[1], W.shape[0], 1], key=jax.random.key(0), activation="relu").with_weights([W, a])


def test_the_network_of_two_neurons_fits_and_has_the_exponent_and_the_norm_of_the_limit():
    parts = np.stack([np.maximum(TARGETS, 0), np.maximum(-TARGETS, 0)])
    roots = np.sqrt(np.linalg.norm(parts, axis=1))
    net = relu_net(parts / roots[:, None], np.array([[1, -1]]) * roots)
    data = nf.Dataset(np.eye(TARGETS.size), TARGETS[:, None])
    best = nf.measure.best_cosine(on_one_side(net, active=False), data)
    assert nf.measure.loss(net, data) == pytest.approx(0, abs=1e-30)
    assert best.relative_error < 1e-6 and best.exponent == pytest.approx(EXPONENT, rel=1e-6)
    assert np.sum(roots * np.linalg.norm(net.weights[0], axis=1)) == pytest.approx(NORM)


def test_samples_on_kinks_have_the_gradients_of_the_chosen_side():
    net = relu_net(np.array([[1.0, 0.0], [0.0, 2.0]]), np.ones((1, 2)))
    for x_1 in (0.0, 1e-12, -1e-12):
        data = nf.Dataset(np.array([[x_1, 1.0]]), np.ones((1, 1)))
        inactive, active = (nf.measure.agop(on_one_side(net, active=active), data) for active in (False, True))
        np.testing.assert_array_equal(inactive, [[0, 0], [0, 4]])
        np.testing.assert_array_equal(active, [[1, 2], [2, 4]])
        errors = [float(nf.measure.best_cosine(on_one_side(net, active=a), data).relative_error) for a in (False, True)]
        best = best_of_both_sides(net, data)
        assert best["relative_error"] == pytest.approx(min(errors))
        assert best["apart"] == pytest.approx(abs(errors[0] - errors[1]))
