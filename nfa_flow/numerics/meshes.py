"""Arrays whose rows are divided among the devices of a mesh.

Programs of this library are written as for one device, and XLA divides their work by where the arrays are. This is how
JAX treats mesh axes of the type Auto. Axes of the type Explicit, JAX's default, are part of the type of every number,
and refuse operations such as the raveling of parameters: arrays on such a mesh are moved to the same mesh with
automatic axes, where they occupy the same memory.
"""

import math
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree, Shaped

from ..checks import is_traced, require_instance, wrong

_Tree = TypeVar("_Tree", bound=PyTree)


def row_sharding(mesh: Mesh, axis: str | None = None) -> NamedSharding:
    """Rows in equal blocks along one axis of a mesh, by default its first; on the mesh with automatic axes.

    **Raises:** ValueError naming `mesh` or `axis`.
    """
    require_instance("mesh", mesh, Mesh, "a mesh of devices, as from `jax.make_mesh((4,), ('data',))`")
    names = mesh.axis_names
    if not names:
        raise wrong("mesh", "one with an axis, as from `jax.make_mesh((4,), ('data',))`", "one without")
    if axis is not None and axis not in names:
        raise wrong("axis", f"one of the axes of the mesh, {', '.join(map(repr, names))}", repr(axis))
    return NamedSharding(_automatic(mesh), PartitionSpec(names[0] if axis is None else axis))


def rows_of(array: Array) -> NamedSharding | None:
    """How the rows of an array are divided among devices; None if they are together, or if JAX is tracing it."""
    sharding = None if is_traced(array) else array.sharding
    if not isinstance(sharding, NamedSharding) or not sharding.spec or sharding.spec[0] is None:
        return None
    return NamedSharding(_automatic(sharding.mesh), PartitionSpec(sharding.spec[0]))


def blocks_of(sharding: NamedSharding | None) -> int:
    """Into how many blocks of rows a sharding divides an array; 1 for None."""
    if sharding is None:
        return 1
    names = sharding.spec[0]
    return math.prod(sharding.mesh.shape[name] for name in (names if isinstance(names, tuple) else (names,)))


def divided(array: Shaped[Array, "n ..."], sharding: NamedSharding) -> Shaped[Array, "n ..."]:
    """The array with its rows divided so; every process needs to hold all of it, or its part in this sharding."""
    if array.is_fully_addressable and not sharding.is_fully_addressable:
        here = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: here[index])
    return jax.device_put(array, sharding)


def on_automatic_axes(tree: _Tree) -> _Tree:
    """The tree with arrays that are on a mesh with explicit axes on the same mesh with automatic ones.

    **Raises:** ValueError if there are such arrays inside `jax.set_mesh` of a mesh with explicit axes, where JAX
    computes with no others.
    """
    return jax.tree.map(_on_automatic_axes, tree)


def _on_automatic_axes(leaf: Any) -> Any:
    sharding = leaf.sharding if isinstance(leaf, jax.Array) and not is_traced(leaf) else None
    if not isinstance(sharding, NamedSharding):
        return leaf
    current = jax.sharding.get_abstract_mesh()
    if not _is_automatic(current):
        must_be = "called with a mesh whose axes are of the type Auto, or not at all (`data.on` takes axes of any type)"
        raise wrong("jax.set_mesh", must_be, f"called with types {', '.join(each.name for each in current.axis_types)}")
    if _is_automatic(sharding.mesh):
        return leaf
    return jax.device_put(leaf, NamedSharding(_automatic(sharding.mesh), sharding.spec))


def _is_automatic(mesh: Any) -> bool:
    return set(mesh.axis_types) <= {AxisType.Auto}


def _automatic(mesh: Any) -> Mesh:
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))
