"""Gradients within a given memory: the samples are divided into chunks, which are evaluated one after another."""

import dataclasses
import os
from typing import Any

import jax
from jaxtyping import PyTree

from ..checks import require_number, wrong
from .objective import AbstractObjective, MomentObjective, SampleObjective
from .trained import one_of

_PART = 1 / 8  # of the memory of a device, which a gradient may take unless it is given
_PER_PRODUCT = 4  # times what a gradient keeps, for a Hessian product, which took 3 (`python benchmarks/memory.py`)


def within_memory(objective: AbstractObjective, parameters: PyTree, memory: int | None) -> AbstractObjective:
    """The objective with so many samples at a time that a Hessian product takes at most `memory` bytes for them.

    **Arguments:** `memory`: in bytes, on each device, beside data and parameters; None for an eighth of its memory.
    **Raises:** ValueError naming `memory` if one sample needs more, or for a `TotalLoss`, which sees all samples.
    """
    if memory is not None:
        require_number("memory", memory, above=0)
    limit = _PART * _memory_of_device() if memory is None else memory
    if isinstance(objective, MomentObjective):
        net = objective.net(parameters)
        one = 2 * sum(net.widths) * net.weights[0].dtype.itemsize  # of a prediction
    elif isinstance(objective, SampleObjective):
        one = _PER_PRODUCT * (_kept(objective, parameters, 2) - _kept(objective, parameters, 1))
    elif memory is not None:
        raise wrong("memory", "left out for a `TotalLoss`, which is evaluated as a whole", f"{memory:g}")
    else:
        return objective
    if memory is not None and memory < one:
        raise wrong("memory", f"at least {one} bytes, which one sample takes", f"{memory:g}")
    return dataclasses.replace(objective, at_once=max(1, int(limit / max(one, 1))))


def _kept(objective: SampleObjective, parameters: PyTree, samples: int) -> int:
    """The bytes that a backward pass over so many samples keeps."""
    many = lambda spec: jax.ShapeDtypeStruct((samples, *spec.shape), spec.dtype)
    x, y = jax.tree.map(many, one_of((objective.data.x, objective.data.y)))

    def backward(parameters: PyTree, x: PyTree, y: Any) -> Any:
        losses = lambda p: jax.vmap(objective.loss_function)(jax.vmap(objective.net(p))(x), y)
        return jax.vjp(losses, parameters)[1]

    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(backward, parameters, x, y)))


def _memory_of_device() -> int:
    """In bytes: of an accelerator what JAX may use, otherwise all memory of the machine."""
    known = jax.local_devices()[0].memory_stats()
    if known and "bytes_limit" in known:
        return known["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**33
