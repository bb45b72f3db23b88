"""Problem set-ups with known answers, shared by the tests."""

import jax
import jax.numpy as jnp
import numpy as np

import nfa_flow as nf


def whitened_problem(W_1, S_yx):
    """A dataset with S_xx = I and the given S_yx: the inputs are scaled unit vectors, the targets its columns."""
    d = W_1.shape[1]
    x = np.sqrt(d) * np.eye(d)
    return nf.Dataset(x, np.sqrt(d) * np.asarray(S_yx).T)


def linear_net(weights):
    """A deep linear `MLP` with exactly these weight matrices."""
    widths = [weights[0].shape[1], *(W.shape[0] for W in weights)]
    return nf.nets.MLP(widths, key=jax.random.key(0)).with_weights([jnp.asarray(W) for W in weights])


def scalar_net(s0, depth):
    """A chain of `depth` equal scalar weights with product s0: one balanced mode."""
    return linear_net([np.full((1, 1), s0 ** (1 / depth))] * depth)


def counterexample_net(inputs, s0):
    """The network Σ a_i relu(w_iᵀx) with w_i = √s0 e_i and a_i = √s0: every neuron sees one unit vector."""
    net = nf.nets.MLP([inputs, inputs, 1], key=jax.random.key(0), activation="relu")
    return net.with_weights([np.sqrt(s0) * np.eye(inputs), np.sqrt(s0) * np.ones((1, inputs))])


def relative(error, reference):
    """‖error‖ / ‖reference‖ over all entries."""
    return float(np.linalg.norm(np.ravel(error)) / np.linalg.norm(np.ravel(reference)))
