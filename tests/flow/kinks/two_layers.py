"""Two-layer networks whose activation has any slope below zero, so that all of them share one compiled flow."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flow.kinks.box_flow import BoxFlow

import nfa_flow as nf

SAMPLES, INPUTS, NEURONS = 12, 3, 4


class TwoLayers(eqx.Module):
    """x → Σ_k a_k σ(w_k·x), σ(z) = z for z > 0 and `low`·z otherwise; `low` is not trained."""

    W: jax.Array
    a: jax.Array
    low: jax.Array

    def __init__(self, W, a, low=0.0):
        self.W, self.a, self.low = (jnp.asarray(each, float) for each in (W, a, low))

    def __call__(self, x):
        z = self.W @ x
        return (self.a @ jnp.where(z > 0, z, jax.lax.stop_gradient(self.low) * z))[None]

    @property
    def theta(self):
        return np.concatenate([np.ravel(self.W), np.ravel(self.a)])


class Problem:
    """A network, data, decay λ and the mobilities of both layers; random where nothing is given."""

    def __init__(self, seed, *, x=None, y=None, weight=None, W=None, a=None, low=0.0, decay=0.0, mobility=(1.0, 1.0)):
        rng = np.random.default_rng(seed)
        draw = lambda given, *shape: rng.normal(size=shape) if given is None else np.asarray(given, float)
        self.x, self.y = draw(x, SAMPLES, INPUTS), draw(y, SAMPLES, 1)
        self.weight = np.full(len(self.x), 1 / len(self.x)) if weight is None else weight
        W, a = draw(W, NEURONS, INPUTS), draw(a, NEURONS)
        self.net = TwoLayers(W / np.sqrt(INPUTS), a / np.sqrt(NEURONS), low)
        self.decay, self.mobility = decay, mobility

    @property
    def data(self):
        return nf.Dataset(self.x, self.y, weight=self.weight)

    def flow(self, t1, **options):
        options = {"rtol": 1e-9, "progress": False, "save_at": [0.0, t1]} | options
        mobility = TwoLayers(*self.mobility, 1.0)
        return nf.gradient_flow(self.net, self.data, t1, weight_decay=self.decay, mobility=mobility, **options)

    def box(self, t1):
        box = BoxFlow(self.x, self.y, self.net.low, 1.0, weight=self.weight, decay=self.decay, mobility=self.mobility)
        return box.run([np.asarray(self.net.W), np.asarray(self.net.a)[None]], t1)


def distance(theta, reference):
    """The relative distance of all parameters."""
    return np.linalg.norm(theta - reference) / np.linalg.norm(reference)
