"""On what a benchmark ran: device, processor, versions, revision."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any


def describe_machine(device: Any, packages: Sequence[str]) -> dict[str, Any]:
    """What to keep beside results; `device`: as JAX tells it."""
    here = Path(__file__).parent
    git = subprocess.run(["git", "-C", here, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": device,
        "versions": {package: _version(package) for package in packages},
        "revision": git.stdout.strip(),
        "date": datetime.now().isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
