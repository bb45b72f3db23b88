"""The empirical neural tangent kernel Θ = J Jᵀ, where J is the Jacobian of all predictions by all parameters.

J itself, n·c × P, is never formed. For any module a column of Θ is J (Jᵀe): one backward product through a single
sample, and one forward product through all of them. In an `MLP` the derivative with respect to W_l is the outer product
of B_l = df/dz_l and the layer's input h_l, so that Θ = Σ_l (h_l·h_l') B_l B_l'ᵀ: a product of n·c rows whose length is
the width of the layer, not its number of parameters.

Source: Jacot, Gabriel & Hongler 2018; Novak, Sohl-Dickstein & Schoenholz 2022 (ways to compute it).
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped

from ..checks import require_integer, require_number, wrong
from ..nets import MLP
from ..numerics.kernel import kernel, measurable
from ..numerics.lanczos import largest_eigenvalues
from ..problem.mobility import Mobility, own_mobility, root_mobility
from ..problem.trained import Trainable, prediction_of, selected
from ..run.observation import from_run
from .agop import MEMORY, Samples, whole_batch

_RTOL = 1e-6


@from_run("trainable")
def ntk(net: Any, data: Samples, *, trainable: Trainable | None = None, memory: int = MEMORY) -> Float[Array, "nc nc"]:
    """The empirical neural tangent kernel Θ = J Jᵀ, with entries (i·c + a, j·c + b) = ∇f_a(x_i)·∇f_b(x_j).

    Gradients are with respect to the arrays that are trained.

    **Arguments:** `net`: any module from a sample to a vector "c"; `data`: n samples or a `Dataset`, whose weights are
    ignored here; `trainable`: a filter of the arrays that are trained, as in `gradient_flow`, by default that of the
    run whose observable this is, and all floating-point arrays in a direct call; `memory`: about how many bytes to use
    in addition to the result.
    **Returns:** a positive semi-definite matrix, n·c × n·c, samples first, symmetric up to rounding.
    **Raises:** ValueError naming `net`, `data`, `trainable` or `memory`.
    **Source:** Jacot, Gabriel & Hongler 2018.
    """
    require_number("memory", memory, at_least=1)
    net = measurable(net)
    samples, _ = whole_batch(net, data).samples
    return _ntk(net, samples, int(memory), _root(net, None, trainable))


@from_run("mobility", "trainable")
def ntk_eigenvalues(
    net: Any,
    data: Samples,
    *,
    count: int | None = None,
    mobility: Mobility | None = None,
    trainable: Trainable | None = None,
    memory: int = MEMORY,
) -> Float[Array, " count"]:
    """The eigenvalues of √w Θ √w, decreasing: the rates at which the flow of the linearized network learns.

    Here Θ = J m Jᵀ with the mobilities m of the flow, which `ntk` leaves out. With the sample weights w (1/n unless
    given) the residuals of the squared loss obey r' = −Θ w r as long as Θ is constant. The nonzero eigenvalues are also
    those of the Gauss–Newton matrix √m (Σ w_i J_iᵀJ_i) √m.

    **Arguments:** `net`, `trainable`, `memory`: as in `ntk`; `data`: samples or a `Dataset`; `count`: how many of the
    largest, by Lanczos, each within 10⁻⁶ of an eigenvalue (relative to it, or to a thousandth of the largest for
    smaller ones); by default all n·c, by a full decomposition; static; `mobility`: as in `gradient_flow`. By default
    that of the run whose observable this is; in a direct call that of the network's parametrization, or 1 without one.
    **Returns:** `count` or n·c numbers. Of an untrained relu network 20-64-64-1 (Gaussian weights over
    √fan_in) on 500 Gaussian samples the largest three are 11.5 ± 1.8, 1.7 ± 0.2 and 1.4 ± 0.2 (64 draws).
    **Raises:** as `ntk`; ValueError naming `mobility`, or `count` above n·c.
    **Source:** Jacot, Gabriel & Hongler 2018; Lee et al. 2019 (the linearized network).
    """
    require_number("memory", memory, at_least=1)
    mobility = own_mobility(net) if mobility is None else mobility
    net = measurable(net)
    batch = whole_batch(net, data)
    theta = _ntk(net, batch.samples[0], int(memory), _root(net, mobility, trainable))
    if count is not None:
        require_integer("count", count, at_least=1)
        if count > len(theta):
            raise wrong("count", f"at most the number of predictions, {len(theta)}", count)
    return _eigenvalues(theta, batch.weight, count)


def _root(net: Any, mobility: Mobility | None, trainable: Trainable | None) -> PyTree | None:
    """√m in the structure of all floating-point arrays, with 0 for frozen ones; None if it is 1 for all."""
    arrays, parameters = eqx.filter(net, eqx.is_inexact_array), selected(net, trainable)
    if mobility is None and len(jax.tree.leaves(arrays)) == len(jax.tree.leaves(parameters)):
        return None
    one = jax.tree.map(lambda p: 1.0, parameters)
    root = root_mobility(one if mobility is None else mobility, net, parameters)
    return eqx.combine(root, jax.tree.map(lambda a: jnp.zeros((), a.dtype), arrays))


@kernel
def _ntk(net: Any, x: PyTree[Shaped[Array, "n ..."]], memory: int, root: PyTree | None) -> Float[Array, "nc nc"]:
    """J m Jᵀ for `root` = √m, a tree in the structure of the parameters, or JJᵀ for None."""
    shape = prediction_of(net, x)
    if getattr(shape, "ndim", None) != 1:
        raise wrong("net", "a map from a sample to a vector of outputs", getattr(shape, "shape", shape))
    n, c = len(jax.tree.leaves(x)[0]), shape.shape[0]
    one_number_each = all(jnp.ndim(each) == 0 for each in jax.tree.leaves(root))
    form = _by_layers if type(net) is MLP and one_number_each else _by_products
    theta = form(net, x, jnp.zeros((n, c, n, c), shape.dtype), memory, root)
    return theta.reshape(n * c, n * c)


@kernel
def _eigenvalues(theta: Float[Array, "nc nc"], weight: Float[Array, " n"], count: int | None) -> Array:
    root = jnp.sqrt(jnp.repeat(weight, len(theta) // len(weight))).astype(theta.dtype)
    weighted = root[:, None] * theta * root[None]
    if count is None:
        return jnp.linalg.eigvalsh(weighted)[::-1]
    start = jax.random.normal(jax.random.key(0), (count, len(theta)), theta.dtype)
    return largest_eigenvalues(lambda v: weighted @ v, start, _RTOL).values


def _by_layers(
    net: MLP, x: Shaped[Array, "n d"], zero: Float[Array, "n c n c"], memory: int, root: PyTree | None
) -> Float[Array, "n c n c"]:
    item, c = zero.dtype.itemsize, zero.shape[1]
    per_sample = 4 * item * c * sum(net.widths)  # two blocks: what is multiplied backwards, and the products
    per_pair = 3 * item * c**2  # the kernel, what a layer adds to it, and its factor
    size = min(memory // (2 * per_sample), math.isqrt(memory // (2 * per_pair)))
    features = jax.vmap(lambda x: _inputs_and_gradients(net, x, root))

    def rows(theta: Array, i: Array, a: Array) -> Array:
        of_a = features(a)

        def block(theta: Array, j: Array, b: Array) -> Array:
            kernel = sum(_of_layer(*layer) for layer in zip(*of_a, *features(b), strict=True))
            return jax.lax.dynamic_update_slice(theta, kernel, (i, 0, j, 0))

        return _over_blocks(block, theta, x, size)

    return _over_blocks(rows, zero, x, size)


def _of_layer(
    h_a: Float[Array, "a d"], B_a: Float[Array, "a c k"], h_b: Float[Array, "b d"], B_b: Float[Array, "b c k"]
) -> Float[Array, "a c b c"]:
    return (h_a @ h_b.T)[:, None, :, None] * jnp.tensordot(B_a, B_b, (2, 2))


def _inputs_and_gradients(net: MLP, x: Shaped[Array, " d"], root: PyTree | None) -> tuple[list[Array], list[Array]]:
    """Every layer's input h_l, with a one for a bias, times √m, and B_l = df/dz_l, for one sample."""
    roots = jax.tree.map(lambda p: jnp.ones((), p.dtype), net.layers) if root is None else root.layers

    def run(shifts: list[Array]) -> tuple[Float[Array, " c"], list[Array]]:
        z, inputs = x, []
        for linear, of_layer, activation, shift in zip(
            net.layers, roots, (None, *net.activations), shifts, strict=True
        ):
            h = z if activation is None else activation(z)
            weighted = of_layer.weight * h
            inputs.append(weighted if linear.bias is None else jnp.append(weighted, of_layer.bias))
            z = linear(h) + shift
        return z, inputs

    B, inputs = jax.jacrev(run, has_aux=True)([jnp.zeros(len(W), W.dtype) for W in net.weights])
    return inputs, B


def _by_products(
    net: Any, x: PyTree[Shaped[Array, "n ..."]], zero: Float[Array, "n c n c"], memory: int, root: PyTree | None
) -> Float[Array, "n c n c"]:
    n, c = zero.shape[:2]
    parameters, frozen = eqx.partition(net, eqx.is_inexact_array)
    predict = lambda parameters, x: eqx.combine(parameters, frozen)(x)

    def rows(theta: Array, i: Array, a: PyTree) -> Array:
        _, push = jax.linearize(lambda p: jax.vmap(lambda x: predict(p, x))(a), parameters)

        # One column at a time: many, each with a tangent of its own in the place of a kernel, are slow convolutions.
        def column(j: Array, theta: Array) -> Array:
            sample, output = j // c, j % c
            x_sample = jax.tree.map(lambda a: a[sample], x)
            prediction, pull = jax.vjp(lambda p: predict(p, x_sample), parameters)
            (direction,) = pull(jax.nn.one_hot(output, c, dtype=prediction.dtype))
            direction = direction if root is None else jax.tree.map(lambda d, r: r**2 * d, direction, root)
            return jax.lax.dynamic_update_slice(theta, push(direction)[:, :, None, None], (i, 0, sample, output))

        return jax.lax.fori_loop(0, n * c, column, theta)

    def kept(count: int) -> int:
        part = jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, *a.shape[1:]), a.dtype), x)
        backwards = lambda p, x: jax.vjp(lambda p: jax.vmap(lambda x: predict(p, x))(x), p)[1]
        leaves = jax.tree.leaves(jax.eval_shape(backwards, parameters, part))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    # What is kept for each sample: the parameters are, once.
    size = memory // (2 * max(1, kept(2) - kept(1)))
    return _over_blocks(rows, zero, x, size)


def _over_blocks(step: Any, theta: Float[Array, "n c n c"], x: PyTree[Shaped[Array, "n ..."]], size: int) -> Array:
    """Apply `step(theta, start, samples)` to one block of samples after another; the last one may overlap another."""
    n, size = len(theta), int(min(len(theta), max(1, size)))

    def at(i: Array, theta: Array) -> Array:
        start = jnp.minimum(i * size, n - size)
        return step(theta, start, jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, size), x))

    return jax.lax.fori_loop(0, -(-n // size), at, theta)
