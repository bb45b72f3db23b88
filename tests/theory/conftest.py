"""Brute force for the closed forms: the gradient flow of the weights themselves, and starts with a given balance."""

from functools import reduce

import numpy as np
import pytest
from scipy.integrate import solve_ivp

# Relative tolerance of the brute force. Comparisons allow 1e3 times as much: the local errors of about 1e2 steps add up
# and a small start amplifies them on its way to the target.
RTOL = 1e-12


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def agrees():
    def compare(ours, brute_force):
        np.testing.assert_allclose(ours, brute_force, rtol=1e3 * RTOL, atol=1e3 * RTOL * np.max(np.abs(brute_force)))

    return compare


@pytest.fixture
def weights_flow():
    """weights_flow(times, weights, S_xx, S_yx, weight_decay) -> the weights at each time, by W_l' = −∂ℒ/∂W_l."""

    def run(times, weights, S_xx, S_yx, weight_decay=0.0):
        shapes = [W.shape for W in weights]
        cuts = np.cumsum([W.size for W in weights])[:-1]

        def unpack(flat):
            return [part.reshape(shape) for part, shape in zip(np.split(flat, cuts), shapes, strict=True)]

        def field(_, flat):
            W = unpack(flat)
            E = product(W, S_yx.shape[1]) @ S_xx - S_yx
            slopes = []
            for layer in range(len(W)):
                below, above = product(W[:layer], shapes[0][1]), product(W[layer + 1 :], shapes[layer][0])
                slopes.append(-above.T @ E @ below.T - weight_decay * W[layer])
            return np.concatenate([slope.ravel() for slope in slopes])

        start = np.concatenate([W.ravel() for W in weights])
        # Each time ends a step of its own: the interpolant between steps is less accurate than they are.
        path = [start]
        for begin, end in zip([0.0, *times[:-1]], times, strict=True):
            y = path[-1]
            path.append(
                y if end == begin else solve_ivp(field, (begin, end), y, "DOP853", rtol=RTOL, atol=1e-15).y[:, -1]
            )
        return [unpack(flat) for flat in path[1:]]

    return run


@pytest.fixture
def balanced_weights(rng):
    """balanced_weights(widths, scale) -> exactly balanced W_1 … W_L around a Gaussian end-to-end matrix."""

    def draw(widths, scale=1.0):
        U, s, Vt = np.linalg.svd(scale * rng.normal(size=(widths[-1], widths[0])), full_matrices=False)
        bases = [Vt.T, *(orthonormal(rng, width, s.size) for width in widths[1:-1]), U]
        root = s ** (1 / (len(widths) - 1))
        return [(after * root) @ before.T for before, after in zip(bases[:-1], bases[1:], strict=True)]

    return draw


@pytest.fixture
def lambda_balanced_weights(rng):
    """lambda_balanced_weights(inputs, hidden, outputs, b) -> W_1, W_2 with W_2ᵀW_2 − W_1W_1ᵀ = bI, b ≠ 0."""

    def draw(inputs, hidden, outputs, b, scale=0.3):
        if b < 0:
            W_1, W_2 = draw(outputs, hidden, inputs, -b, scale)
            return W_2.T, W_1.T
        W_1 = scale * rng.normal(size=(hidden, inputs))
        squared, U = np.linalg.eigh(W_1 @ W_1.T + b * np.eye(hidden))
        return W_1, orthonormal(rng, outputs, hidden) @ (U * np.sqrt(squared)) @ U.T

    return draw


def product(weights, inputs):
    return reduce(lambda P, W: W @ P, weights, np.eye(inputs))


def orthonormal(rng, rows, columns):
    return np.linalg.qr(rng.normal(size=(rows, rows)))[0][:, :columns]
