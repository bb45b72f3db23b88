"""Ways to measure AGOP, each from the same weights and samples: ours, and what is written elsewhere.

A way is a function from a case to a function without arguments that measures once and waits for the result.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import nfa_flow as nf

Measure = Callable[[], Any]
BATCH = 1000  # samples at a time where a way holds whole Jacobians


@dataclass(frozen=True)
class Case:
    """A network 'd-h-…-h-c' of L layers (or a convolutional one) and n samples, in single precision."""

    d: int
    h: int
    L: int
    c: int
    n: int
    convolutional: bool = False

    @property
    def name(self) -> str:
        """As the tables show it."""
        if self.convolutional:
            return f"conv {self.h} channels, 2 layers, c = {self.c}, n = {self.n}"
        return f"d = {self.d}, h = {self.h}, L = {self.L}, c = {self.c}, n = {self.n}"

    @property
    def net(self) -> Any:
        """The network, of relu units."""
        key = jax.random.key(0)
        if self.convolutional:
            return _convolutional(key, self.h, self.c)
        return nf.nets.MLP([self.d, *[self.h] * (self.L - 1), self.c], key=key, activation="relu", dtype="float32")

    @property
    def x(self) -> jax.Array:
        """The samples."""
        return jax.random.normal(jax.random.key(1), (self.n, self.d), "float32")

    @property
    def flops(self) -> int | None:
        """Multiplications and additions that K = E[BᵀB] needs at least: forward, backward to z_1, and BᵀB."""
        if self.convolutional:
            return None
        inner = (self.L - 2) * self.h**2
        return 2 * self.n * (self.d * self.h + inner + self.h * self.c + self.c * (inner + self.h**2))


def _convolutional(key: jax.Array, channels: int, c: int) -> eqx.nn.Sequential:
    """On images of 3 × 32 × 32: two strided convolutions and a read-out."""
    keys = jax.random.split(key, 3)
    return eqx.nn.Sequential(
        [
            eqx.nn.Lambda(lambda x: x.reshape(3, 32, 32)),
            eqx.nn.Conv2d(3, channels, 3, stride=2, padding=1, key=keys[0]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Conv2d(channels, channels, 3, stride=2, padding=1, key=keys[1]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(channels * 64, c, key=keys[2]),
        ]
    )


def _ready(function: Callable, *arguments: Any) -> Measure:
    return lambda: jax.block_until_ready(function(*arguments))


def ours_small(case: Case) -> Measure:
    """K = E[BᵀB], which AGOP = WᵀKW is known by."""
    return _ready(nf.measure.preactivation_agop, case.net, case.x)


def ours_factor(case: Case) -> Measure:
    """R with RᵀR = K, for exact roots."""
    net, x = case.net, case.x
    return lambda: jax.block_until_ready(nf.measure.preactivation_agop(net, x, factor=True))


def ours_full(case: Case) -> Measure:
    """The d × d matrix."""
    return _ready(nf.measure.agop, case.net, case.x)


def plain_jax(case: Case) -> Measure | None:
    """`vmap(jacrev)` at the input, in batches, and JᵀJ."""
    if case.convolutional:
        return None
    net, x = case.net, case.x

    @jax.jit
    def add(total, batch):
        J = jax.vmap(jax.jacrev(net))(batch).reshape(-1, case.d)
        return total + J.T @ J

    def measure():
        total = jnp.zeros((case.d, case.d), "float32")
        for start in range(0, case.n, BATCH):
            total = add(total, x[start : start + BATCH])
        return jax.block_until_ready(total / case.n)

    return measure


def pytorch(case: Case, batch: int) -> Measure | None:
    """`torch.func.vmap(jacrev)` at the input (of patches: at the unfolded images), in batches, and JᵀJ."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    tensor = lambda array: torch.from_numpy(np.array(array)).to(device)
    x = tensor(case.x)
    f, rows, columns = (_torch_conv if case.convolutional else _torch_mlp)(case, tensor)
    derivative = torch.func.vmap(torch.func.jacrev(f))

    def measure():
        total = torch.zeros(columns, columns, device=device)
        with torch.no_grad():
            for start in range(0, case.n, batch):
                J = derivative(rows(x[start : start + batch])).reshape(-1, columns)
                total += J.T @ J
        if device == "cuda":
            torch.cuda.synchronize()
        return (total / case.n).cpu().numpy() / (256 if case.convolutional else 1)

    return measure


def _torch_mlp(case: Case, tensor: Callable) -> tuple[Callable, Callable, int]:
    import torch

    weights = [tensor(W) for W in case.net.weights]

    def f(h):
        for W in weights[:-1]:
            h = torch.relu(W @ h)
        return weights[-1] @ h

    return f, lambda x: x, case.d


def _torch_conv(case: Case, tensor: Callable) -> tuple[Callable, Callable, int]:
    import torch

    _, first, _, second, _, _, readout = case.net.layers
    W, b = tensor(first.weight.reshape(case.h, -1)), tensor(first.bias.ravel())
    V, v, U, u = (tensor(each) for each in (second.weight, second.bias.ravel(), readout.weight, readout.bias))

    def f(patches):  # 256 positions × 27
        z = (patches @ W.T + b).T.reshape(1, case.h, 16, 16)
        h = torch.nn.functional.conv2d(torch.relu(z), V, v, stride=2, padding=1)
        return U @ torch.relu(h).reshape(-1) + u

    unfold = lambda x: torch.nn.functional.unfold(x.reshape(-1, 3, 32, 32), 3, stride=2, padding=1).mT
    return f, unfold, 27


_PYTORCH = {f"PyTorch vmap(jacrev), {batch}": partial(pytorch, batch=batch) for batch in (100, BATCH)}
WAYS: dict[str, Callable[[Case], Measure | None]] = {
    "ours, K": ours_small,
    "ours, factor": ours_factor,
    "ours, d × d": ours_full,
    "JAX vmap(jacrev)": plain_jax,
    **_PYTORCH,
}
TORCH = tuple(_PYTORCH)
