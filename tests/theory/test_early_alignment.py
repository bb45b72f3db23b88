"""Early alignment: the closed form solves its differential equation, and neurons turn to their extremal vectors."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from nfa_flow.theory import early_alignment

TARGETS = np.array([1.0, -0.7, 0.8, -0.4, 0.6])
SIGNS = np.array([1, -1] * 4)


def starts():
    return np.random.default_rng(0).normal(size=(SIGNS.size, TARGETS.size))


def test_closed_form_solves_its_differential_equation():
    """Events included: every neuron loses the coordinates that its samples pull down, one after another."""
    times, pulls = np.linspace(0, 12, 13), np.outer(SIGNS, TARGETS) / TARGETS.size

    def field(_, flat):
        w = flat.reshape(pulls.shape)
        return (np.linalg.norm(np.maximum(w, stuck), axis=1)[:, None] * pulls * (w > 0)).ravel()

    stuck = np.minimum(starts(), 0)  # coordinates that have just been lost are 0, not what a step made of them
    solved = solve_ivp(field, (0, 12), starts().ravel(), t_eval=times, rtol=1e-9, atol=1e-11, max_step=0.01)
    path = np.maximum(solved.y.T.reshape(13, *pulls.shape), stuck)
    ours = early_alignment(times, starts(), SIGNS, TARGETS)
    lost = (starts() > 0) & (ours[-1] == 0)
    assert lost.sum() >= 6 and lost.sum(1).max() >= 2
    # A step that crosses a kink is of first order, and its error then grows by e^{‖D‖t} ≤ 21; ten of them.
    np.testing.assert_allclose(ours, path, rtol=1e-6, atol=1e-6)


def test_neurons_turn_to_their_extremal_vectors():
    pulls = np.outer(SIGNS, TARGETS) / TARGETS.size
    extremal = np.where((starts() > 0) & (pulls > 0), pulls, 0)
    rates = np.linalg.norm(extremal, axis=1)
    grows = rates > 0
    w = early_alignment([0.0, 200.0, 201.0], starts(), SIGNS, TARGETS)
    np.testing.assert_array_equal(w[0], starts())
    size = np.linalg.norm(w, axis=2)
    cosines = np.sum(w[1, grows] * extremal[grows], axis=1) / (size[1] * rates)[grows]
    np.testing.assert_allclose(cosines, 1, rtol=1e-8)
    np.testing.assert_allclose(size[2] / size[1], np.exp(rates), rtol=1e-8)


@pytest.mark.parametrize(
    ("argument", "value"), [("signs", [1, 2]), ("targets", [1.0]), ("weights", [1.0]), ("times", [[-1.0]])]
)
def test_arguments_are_checked(argument, value):
    given = {"times": [0.0], "weights": [[1.0, 2.0], [1.0, 2.0]], "signs": [1, -1], "targets": [1.0, 1.0]}
    with pytest.raises(ValueError, match=f"`{argument}`"):
        early_alignment(**given | {argument: value})
