"""The gradient flows on which the solvers are compared: small enough for reference solutions, each hard in its way."""

import hashlib
import re
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.flatten_util import ravel_pytree

import nfa_flow as nf


class Problem(NamedTuple):
    """A network and a dataset, made on demand; what figures call them; until when the solvers are compared on them."""

    title: str
    make: Callable[[], tuple[nf.nets.MLP, nf.Dataset]]
    horizons: tuple[float, ...] = (1e2, 1e3, 1e4)
    has_kinks: bool = False


def multi_index_problem(activation: str, scale: float = 1.0) -> tuple[nf.nets.MLP, nf.Dataset]:
    """A network 10-32-32-1 of 1 376 parameters that learns a staircase of two directions from 256 noisy samples."""
    data = nf.data.multi_index(256, 10, rank=2, key=jax.random.key(0), noise=0.1)
    init = nf.nets.Gaussian(scale)
    return nf.nets.MLP([10, 32, 32, 1], key=jax.random.key(1), activation=activation, init=init), data


def deep_linear() -> tuple[nf.nets.MLP, nf.Dataset]:
    """Three linear layers that start close to the saddle at zero, and leave it at about t = 30."""
    data = nf.data.linear_teacher(256, 10, 3, key=jax.random.key(0), noise=0.1)
    return nf.nets.MLP([10, 10, 10, 3], key=jax.random.key(1), init=nf.nets.Gaussian(0.07)), data


def teacher_student() -> tuple[nf.nets.MLP, nf.Dataset]:
    """A GELU student of 10 200 parameters that learns from 2 000 samples of a teacher a tenth as wide."""
    x = jax.random.normal(jax.random.key(0), (2000, 50))
    teacher = nf.nets.MLP([50, 20, 1], key=jax.random.key(2), activation="gelu", init=nf.nets.Gaussian(2.0))
    student = nf.nets.MLP([50, 200, 1], key=jax.random.key(1), activation="gelu")
    return student, nf.Dataset(x, jax.vmap(teacher)(x))


def wide_tanh(width: int) -> tuple[nf.nets.MLP, nf.Dataset]:
    """A tanh network with two hidden layers of this width, on 64 samples: for costs against P = width² + 11 width."""
    data = nf.data.multi_index(64, 10, rank=2, key=jax.random.key(0), noise=0.1)
    return nf.nets.MLP([10, width, width, 1], key=jax.random.key(1), activation="tanh"), data


def two_layer_relu(width: int, samples: int) -> tuple[nf.nets.MLP, nf.Dataset]:
    """A ReLU network with one hidden layer: for costs against the number of kinks, width times samples."""
    data = nf.data.multi_index(samples, 10, rank=2, key=jax.random.key(0), noise=0.1)
    return nf.nets.MLP([10, width, 1], key=jax.random.key(1), activation="relu"), data


def relu_on_digits() -> tuple[nf.nets.MLP, nf.Dataset]:
    """A ReLU network 64-64-10 on all 1 797 handwritten digits: 115 008 kinks."""
    return nf.nets.MLP([64, 64, 10], key=jax.random.key(1), activation="relu"), nf.data.digits()


PROBLEMS = {
    "tanh": Problem("tanh, 10-32-32-1", lambda: multi_index_problem("tanh")),
    "softplus": Problem("softplus, 10-32-32-1, stiff", lambda: multi_index_problem("softplus", 1.5)),
    "linear": Problem("deep linear, 10-10-10-3, from a saddle", deep_linear),
    "gelu": Problem("GELU teacher and student, 50-200-1", teacher_student),
    "relu": Problem("ReLU, 10-32-32-1", lambda: multi_index_problem("relu"), (4.0, 1e2), has_kinks=True),
}
DIGITS = "ReLU 64-64-10 on the digits"
_WIDE = "tanh of width "
_TWO_LAYERS = re.compile(r"ReLU 10-(\d+)-1, n = (\d+)")


def wide_name(width: int) -> str:
    """The name under which `make` knows `wide_tanh(width)`."""
    return f"{_WIDE}{width}"


def two_layer_name(width: int, samples: int) -> str:
    """The name under which `make` knows `two_layer_relu(width, samples)`."""
    return f"ReLU 10-{width}-1, n = {samples}"


def make(name: str) -> tuple[nf.nets.MLP, nf.Dataset]:
    """The network and the data of a problem by name."""
    if sizes := _TWO_LAYERS.fullmatch(name):
        return two_layer_relu(*map(int, sizes.groups()))
    if name == DIGITS:
        return relu_on_digits()
    return wide_tanh(int(name.removeprefix(_WIDE))) if name.startswith(_WIDE) else PROBLEMS[name].make()


def flat(net: nf.nets.MLP) -> np.ndarray:
    """All parameters of a network as one vector."""
    return np.asarray(ravel_pytree(eqx.filter(net, eqx.is_inexact_array))[0])


def fingerprint(name: str) -> str:
    """A hash of the parameters, the data and the outputs of a problem: what belongs to it is void when it changes."""
    net, data = make(name)
    digest = hashlib.sha256()
    for array in (flat(net), data.x, data.y, jax.vmap(net)(data.x)):
        # Rounded: the last digits of random normal numbers differ from one processor to another.
        digest.update(np.round(np.asarray(array), 9).tobytes())
    return digest.hexdigest()[:12]
