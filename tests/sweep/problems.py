"""Small runs shared by the tests of sweeps, in a module of their own so that other processes can import them."""

import diffrax
import jax
import numpy as np

import nfa_flow as nf

DATA = nf.data.linear_teacher(30, 4, 1, key=jax.random.key(5), noise=0.1)
TIMES = np.array([0.0, 0.1, 1.0, 4.0])
TSIT5 = diffrax.Tsit5()
OBSERVE = {"loss": nf.measure.loss, "nfm": nf.measure.nfm}


def linear(key, scale=0.5, weight_decay=0.0, depth=2, width=5):
    """A deep linear network, which is quick to compile and to integrate."""
    widths = [4, *[width] * (depth - 1), 1]
    net = nf.nets.MLP(widths, key=key, activation="identity", init=nf.nets.Gaussian(scale))
    return nf.gradient_flow(
        net, DATA, TIMES[-1], weight_decay=weight_decay, save_at=TIMES, solver=TSIT5, observe=OBSERVE, throw=False
    )


def slow(key, weight_decay):
    """Some ten milliseconds: many small steps."""
    net = nf.nets.MLP([4, 5, 1], key=key, activation="identity", init=nf.nets.Gaussian(0.5))
    return nf.gradient_flow(net, DATA, 2e3, weight_decay=weight_decay, save_at=[0.0, 1.0, 2e3], solver=TSIT5, rtol=1e-9)
