"""Loss, gradient, AGOP, NTK and moments are the plain sums over samples, at many numbers of samples.

The sums are written in NumPy, for a network of one hidden layer with f(x) = W₂ tanh(W₁ x + b₁) + b₂, whose Jacobian in
x is W₂ diag(1 − tanh²) W₁. Where an implementation would cut samples into chunks, pad them or count them wrongly, it
would do so around powers of two; every number costs the compilation of programs of its own.
"""

import equinox as eqx
import jax
import numpy as np
import pytest
from oracles import relative, with_random_biases

import nfa_flow as nf
from nfa_flow.problem.objective import make_objective

# Sums of n ≤ 80 terms in double precision, each of a few products.
ROUNDING = 1e-13

FEW = range(1, 9)
MORE = (9, 10, 11, 12, 13, 15, 16, 17)
MANY = (31, 32, 33, 48, 63, 64, 65, 80)


class Plain:
    """The sums for one network and one dataset."""

    def __init__(self, net, x, y, weight):
        (W_1, W_2), (b_1, b_2) = net.weights, [np.asarray(layer.bias) for layer in net.layers]
        self.W_1, self.W_2, self.x, self.weight = np.asarray(W_1), np.asarray(W_2), x, weight
        self.h = np.tanh(x @ self.W_1.T + b_1)
        self.slope = 1 - self.h**2
        self.residual = self.h @ self.W_2.T + b_2 - y

    def loss(self):
        return sum(w * r @ r / 2 for w, r in zip(self.weight, self.residual, strict=True))

    def gradient(self):
        """By W₁, b₁, W₂ and b₂, in the order of the network's arrays."""
        back = (self.residual @ self.W_2) * self.slope
        parts = [0.0, 0.0, 0.0, 0.0]
        for w, x, h, r, z in zip(self.weight, self.x, self.h, self.residual, back, strict=True):
            parts = [p + w * g for p, g in zip(parts, (np.outer(z, x), z, np.outer(r, h), r), strict=True)]
        return np.concatenate([np.ravel(p) for p in parts])

    def agop(self):
        J = [self.W_2 @ np.diag(s) @ self.W_1 for s in self.slope]
        return sum(w * each.T @ each for w, each in zip(self.weight, J, strict=True))

    def ntk(self):
        """K between samples and outputs, i·c + k, over all parameters."""
        rows = []
        for x, h, s in zip(self.x, self.h, self.slope, strict=True):
            for k, w in enumerate(self.W_2):
                e = np.eye(len(self.W_2))[k]
                rows.append(np.concatenate([np.outer(w * s, x).ravel(), w * s, np.outer(e, h).ravel(), e]))
        return np.array(rows) @ np.array(rows).T


def vector(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def problem(n):
    """Odd widths, 1 to 5 outputs, and sample weights at every second n."""
    rng = np.random.default_rng(n)
    inputs, hidden, outputs = 3, 5, 1 + n % 5
    x, y = rng.normal(size=(n, inputs)), rng.normal(size=(n, outputs))
    weight = rng.uniform(0.5, 1.5, size=n) if n % 2 else np.ones(n)
    weight /= weight.sum()
    net = with_random_biases(
        nf.nets.MLP([inputs, hidden, outputs], key=jax.random.key(n), activation="tanh", bias=True)
    )
    return net, nf.Dataset(x, y, weight if n % 2 else None), Plain(net, x, y, weight)


@eqx.filter_jit
def measured(problems):
    """Of several problems at once, for one compilation costs less than many."""

    def of(net, data):
        theta, objective = make_objective(net, data, "mse", 0.0)
        moments = data.S_xx, data.S_xy, data.S_yy
        return *objective.loss_and_gradient(theta), nf.measure.agop(net, data), nf.measure.ntk(net, data), moments

    return [of(net, data) for net, data in problems]


@pytest.mark.parametrize("counts", [FEW, MORE, MANY], ids=["few", "more", "many"])
def test_losses_gradients_agops_kernels_and_moments_are_the_plain_sums(counts):
    problems = [problem(n) for n in counts]
    computed = jax.device_get(measured([(net, data) for net, data, _ in problems]))
    for n, (_, data, plain), (loss, gradient, agop, ntk, moments) in zip(counts, problems, computed, strict=True):
        x, y = np.asarray(data.x), np.asarray(data.y)
        assert float(loss) == pytest.approx(plain.loss(), rel=ROUNDING), n
        assert relative(vector(gradient) - plain.gradient(), plain.gradient()) < ROUNDING, n
        assert relative(agop - plain.agop(), plain.agop()) < ROUNDING, n
        assert relative(ntk - plain.ntk(), plain.ntk()) < ROUNDING, n
        for moment, (a, b) in zip(moments, ((x, x), (x, y), (y, y)), strict=True):
            expected = sum(w * np.outer(p, q) for w, p, q in zip(plain.weight, a, b, strict=True))
            assert relative(moment - expected, expected) < ROUNDING, n
