import numpy as np
import pytest

from nfa_flow.theory import balance_decay


@pytest.mark.parametrize("weight_decay", [0.0, 0.4])
def test_balance_decays_at_twice_the_weight_decay_on_any_data(rng, agrees, weights_flow, weight_decay):
    times = np.array([0.0, 0.5, 2.0])
    weights = [rng.normal(size=shape) for shape in ((4, 3), (5, 4), (2, 5))]
    x = rng.normal(size=(7, 3))
    path = weights_flow(times, weights, x.T @ x / 7, rng.normal(size=(2, 3)), weight_decay)
    for layer in (0, 1):
        D = np.array([W[layer + 1].T @ W[layer + 1] - W[layer] @ W[layer].T for W in path])
        agrees(D, balance_decay(times, weight_decay)[:, None, None] * D[0])


def test_wrong_argument_is_named():
    with pytest.raises(ValueError, match="`weight_decay` must be"):
        balance_decay([1.0], -0.1)
    with pytest.raises(ValueError, match="`times` must be"):
        balance_decay(-1, 0.1)
