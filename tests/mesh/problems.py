"""Small problems, and the distance of two runs, for the scripts that run on several devices."""

import haste as haste
import jax
import numpy as np

import nfa_flow as nf

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(22, 6)), RNG.normal(size=(22, 3))
WEIGHT = RNG.uniform(0.5, 1.5, 22)
DATA = nf.Dataset(X, Y)  # four devices do not divide its samples
WEIGHTED = nf.Dataset(X, Y, WEIGHT / WEIGHT.sum())
EVEN = DATA[:20]
LOSS = {"loss": nf.measure.loss}
OBSERVE = LOSS | {
    "alignment": nf.measure.alignment(0.5),
    "centered": nf.measure.alignment(0.5, centered=True),
    "agop": nf.measure.agop,
    "exponent": nf.measure.fit_exponent,
    "crh": nf.measure.crh,
    "fact": nf.measure.FactError(),
    "sharpness": nf.measure.Sharpness(),
}


def net(activation="tanh", width=8):
    return nf.nets.MLP([6, width, width, 3], key=jax.random.key(1), activation=activation)


def flow(data, net, t1=2.0, **options):
    return nf.gradient_flow(net, data, t1, **{"observe": OBSERVE, "weight_decay": 0.01, "progress": False} | options)


def descent(data, net, optimizer, **options):
    options = {"observe": OBSERVE, "weight_decay": 0.01, "time_per_step": 1.0, "progress": False} | options
    return nf.gradient_descent(net, data, optimizer, 12, **options)


def assert_same(run, other, rtol=1e-12):
    """Steps, networks and all observations; a tolerance of each array's largest entry."""
    assert run.stats["steps"] == other.stats["steps"]
    arrays = lambda run: jax.tree.leaves((run.net.weights, run.observed))
    for one, two in zip(arrays(run), arrays(other), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=rtol * np.nanmax(np.abs(two), initial=0))
