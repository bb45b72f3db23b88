"""The flows against SciPy's DOP853 at 1e-12, whose right-hand sides are written here by hand."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import nfa_flow as nf
from tests.oracles import linear_net

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)), RNG.normal(size=(12, 2))
START = [RNG.normal(size=(2, 3)), RNG.normal(size=(2, 2))]
DECAY, END = 0.1, 1.0
SIZES = [W.size for W in START]
DATA = nf.Dataset(X, Y)
TIGHT = {"weight_decay": DECAY, "rtol": 1e-11, "save_at": [END], "progress": False}

D = nf.dynamics


def split(theta):
    return [part.reshape(W.shape) for part, W in zip(np.split(theta, SIZES[:1]), START, strict=True)]


def gradient(theta):
    """∇(mean of ½‖VWx − y‖² + (λ/2)‖θ‖²), also for complex θ."""
    W, V = split(theta)
    error = (X @ W.T @ V.T - Y) / len(X)
    return np.concatenate([(V.T @ error.T @ X).ravel(), (error.T @ X @ W.T).ravel()]) + DECAY * theta


def along(theta, v):
    """The Hessian times v by a complex step, which has no error but rounding."""
    return gradient(theta + 1e-30j * v).imag / 1e-30


def gauss_newton(theta):
    W, V = split(theta)
    J = np.stack(
        [np.concatenate([np.kron(v, x), np.kron(e, W @ x)]) for x in X for v, e in zip(V, np.eye(2), strict=True)]
    )
    return J.T @ J / len(X)


def polar(G, eps):
    U, s, Vt = np.linalg.svd(G, full_matrices=False)
    return np.sqrt(max(1, G.shape[0] / G.shape[1])) * (U * s / np.sqrt(s**2 + eps**2)) @ Vt


def modified(theta, memory, g, m):
    return -(g + 0.05 * along(theta, m * g)), []


def heavy_ball(theta, u, g, m, past=1.0):
    T = 0.02 * 1.9 / (2 * 0.1**2)
    return -(past * u + (1 - past) * g), (g - u) / T


def nesterov(theta, u, g, m):
    return heavy_ball(theta, u, g, m, past=(1 - 0.9 + 2 * 0.81) / 1.9)


def adam(theta, memory, g, m):
    (u, v), (c, k) = np.split(memory[:-2], 2), memory[-2:]
    a, b = 2 * 0.1 / 1.9 / 0.02, 2 * 0.01 / 1.99 / 0.02
    return -(u / c) / (np.sqrt(v / k + 1e-4) + 1e-2), np.concatenate(
        [a * (g - u), b * (g**2 - v), [a * (1 - c), b * (1 - k)]]
    )


def adamw(theta, memory, g, m):
    move, further = adam(theta, memory, g, m)
    return (1 + 0.02 * 0.3 / 2) * (move - 0.3 * theta), further


def rmsprop(theta, v, g, m):
    root = np.sqrt(v + 1e-2)
    return -(g + 0.01 * along(theta, g / root)) / root, 2 * 0.1 / 1.9 / 0.02 * (g**2 - v)


def sign(theta, memory, g, m):
    return -g / np.sqrt(g**2 + 0.3**2), []


def muon(theta, memory, g, m):
    return -np.concatenate([polar(G, 0.3).ravel() for G in split(g)]), []


def natural(theta, memory, g, m):
    return -np.linalg.solve(gauss_newton(theta) + 0.1 * np.eye(len(g)), g), []


p, q = 0.1 / 1.9, 0.01 / 1.99
SETTINGS = {"eps": 1e-2, "eps_root": 1e-4, "b2": 0.99}
CASES = {
    "modified": (D.Modified(0.1), modified, lambda g: []),
    "heavy_ball": (D.HeavyBall(0.02), heavy_ball, lambda g: p * g),
    "nesterov": (D.HeavyBall(0.02, nesterov=True), nesterov, lambda g: 0.1 / 1.72 * g),
    "adam": (D.Adam(0.02, **SETTINGS), adam, lambda g: np.concatenate([p * g, q * g**2, [p, q]])),
    "adamw": (D.AdamW(0.02, weight_decay=0.3, **SETTINGS), adamw, lambda g: np.concatenate([p * g, q * g**2, [p, q]])),
    "rmsprop": (D.RMSProp(0.02, eps=1e-2, initial_scale=0.2), rmsprop, lambda g: p * g**2 + (1 - p) * 0.2),
    "sign": (D.Sign(0.3), sign, lambda g: []),
    "muon": (D.Muon(0.3), muon, lambda g: []),
    "natural_gradient": (D.NaturalGradient(0.1), natural, lambda g: []),
}


@pytest.mark.parametrize("name", CASES)
def test_flow(name):
    dynamics, velocity, first = CASES[name]
    mobility = [2.0, 0.5] if dynamics.mobile else None
    m, size = np.repeat(mobility or [1.0, 1.0], SIZES), sum(SIZES)

    def right(t, y):
        moves, further = velocity(y[:size], y[size:], gradient(y[:size]), m)
        return np.concatenate([m * moves, further])

    theta = np.concatenate([W.ravel() for W in START])
    start = np.concatenate([theta, first(gradient(theta))])
    exact = solve_ivp(right, (0, END), start, "DOP853", rtol=1e-12, atol=1e-14).y[:size, -1]
    run = nf.gradient_flow(linear_net(START), DATA, END, dynamics=dynamics, mobility=mobility, **TIGHT)
    found = np.concatenate([np.ravel(W) for W in run.net.weights])
    assert np.linalg.norm(found - exact) < 1e-8 * np.linalg.norm(exact)
