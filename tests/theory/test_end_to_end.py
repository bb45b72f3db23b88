import numpy as np
import pytest

from nfa_flow.theory import balanced_nfm, end_to_end_flow, scalar_mode, two_layer

TIMES = np.concatenate([[0.0], np.geomspace(1e-2, 8, 6)])


@pytest.mark.parametrize(
    "widths, weight_decay",
    [((3, 2), 0.1), ((4, 5, 3), 0.2), ((4, 3, 6, 2), 0.0), ((3, 3, 3, 3), 0.1), ((2, 4, 3, 5, 3), 0.05)],
)
def test_end_to_end_matrix_and_nfm_are_those_of_the_weights(
    rng, agrees, weights_flow, balanced_weights, widths, weight_decay
):
    weights, depth = balanced_weights(widths), len(widths) - 1
    x = rng.normal(size=(10, widths[0]))
    S_xx, S_yx = x.T @ x / 10, rng.normal(size=(widths[-1], widths[0]))
    path = weights_flow(TIMES, weights, S_xx, S_yx, weight_decay)
    products = [np.linalg.multi_dot([*W[::-1], np.eye(widths[0])]) for W in path]
    ours = end_to_end_flow(TIMES, products[0], S_xx, S_yx, depth, weight_decay=weight_decay)
    agrees(ours, products)
    agrees([balanced_nfm(P, depth) for P in ours], [W[0].T @ W[0] for W in path])


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_aligned_start_moves_mode_by_mode(depth):
    s0, sigma = [0.05, 0.3, 2.0], [3.0, 2.0, 1.0]
    ours = end_to_end_flow(TIMES, np.diag(s0), np.eye(3), np.diag(sigma), depth, weight_decay=0.1)
    modes = [scalar_mode(TIMES, *pair, depth, weight_decay=0.1) for pair in zip(s0, sigma, strict=True)]
    # Tolerance 1e-12 a step, up to 1e2 steps, and (σ/s0) amplification: 1e-9.
    np.testing.assert_allclose(ours, np.stack(modes, axis=-1)[:, :, None] * np.eye(3), rtol=1e-9, atol=1e-12)


def test_two_layers_on_whitened_inputs_are_the_closed_form(agrees, rng, balanced_weights):
    W_1, W_2 = balanced_weights((4, 6, 3), 1e-4)
    S_yx, times = rng.normal(size=(3, 4)), np.linspace(0, 15, 16)
    ours = end_to_end_flow(times, W_2 @ W_1, np.eye(4), S_yx, 2)
    agrees(ours, two_layer(times, W_1, W_2, S_yx).end_to_end)


@pytest.mark.parametrize("depth", [2, 3])
def test_rank_is_conserved(rng, depth):
    P0 = np.outer([1.0, 2.0, 3.0], [1.0, 0.0, 1.0]) / 10
    P = end_to_end_flow([20.0], P0, np.eye(3), rng.normal(size=(3, 3)), depth)[0]
    singular = np.linalg.svd(P, compute_uv=False)
    assert singular[1] < 1e-9 * singular[0]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_power_of_the_nfm_is_the_agop(rng, depth):
    P = rng.normal(size=(3, 5))
    np.testing.assert_allclose(np.linalg.matrix_power(balanced_nfm(P, depth), depth), P.T @ P, atol=1e-13)


@pytest.mark.parametrize(
    "argument, changed",
    [
        ("times", [1.0, 0.5]),
        ("times", 1.0),
        ("P0", [1.0]),
        ("S_xx", np.eye(3)),
        ("S_yx", np.eye(3)),
        ("depth", 0),
        ("weight_decay", -1.0),
    ],
)
def test_wrong_argument_is_named(argument, changed):
    arguments = {"times": [1.0], "P0": np.eye(2), "S_xx": np.eye(2), "S_yx": np.eye(2), "depth": 2}
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        end_to_end_flow(**(arguments | {argument: changed}))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_from_zero_only_a_single_layer_moves(depth):
    S_yx, times = np.arange(6.0).reshape(2, 3), np.array([0.0, 0.3, 2.0])
    P = end_to_end_flow(times, np.zeros((2, 3)), np.eye(3), S_yx, depth)
    expected = (1 - np.exp(-times))[:, None, None] * S_yx if depth == 1 else np.zeros((3, 2, 3))
    np.testing.assert_allclose(P, expected, rtol=1e-10, atol=1e-14)
