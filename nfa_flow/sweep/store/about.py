"""The origin of results, which is stored with them: versions, device and revision."""

import platform
import subprocess
from typing import Any

import jax

from ..identity.libraries import version_of

_PACKAGES = ("jax", "jaxlib", "diffrax", "equinox", "optax", "numpy", "xarray", "zarr")


def provenance() -> dict[str, Any]:
    """Versions, device, machine, and the git revision of the working folder, if it has one."""
    from ... import __version__  # also of a checkout that is not installed

    device = jax.local_devices()[0]
    versions = {"python": platform.python_version(), "nfa_flow": __version__}
    return {
        "versions": versions | {name: version_of(name) for name in _PACKAGES},
        "device": f"{len(jax.local_devices())} × {device.device_kind} ({device.platform})",
        "machine": platform.platform(),
        "git_revision": _git_revision(),
    }


def _git_revision() -> str | None:
    """The commit, with "+" if files differ from it."""
    try:
        commit = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changes else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=True).stdout.strip()
