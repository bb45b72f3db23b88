"""Problem set-ups with known answers, shared by the tests."""

import equinox as eqx
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
    return nf.nets.MLP(widths, key=jax.random.key(0), init=Given(tuple(weights)))


class Given(nf.nets.AbstractInitialization):
    """These weights, so that no program is compiled that draws others."""

    weights: tuple

    def __call__(self, key, widths, dtype):
        return tuple(jnp.asarray(W, dtype) for W in self.weights)


def scalar_net(s0, depth):
    """A chain of `depth` equal scalar weights with product s0: one balanced mode."""
    return linear_net([np.full((1, 1), s0 ** (1 / depth))] * depth)


def counterexample_net(inputs, s0):
    """The network Σ a_i relu(w_iᵀx) with w_i = √s0 e_i and a_i = √s0: every neuron sees one unit vector."""
    init = Given((np.sqrt(s0) * np.eye(inputs), np.sqrt(s0) * np.ones((1, inputs))))
    return nf.nets.MLP([inputs, inputs, 1], key=jax.random.key(0), activation="relu", init=init)


def relative(error, reference):
    """‖error‖ / ‖reference‖ over all entries."""
    return float(np.linalg.norm(np.ravel(error)) / np.linalg.norm(np.ravel(reference)))


def with_random_biases(net, seed=1):
    """The same `MLP` with normal biases in place of those that start at zero."""
    keys = jax.random.split(jax.random.key(seed), net.depth)
    biases = [jax.random.normal(key, W.shape[:1], W.dtype) for key, W in zip(keys, net.weights, strict=True)]
    return eqx.tree_at(lambda net: [layer.bias for layer in net.layers], net, biases)


def balanced_net(widths, seed=0, **options):
    """A deep linear `MLP` with exactly balanced weights."""
    return nf.nets.MLP(widths, key=jax.random.key(seed), init=nf.nets.Balanced(), **options)


def above(net, layer):
    """The prediction of an `MLP` as a function of the input h of a layer, written out."""

    def f(h):
        for l in range(layer - 1, net.depth):
            linear = net.layers[l]
            z = linear.weight @ h + (0 if linear.bias is None else linear.bias)
            h = net.activations[l](z) if l < net.depth - 1 else z
        return h

    return f


@eqx.filter_jit
def agop_by_definition(f, x, weight=None):
    """Σ_i w_i J(x_i)ᵀJ(x_i), with the Jacobians of f by forward differentiation."""
    J = jax.vmap(jax.jacfwd(f))(x)
    return jnp.einsum("i,ica,icb->ab", jnp.full(len(x), 1 / len(x)) if weight is None else weight, J, J)


def parameters(net):
    """All trainable numbers of a network as one vector."""
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(eqx.filter(net, eqx.is_inexact_array))])
