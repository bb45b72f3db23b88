"""What training minimizes: ℒ(θ) + (λ/2)‖θ‖², as a function of the trainable parameters θ.

`make_objective` picks the cheapest exact form. A linear network with the squared loss sees the data only through its
second moments: their triangular factor replaces the samples, and the cost of a gradient does not depend on n.

With mobilities m, the flow dθ/dt = −m∇ is a plain gradient flow of z = θ/√m. Such an objective is a function of z: its
Hessian √m H √m is symmetric, as the solvers for gradient flow require.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ..checks import require_finite, require_number, wrong
from ..data import Dataset, moment_factor
from ..nets import MLP
from ..nets.activations import name_of
from ..numerics.meshes import blocks_of, on_automatic_axes
from .losses import LOSSES, Loss, TotalLoss, data_loss, mse, require_fitting, require_scalar, resolve
from .mobility import Mobility, root_mobility
from .trained import Trainable, prediction_of, require_some, selected, with_gradient, without


class AbstractObjective(eqx.Module):
    """A differentiable function of the trainable parameters of one network on one dataset."""

    frozen: eqx.AbstractVar[PyTree]
    weight_decay: eqx.AbstractVar[Float[Array, ""]]
    root_mobility: eqx.AbstractVar[PyTree | None]  # √m in the structure of the parameters; None where m = 1
    loss_function: eqx.AbstractVar[Callable]  # of one sample, or a `TotalLoss`
    at_once: eqx.AbstractVar[int | None]  # how many samples to evaluate at a time, to need less memory; None for all

    @abc.abstractmethod
    def loss(self, parameters: PyTree) -> Float[Array, ""]:
        """The data term ℒ, without weight decay."""

    def net(self, parameters: PyTree) -> Any:
        """The complete network with these parameters."""
        return eqx.combine(self.natural(parameters), self.frozen)

    @property
    def trainable(self) -> PyTree:
        """A filter that selects the parameters from the network."""
        return jax.tree.map(lambda leaf: leaf is None, self.frozen, is_leaf=lambda leaf: leaf is None)

    def natural(self, parameters: PyTree) -> PyTree:
        """The network's own arrays θ = √m z."""
        return _times(self.root_mobility, parameters)

    def mobility(self, parameters: PyTree) -> PyTree:
        """m in the structure of the parameters; one number for an array if all its entries have the same."""
        root = self.root_mobility
        return jax.tree.map(lambda p: jnp.ones((), p.dtype), parameters) if root is None else _times(root, root)

    def gradient(self, parameters: PyTree) -> PyTree:
        """∇ℒ + λθ."""
        return self.with_decay(jax.grad(self.loss)(parameters), parameters)

    def loss_and_gradient(self, parameters: PyTree) -> tuple[Float[Array, ""], PyTree]:
        """(ℒ, ∇ℒ + λθ): the data loss alone, and the gradient of the whole objective."""
        loss, gradient = jax.value_and_grad(self.loss)(parameters)
        return loss, self.with_decay(gradient, parameters)

    def hessian_product(self, parameters: PyTree, direction: PyTree) -> PyTree:
        """H v, the Hessian of ℒ + (λ/2)‖θ‖² times a direction in the structure of the parameters."""
        return jax.jvp(self.gradient, (parameters,), (direction,))[1]

    def energy(self, parameters: PyTree) -> Float[Array, ""]:
        """F = ℒ + (λ/2)‖θ‖², which a flow brings down."""
        decay = self.weight_decay  # in the dtype of the parameters, which a user's loss may leave
        squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(self.natural(parameters)))
        return self.loss(parameters).astype(decay.dtype) + decay / 2 * squares

    def velocity(self, parameters: PyTree) -> PyTree:
        """−∇F: how a flow moves its parameters."""
        return jax.tree.map(jnp.negative, self.gradient(parameters))

    def gauss_newton(self, parameters: PyTree) -> Callable[[PyTree], PyTree]:
        """The product v ↦ G v, G = mean of Jᵀ ∇²ℓ J with the Jacobian J of the prediction.

        **Raises:** ValueError naming `dynamics` for a loss that is no mean over samples, and for half precision.
        """
        raise wrong("dynamics", "one without a Gauss-Newton matrix for a `TotalLoss` or half precision", "one with it")

    def with_decay(self, gradient: PyTree, parameters: PyTree) -> PyTree:
        pull = _times(self.root_mobility, self.natural(parameters))
        return jax.tree.map(lambda g, p: g + self.weight_decay.astype(p.dtype) * p, gradient, pull)


class AbstractDataObjective(AbstractObjective):
    """An objective that keeps its data, and can be restricted to a part of them."""

    data: eqx.AbstractVar[Dataset]

    def on(self, indices: Int[Array, " b"]) -> "AbstractDataObjective":
        """The objective of a minibatch; for a mean, its expectation over uniformly drawn indices is this objective."""
        data, scale = self.data, self.data.samples / indices.size
        weight = None if data.weight is None else scale * data.weight[indices]
        rows = (*jax.tree.map(lambda array: array[indices], (data.x, data.y)), weight)
        if data.sharding is not None and indices.size % blocks_of(data.sharding) == 0:  # or every device does all of it
            rows = jax.lax.with_sharding_constraint(rows, data.sharding)
        where = lambda o: (o.data.x, o.data.y, o.data.weight)
        return eqx.tree_at(where, self, rows, is_leaf=lambda leaf: leaf is None)


class SampleObjective(AbstractDataObjective):
    """Any module, any loss: evaluated sample by sample."""

    frozen: PyTree
    weight_decay: Float[Array, ""]
    root_mobility: PyTree | None
    data: Dataset
    loss_function: Callable = eqx.field(static=True)
    at_once: int | None = eqx.field(static=True, default=None)

    def loss(self, parameters: PyTree) -> Float[Array, ""]:
        return data_loss(self.loss_function, self.net(parameters), self.data, at_once=self.at_once)

    def gauss_newton(self, parameters: PyTree) -> Callable[[PyTree], PyTree]:
        data = self.data
        weight = jnp.full(data.samples, 1 / data.samples, data.dtype) if data.weight is None else data.weight
        predict = lambda parameters: jax.vmap(self.net(parameters))(data.x)
        loss = lambda predictions: weight @ jax.vmap(self.loss_function)(predictions, data.y)
        return _gauss_newton(predict, loss, parameters)


class TotalObjective(AbstractDataObjective):
    """Any function of the network and the data."""

    frozen: PyTree
    weight_decay: Float[Array, ""]
    root_mobility: PyTree | None
    data: Dataset
    loss_function: TotalLoss
    at_once: int | None = eqx.field(static=True, default=None)

    def loss(self, parameters: PyTree) -> Float[Array, ""]:
        return self.loss_function(self.net(parameters), self.data)


class MomentObjective(AbstractObjective):
    """A linear network f(x) = A x + c with the squared loss: ℒ = ½‖R_x Aᵀ + r_1 cᵀ − R_y‖²_F.

    [R_x, r_1, R_y] is the triangular factor of the second moments of [x, 1, y], so ℒ keeps full relative accuracy
    down to zero, where the expression in S_xx, S_xy and S_yy would cancel.
    """

    frozen: PyTree
    weight_decay: Float[Array, ""]
    root_mobility: PyTree | None
    factor: Float[Array, "r m"]
    loss_function: Callable = eqx.field(static=True, default=mse)
    at_once: int | None = eqx.field(static=True, default=None)  # by what is observed: the loss needs no samples

    def loss(self, parameters: PyTree) -> Float[Array, ""]:
        return _half_square(self._residual(parameters))

    def gauss_newton(self, parameters: PyTree) -> Callable[[PyTree], PyTree]:
        return _gauss_newton(self._residual, _half_square, parameters)

    def _residual(self, parameters: PyTree) -> Float[Array, "r c"]:
        A, c = self.net(parameters).affine()
        inputs, outputs = A.shape[1], A.shape[0]
        residual = self.factor[:, :inputs] @ A.T - self.factor[:, -outputs:]
        if c is not None:
            residual = residual + jnp.outer(self.factor[:, inputs], c)
        return residual


def make_objective(
    net: Any,
    data: Dataset,
    loss: Loss,
    weight_decay: float | Float[Array, ""],
    *,
    trainable: Trainable | None = None,
    mobility: Mobility | None = None,
    by_samples: bool = False,
) -> tuple[PyTree, AbstractObjective]:
    """Split a network into its trainable parameters and the objective that they minimize.

    **Arguments:** `net`: any Equinox module that maps one sample "d" to a prediction "c"; `data`; `loss`: a name, a
    function `(prediction, target) -> scalar`, or a `TotalLoss`; `weight_decay`: λ ≥ 0, on every parameter;
    `trainable`: a filter of the arrays that may be trained; `mobility`: m > 0, one per layer of an `MLP` or a tree in
    the shape of the network's arrays; `by_samples`: never replace the samples by their moments; minibatches need this.
    **Returns:** (parameters, objective). The parameters are the arrays that are selected and have a gradient, which
    arrays that are unused or behind `jax.lax.stop_gradient` have not, divided by √m. All others are frozen.
    **Raises:** ValueError naming `net`, `data`, `loss`, `weight_decay`, `trainable` or `mobility`.
    """
    if not isinstance(data, Dataset):
        raise wrong("data", "a `Dataset`", f"a {type(data).__name__}")
    require_number("weight_decay", weight_decay, at_least=0)
    loss_function, net = resolve(loss), on_automatic_axes(net)
    parameters = selected(net, trainable)
    dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(parameters)})
    if len(dtypes) > 1 or jnp.issubdtype(dtypes[0], jnp.complexfloating):
        raise wrong("net", "of one floating-point dtype, real", f"of {' and '.join(dtypes)}")
    require_finite("net", parameters)
    dtype = jnp.dtype(dtypes[0])
    data = data.astype(dtype)
    _check_shapes(net, data, loss_function)
    is_named = type(net) is MLP and all(name_of(each) for each in net.activations) and loss_function in LOSSES.values()
    if not is_named:  # where every array has a gradient
        parameters = with_gradient(lambda net: data_loss(loss_function, net, data), parameters, net)
        require_some(parameters, net, trainable)
    frozen, decay = without(net, parameters), jnp.asarray(weight_decay, dtype)
    root = None if mobility is None else root_mobility(mobility, net, parameters)
    if root is not None:
        parameters = jax.tree.map(lambda p, r: p / r, parameters, root)
    # Not of a subclass, which may be another function of its weights; so in all that takes an `MLP` for its layers.
    is_precise = jnp.finfo(dtype).bits >= 32  # as the factorization of the moments needs it
    if not by_samples and type(net) is MLP and net.is_linear and loss_function is mse and is_precise:
        factor = moment_factor(data, intercept=net.layers[0].bias is not None)
        return parameters, MomentObjective(frozen, decay, root, factor=factor)
    if isinstance(loss_function, TotalLoss):
        return parameters, TotalObjective(frozen, decay, root, data=data, loss_function=loss_function)
    return parameters, SampleObjective(frozen, decay, root, data=data, loss_function=loss_function)


def _gauss_newton(
    predict: Callable[[PyTree], PyTree], loss: Callable[[PyTree], Float[Array, ""]], parameters: PyTree
) -> Callable[[PyTree], PyTree]:
    predictions, push = jax.linearize(predict, parameters)
    pull = jax.linear_transpose(push, parameters)
    curve = lambda u: jax.jvp(jax.grad(loss), (predictions,), (u,))[1]
    return lambda v: pull(curve(push(v)))[0]


def _half_square(residual: Array) -> Float[Array, ""]:
    return 0.5 * jnp.sum(residual**2)


def _times(root: PyTree | None, parameters: PyTree) -> PyTree:
    return parameters if root is None else jax.tree.map(lambda r, p: r * p, root, parameters)


def _check_shapes(net: Any, data: Dataset, loss_function: Callable) -> None:
    if isinstance(loss_function, TotalLoss):
        return require_scalar(loss_function, net, data)
    if type(net) is MLP and net.widths[0] != data.inputs:
        raise wrong("data", f"of {net.widths[0]} inputs, like the network", f"of {data.inputs}")
    require_fitting(loss_function, prediction_of(net, data.x), data.y)
