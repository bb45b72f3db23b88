"""Fully connected networks with an activation per layer; deep linear networks are one case."""

import functools
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray, Shaped

from ..checks import described, floating_dtype, real_array, require_instance, require_integer, require_key, wrong
from .activations import PIECEWISE_LINEAR, Activation, name_of, resolve
from .initialization import AbstractInitialization, Gaussian
from .parametrization import AbstractParametrization
from .parametrization_schemes import resolve_parametrization


class MLP(eqx.Module):
    """f(x) = W_L σ_{L−1}(W_{L−1} … σ_1(W_1 x)), with optional biases.

    **Arguments:**
    - `widths`: (inputs, hidden widths …, outputs), at least two entries; L = len(widths) − 1 layers.
    - `key`: PRNG key for the initial weights.
    - `activation`: a name (see `nfa_flow.nets.ACTIVATIONS`), a function of an array, or one of these per hidden layer.
    - `init`: an initialization of the weights, `Gaussian()` by default; biases start at zero.
    - `parametrization`: how initial weights and learning rates depend on the widths: "SP", "NTP", "muP", "MeanField",
      "Spectral", or an object such as `nf.nets.muP("adam")`. It replaces `init`, and `gradient_flow` uses its
      mobilities; optimizers use them if `nf.nets.scale_by_parametrization()` is chained after them.
    - `bias`: whether every layer has a bias.
    - `dtype`: of the parameters; JAX's default float if None.

    **Raises:** ValueError for bad widths, an unknown activation or parametrization, an initialization or a
    parametrization that does not fit the widths, or if both are given.
    """

    layers: tuple[eqx.nn.Linear, ...]
    activations: tuple[Callable[[Array], Array], ...] = eqx.field(static=True)
    parametrization: AbstractParametrization | None = eqx.field(static=True)

    def __init__(
        self,
        widths: Sequence[int],
        *,
        key: PRNGKeyArray,
        activation: Activation | Sequence[Activation] = "identity",
        init: AbstractInitialization | None = None,
        parametrization: AbstractParametrization | str | None = None,
        bias: bool = False,
        dtype: DTypeLike | None = None,
    ):
        require_instance("widths", widths, (Sequence, np.ndarray), "a sequence (inputs, hidden widths …, outputs)")
        if len(widths) < 2:
            raise wrong("widths", "a sequence (inputs, hidden widths …, outputs)", list(widths))
        require_key("key", key)
        for width in widths:
            require_integer("widths", width, at_least=1)
        dtype = _floating(dtype)
        hidden = len(widths) - 2
        if isinstance(activation, str) or callable(activation):
            activation = [activation] * hidden
        if not isinstance(activation, Sequence) or len(activation) != hidden:
            raise wrong(
                "activation", f"one name or function, or one for each of the {hidden} hidden layers", activation
            )
        self.activations = tuple(resolve(each) for each in activation)
        self.parametrization = None if parametrization is None else resolve_parametrization(parametrization)
        if self.parametrization is None:
            draw = Gaussian() if init is None else init
            if not callable(draw) or isinstance(draw, type):
                raise wrong("init", "an initialization such as `nf.nets.Gaussian()`", described(init))
        elif init is None:
            draw = self.parametrization.draw
        else:
            raise wrong("init", f"left out, because {self.parametrization.name} sets the initial weights", init)
        self.layers = tuple(_linear(W, bias) for W in draw(key, tuple(widths), dtype))

    def __call__(self, x: Shaped[Array, " inputs"], *, key: PRNGKeyArray | None = None) -> Float[Array, " outputs"]:
        """The prediction for one sample; use `jax.vmap` for the rows of a data matrix."""
        return self.from_preactivation(1, self.layers[0](x))

    def to_layer(self, layer: int, x: Shaped[Array, " inputs"]) -> Float[Array, " fan_in"]:
        """The input h of layer `layer` (1 … L) for one sample; for layer 1 that is x itself."""
        self._check_layer(layer)
        for linear, activation in zip(self.layers[: layer - 1], self.activations[: layer - 1], strict=True):
            x = activation(linear(x))
        return x

    def from_preactivation(self, layer: int, z: Float[Array, " fan_out"]) -> Float[Array, " outputs"]:
        """The prediction as a function of the pre-activation z = W_l h + b_l of layer `layer` (1 … L)."""
        self._check_layer(layer)
        for linear, activation in zip(self.layers[layer:], self.activations[layer - 1 :], strict=True):
            z = linear(activation(z))
        return z

    def _check_layer(self, layer: int) -> None:
        require_integer("layer", layer, at_least=1)
        if layer > self.depth:
            raise wrong("layer", f"at most the number of layers, {self.depth}", layer)

    @property
    def weights(self) -> tuple[Float[Array, "... _ _"], ...]:
        """The weight matrices W_1 … W_L, each fan_out × fan_in."""
        return tuple(linear.weight for linear in self.layers)

    def with_weights(self, weights: Sequence[Float[Array | np.ndarray, "_ _"]]) -> "MLP":
        """The same network with other weight matrices of the same shapes."""
        require_instance("weights", weights, Sequence, "a sequence of matrices")
        weights = [real_array("weights", W, ...) for W in weights]
        shapes, given = [W.shape for W in self.weights], [W.shape for W in weights]
        if given != shapes:
            raise wrong("weights", f"matrices of shapes {shapes}", given)
        new = [W.astype(old.dtype) for W, old in zip(weights, self.weights, strict=True)]
        return eqx.tree_at(lambda net: [linear.weight for linear in net.layers], self, new)

    @property
    def mobility(self) -> "tuple[float, ...] | MLP | None":
        """The factor of each layer's learning rate in the parametrization; None without a parametrization.

        One number per layer. Biases have numbers of their own: with biases it is a tree in the shape of the network.
        """
        if self.parametrization is None:
            return None
        weights = self.parametrization.effective(self.widths).mobility
        if not self.layers[0].use_bias:
            return weights
        biases = self.parametrization.bias_mobility(self.widths)
        where = lambda net: [linear.weight for linear in net.layers] + [linear.bias for linear in net.layers]
        return eqx.tree_at(where, self, [*weights, *biases], is_leaf=lambda leaf: leaf is None)

    @property
    def depth(self) -> int:
        """The number of layers L."""
        return len(self.layers)

    @property
    def widths(self) -> tuple[int, ...]:
        """(inputs, hidden widths …, outputs)."""
        # Not of the weights, which may be absent: a part of the network is trained, and another one frozen.
        return (int(self.layers[0].in_features), *(int(linear.out_features) for linear in self.layers))

    @property
    def is_linear(self) -> bool:
        """Whether every activation is the identity, so that the network is an affine map of its input."""
        return all(name_of(activation) == "identity" for activation in self.activations)

    @property
    def has_kinks(self) -> bool:
        """Whether an activation is piecewise linear, so that gradient flow has a discontinuous right-hand side."""
        return any(name_of(activation) in PIECEWISE_LINEAR for activation in self.activations)

    def affine(self) -> tuple[Float[Array, "outputs inputs"], Float[Array, " outputs"] | None]:
        """(A, c) with f(x) = A x + c, for a linear network; c is None without biases.

        The matrices are multiplied from the narrower end, which costs least, in the forward and in the backward pass.
        """
        if not self.is_linear:
            raise ValueError("`affine` needs a linear network, but this one has an activation other than the identity.")
        weights = self.weights
        if self.widths[-1] <= self.widths[0]:
            A = weights[-1]
            for W in weights[-2::-1]:
                A = A @ W
        else:
            A = weights[0]
            for W in weights[1:]:
                A = W @ A
        if self.layers[0].bias is None:
            return A, None
        c = self.layers[0].bias
        for linear in self.layers[1:]:
            c = linear(c)
        return A, c

    def __repr__(self) -> str:
        if not all(
            hasattr(linear.weight, "shape") for linear in self.layers
        ):  # specifications in the shape of an MLP, as for vmap
            return super().__repr__()
        names = [name_of(activation) or getattr(activation, "__name__", "?") for activation in self.activations]
        shown = names[0] if len(set(names)) == 1 else ", ".join(names) or "no hidden layer"
        scheme = "" if self.parametrization is None else f", {self.parametrization.name}"
        bias = "" if self.layers[0].bias is None else ", bias"
        return f"MLP({'-'.join(map(str, self.widths))}, {shown}{scheme}{bias}, {self.weights[0].dtype})"


def _floating(dtype: DTypeLike | None) -> jnp.dtype:
    """The floating dtype; JAX's default one for None."""
    return jnp.zeros(()).dtype if dtype is None else floating_dtype("dtype", dtype)


def _linear(weight: Float[Array, "fan_out fan_in"], bias: bool) -> eqx.nn.Linear:
    shell = _shell(*weight.shape, bias)
    new = (weight, jnp.zeros(len(weight), weight.dtype)) if bias else (weight,)
    return eqx.tree_at(lambda linear: (linear.weight, linear.bias) if bias else (linear.weight,), shell, new)


@functools.cache
def _shell(fan_out: int, fan_in: int, bias: bool) -> eqx.nn.Linear:
    """A layer without numbers. Equinox would draw some, which takes longer than all else here."""
    return eqx.filter_eval_shape(eqx.nn.Linear, fan_in, fan_out, use_bias=bias, key=jax.random.key(0))
