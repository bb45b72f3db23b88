"""What decides the results of a sweep besides the user's function: sources and versions of libraries, settings of JAX.

This library counts by the text of its files, as a version number stays the same while a solver is repaired. Every file
counts, comments included, except those of the command line, of figures and of studies: an experiment is described by
its own text. The numerical packages count by version.
"""

import functools
import hashlib
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from .functions import places
from .literals import digest

NUMERICAL = ("jax", "jaxlib", "equinox", "diffrax", "optimistix", "lineax", "optax", "numpy", "scipy")
_PACKAGE = __name__.partition(".")[0]
_DECIDE_NOTHING = ("cli", "plot", "studies")


def environment() -> dict[str, Any]:
    """The part of a store's identity that does not depend on the user's function; one entry for each thing."""
    return {
        _PACKAGE: library_sources(),
        "versions": {name: version_of(name) for name in NUMERICAL},
        "precision": "float64" if uses_float64() else "float32",
        "matmul_precision": str(_setting("default_matmul_precision")),
        "random_numbers": {
            "implementation": str(jax.random.key_impl(jax.random.key(0))),
            "partitionable": _setting("threefry_partitionable"),
        },
    }


def uses_float64() -> bool:
    """Whether JAX makes float64 numbers in this thread."""
    return jnp.zeros(()).dtype == jnp.float64


@functools.cache
def library_sources() -> dict[str, str]:
    """Digest of this library's sources, by the folder or file at its top."""
    root = Path(__file__).parents[2]
    parts = sorted(each for each in root.iterdir() if each.suffix == ".py" or (each / "__init__.py").exists())
    return {each.stem: _digest_of_sources(each) for each in parts if each.stem not in _DECIDE_NOTHING}


@functools.cache
def package_text(root: str) -> str | None:
    """Version and digest of the Python sources of an installed package, for results that depend on it.

    None for what counts elsewhere: Python itself, this library and the numerical packages.
    """
    if root in sys.stdlib_module_names or root in (_PACKAGE, *NUMERICAL):
        return None
    return f"{version_of(root)}, sources {_digest_of_sources(*map(Path, places(root)))}"


@functools.cache
def version_of(package: str) -> str:
    """Version of the distribution that brings a package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        found = metadata.packages_distributions().get(package, ())
        return ", ".join(sorted({f"{name} {metadata.version(name)}" for name in found})) or "no version"


def _digest_of_sources(*places: Path) -> str:
    return digest("".join(f"{name} {content}" for place in places for name, content in _digests(place)))


def _digests(place: Path) -> Iterable[tuple[str, str]]:
    """Files below a folder, or a file, with the digest of each, whatever its line ends are."""
    for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
        name = file.relative_to(place.parent).as_posix()
        yield name, hashlib.sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def _setting(name: str) -> Any:
    return getattr(jax.config, f"jax_{name}")
