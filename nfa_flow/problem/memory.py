"""Gradients within a given memory: the samples are divided into chunks, which are evaluated one after another."""

import dataclasses
import os
from typing import Any

import jax
from jaxtyping import PyTree

from ..checks import require_number, wrong
from ..numerics.meshes import blocks_of
from .objective import AbstractObjective, SampleObjective, TotalObjective
from .trained import one_of

_PART = 1 / 8  # of the memory of a device, which a gradient may take unless it is given
_PER_PRODUCT = 4  # times what a gradient keeps, for a Hessian product, which took 3 (`python benchmarks/memory.py`)


def within_memory(
    objective: AbstractObjective, parameters: PyTree, memory: int | None, samples: int | None = None
) -> AbstractObjective:
    """The objective in as few chunks as let a Hessian product take at most `memory` bytes beside data and parameters.

    **Arguments:** `memory`: in bytes, on each device; None for an eighth of its memory; `samples`: of a minibatch.
    **Raises:** ValueError naming `memory` if one sample needs more, or for a `TotalLoss`, which sees all samples.
    """
    if memory is not None:
        require_number("memory", memory, above=0)
        if isinstance(objective, TotalObjective):
            raise wrong("memory", "left out for a `TotalLoss`, which is evaluated as a whole", f"{memory:g}")
    if not isinstance(objective, SampleObjective):
        return objective
    n = objective.data.samples if samples is None else samples
    one = _PER_PRODUCT * (_kept(objective, parameters, 2) - _kept(objective, parameters, 1))
    if memory is not None and memory < one:
        raise wrong("memory", f"at least {one} bytes, which one sample takes", f"{memory:g}")
    limit = _PART * _memory_of_device() if memory is None else memory
    at_once = max(1, min(n, blocks_of(objective.data.sharding) * int(limit / max(one, 1))))
    return dataclasses.replace(objective, chunks=-(-n // at_once))


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
