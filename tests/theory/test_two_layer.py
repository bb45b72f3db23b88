import jax.numpy as jnp
import numpy as np
import pytest

from nfa_flow.theory import lambda_balanced_nfm, scalar_mode, two_layer

TIMES = np.concatenate([[0.0], np.geomspace(1e-2, 10, 7)])


@pytest.mark.parametrize(
    "inputs, hidden, outputs, b, weight_decay",
    [
        (3, 3, 3, 0.0, 0.0),
        (4, 7, 2, 0.0, 0.0),
        (2, 5, 4, 0.0, 0.3),
        (5, 1, 1, 0.0, 0.1),
        (3, 3, 3, 0.8, 0.0),
        (4, 3, 5, 0.5, 0.0),
        (2, 6, 7, 0.3, 0.0),
        (4, 4, 3, -0.4, 0.0),
        (5, 3, 2, -0.7, 0.0),
    ],
)
def test_closed_form_is_the_flow_of_the_weights(
    rng, agrees, weights_flow, balanced_weights, lambda_balanced_weights, inputs, hidden, outputs, b, weight_decay
):
    widths = inputs, hidden, outputs
    W_1, W_2 = lambda_balanced_weights(*widths, b) if b else balanced_weights(widths, 0.3)
    S_yx = rng.normal(size=(outputs, inputs))
    path = weights_flow(TIMES, [W_1, W_2], np.eye(inputs), S_yx, weight_decay)
    ours = two_layer(TIMES, W_1, W_2, S_yx, weight_decay=weight_decay)
    agrees(ours.nfm, [A.T @ A for A, _ in path])
    agrees(ours.end_to_end, [B @ A for A, B in path])
    agrees(ours.agop, [A.T @ B.T @ B @ A for A, B in path])


def test_aligned_start_keeps_its_modes_apart_at_every_time_and_scale():
    # The fastest mode starts at zero and must stay there; the next grows eight decades while another has long arrived.
    times = [0.0, 1.0, 5.0, 20.0, 100.0, 1e6]
    s0, sigma = np.array([0.0, 1e-8, 0.1, 0.5]), np.array([3.0, 2.0, 1.0, 0.0])
    root = np.diag(np.sqrt(s0))
    ours = two_layer(times, root, root, np.diag(sigma))
    modes = np.stack([scalar_mode(times, *pair, 2) for pair in zip(s0, sigma, strict=True)], axis=-1)
    # Forming 1 − exp(−2μt) and Q from an eigendecomposition costs a few units of rounding, 1e8 times amplified here.
    np.testing.assert_allclose(ours.nfm, modes[:, :, None] * np.eye(4), rtol=1e-7, atol=1e-13)


@pytest.mark.parametrize("b", [0.0, 0.7, -0.7])
def test_late_flow_ends_at_the_target_without_overflow(rng, balanced_weights, lambda_balanced_weights, b):
    W_1, W_2 = lambda_balanced_weights(4, 4, 4, b) if b else balanced_weights((4, 6, 4), 1e-3)
    S_yx = target(rng, np.linalg.det(W_2 @ W_1))
    ours = two_layer([1e3, 1e6], W_1, W_2, S_yx)
    np.testing.assert_allclose(ours.end_to_end, [S_yx, S_yx], atol=1e-13)
    np.testing.assert_allclose(ours.nfm[-1], lambda_balanced_nfm(S_yx, b, width=4), atol=1e-13)


def test_balanced_flow_cannot_change_the_sign_of_the_determinant(rng, balanced_weights):
    # P stays invertible at all times, so it ends where the smallest singular value of the target (0.5) is missing.
    W_1, W_2 = balanced_weights((4, 6, 4))
    S_yx = target(rng, -np.linalg.det(W_2 @ W_1))
    end = two_layer([1e3], W_1, W_2, S_yx).end_to_end[0]
    np.testing.assert_allclose(np.linalg.svd(S_yx - end, compute_uv=False), [0.5, 0, 0, 0], atol=1e-13)


def target(rng, sign):
    """A 4 × 4 matrix with singular values 2, 1.5, 1, 0.5 and a determinant of the given sign."""
    U, _, Vt = np.linalg.svd(rng.normal(size=(4, 4)))
    S_yx = (U * [2.0, 1.5, 1.0, 0.5]) @ Vt
    return S_yx if np.linalg.det(S_yx) * sign > 0 else S_yx * [[-1], [1], [1], [1]]


def test_weight_decay_removes_the_modes_below_it(balanced_weights):
    ours = two_layer([1e6], *balanced_weights((3, 3, 3)), np.diag([2.0, 1.0, 0.3]), weight_decay=0.5)
    np.testing.assert_allclose(ours.end_to_end[0], np.diag([1.5, 0.5, 0.0]), atol=1e-13)


def test_small_random_start_learns_the_modes_one_after_another(balanced_weights):
    # From scale ε mode σ arrives at log(1/ε)/(2σ): here 4.6, 9.2 and 18.4.
    ours = two_layer([7.0, 14.0, 30.0], *balanced_weights((3, 5, 3), 1e-8), np.diag([2.0, 1.0, 0.5]))
    np.testing.assert_allclose(np.trace(ours.end_to_end, axis1=1, axis2=2), [2, 3, 3.5], atol=0.01)


def test_zero_start_stays_zero_and_no_times_give_no_rows():
    zero = np.zeros((3, 2))
    assert not two_layer([0.0, 1e3], zero, zero.T, np.eye(2)).nfm.any()
    assert two_layer([], zero, zero.T, np.eye(2)).end_to_end.shape == (0, 2, 2)


def test_result_is_float64_also_from_float32_jax_arrays():
    ours = two_layer(jnp.ones(3), jnp.eye(2), jnp.eye(2), jnp.ones((2, 2)))
    assert all(isinstance(part, np.ndarray) and part.dtype == np.float64 for part in ours)


def test_unbalanced_weights_are_refused():
    with pytest.raises(ValueError, match="`W_1, W_2` must be λ-balanced"):
        two_layer([1.0], np.diag([1.0, 2.0]), np.eye(2), np.eye(2))


def test_weight_decay_needs_a_balance_of_zero():
    with pytest.raises(ValueError, match="`weight_decay` must be 0 for weights whose balance is b·I with b = 3"):
        two_layer([1.0], np.eye(2), 2 * np.eye(2), np.eye(2), weight_decay=0.1)


@pytest.mark.parametrize(
    "argument, changed",
    [("times", 1.0), ("times", [-1.0]), ("W_1", [1.0]), ("W_2", np.ones((2, 4))), ("S_yx", np.eye(3))],
)
def test_wrong_argument_is_named(argument, changed):
    arguments = {"times": [1.0], "W_1": np.eye(2), "W_2": np.eye(2), "S_yx": np.eye(2)}
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        two_layer(**(arguments | {argument: changed}))
