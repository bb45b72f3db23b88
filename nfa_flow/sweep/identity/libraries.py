"""Everything besides the user's function that decides results: sources and versions of libraries, settings of JAX.

This library is described by the text of its files, because a version number stays the same while a solver is repaired.
All files and comments are included, except for the command line, figures, training methods and studies: an experiment
is described by its own text. The numerical packages are described by version, other installed packages also by text.
"""

import functools
import hashlib
import importlib.util
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from .values import digest

NUMERICAL = ("jax", "jaxlib", "equinox", "diffrax", "optimistix", "lineax", "optax", "numpy", "scipy")
_PACKAGE = __name__.partition(".")[0]
_OWN = ("training", "studies", "cli")  # folders that are described like the user's own modules
_NOT_DIGESTED = (*_OWN, "plot")
_SCRIPTS = ("__main__", "__mp_main__")  # a script or a notebook, even if another program unpickles its functions


def environment() -> dict[str, Any]:
    """The part of an identity that does not depend on the user's function, with one entry for each item."""
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
    """Digests of the sources of this library, one for each folder and each file at its top."""
    (root,) = places_of(_PACKAGE)
    parts = sorted(each for each in root.iterdir() if each.suffix == ".py" or (each / "__init__.py").exists())
    return {each.stem: digest_of_sources(each) for each in parts if each.stem not in _NOT_DIGESTED}


@functools.cache
def package_text(package: str) -> str | None:
    """Version and digest of the Python sources of an installed package.

    None for packages that are described elsewhere: Python itself, this library and the numerical packages.
    """
    if package in sys.stdlib_module_names or package in (_PACKAGE, *NUMERICAL):
        return None
    return f"{version_of(package)}, sources {digest_of_sources(*places_of(package))}"


@functools.cache
def version_of(package: str) -> str:
    """The version of the distribution that contains a package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        found = metadata.packages_distributions().get(package, ())
        return ", ".join(sorted({f"{name} {metadata.version(name)}" for name in found})) or "no version"


def package_of(module: str | None) -> str:
    """The name of the package that contains a module."""
    return (module or "").partition(".")[0]


def is_of_library(module: str | None, file: str | None = None) -> bool:
    """Whether a module belongs to a library: Python, an installed package, or this package without its experiments.

    **Arguments:** `file`: the file of the module, if it is known; otherwise it is found by the name.
    """
    name = module or ""
    package = package_of(name)
    if package in _SCRIPTS:
        return False
    if package == _PACKAGE:
        return not f"{name}.".startswith(tuple(f"{_PACKAGE}.{folder}." for folder in _OWN))
    file = file or getattr(sys.modules.get(name), "__file__", None) or next(map(str, places_of(package)), None)
    return package in sys.stdlib_module_names if file is None else _is_installed(file)


@functools.lru_cache(maxsize=1024)
def _is_installed(file: str) -> bool:
    path = Path(file).absolute()
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    return any(path.is_relative_to(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))


def places_of(package: str) -> tuple[Path, ...]:
    """The folders of a package, or its file, imported or not; empty if it has none."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # removed since, or created by hand
        return ()
    if spec is None:
        return ()
    files = spec.submodule_search_locations or ([spec.origin] if spec.has_location and spec.origin else [])
    return tuple(map(Path, files))


def digest_of_sources(*places: Path) -> str:
    """A digest of the names and contents of all Python files in these folders, independent of line ends."""
    files = [(place, file) for place in places for file in sorted(place.rglob("*.py") if place.is_dir() else [place])]
    content = lambda file: hashlib.sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
    return digest("".join(f"{file.relative_to(place.parent).as_posix()} {content(file)}" for place, file in files))


def _setting(name: str) -> Any:
    return getattr(jax.config, f"jax_{name}")
