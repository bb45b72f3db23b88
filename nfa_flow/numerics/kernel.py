"""How the library compiles its measurements: in full precision, with one BLAS thread, and for which arrays."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
from jaxtyping import PyTree

from .blas import on_one_blas_thread
from .meshes import on_automatic_axes
from .precision import at_least_single
from .switches import full_precision

_Tree = TypeVar("_Tree", bound=PyTree)
_Function = TypeVar("_Function", bound=Callable[..., Any])


def kernel(function: _Function) -> _Function:
    """The compiled function; arguments that are not arrays are static. Inside `jax.jit` it is traced as usual."""
    return on_one_blas_thread(eqx.filter_jit(full_precision(function)))  # pyright: ignore[reportReturnType]


def measurable(tree: _Tree) -> _Tree:
    """The tree as kernels take it: in single precision at least, and on automatic axes of a mesh."""
    return on_automatic_axes(at_least_single(tree))
