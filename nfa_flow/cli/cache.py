"""Compiled programs, kept between calls of the command line: most of the time of a short call is compilation.

JAX reads and writes them. The library itself sets nothing: in Python, `jax_compilation_cache_dir` is the user's choice.
"""

import os
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated

import tyro

_DAYS = 30


def folder() -> Path:
    """The folder of these programs: below the user's cache folder, by the convention of the platform."""
    if sys.platform == "win32":
        caches = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        caches = "~/Library/Caches"
    else:
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(caches)) / "nfa-flow"


Cache = Annotated[
    bool, tyro.conf.arg(help=f"keep compiled programs for the next call, in JAX_COMPILATION_CACHE_DIR or {folder()}")
]


def keep_programs(keep: bool) -> None:
    """Make JAX keep compiled programs in `folder` for a month, unless the user has chosen a folder.

    Call it before the first compilation. If the folder cannot be written, or with `keep=False`, programs are compiled
    again in each call.
    """
    import jax

    if not keep:
        jax.config.update("jax_enable_compilation_cache", False)
    elif "JAX_COMPILATION_CACHE_DIR" not in os.environ and _is_ready(folder()):
        jax.config.update("jax_compilation_cache_dir", str(folder()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # many small programs also take long
        # For files that a killed process left incomplete; their programs are compiled again.
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def _is_ready(path: Path) -> bool:
    """Whether programs can be kept there; creates the folder, and removes programs that are too old."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)  # private: these files are executed
        for program in path.glob("*-cache"):
            if program.stat().st_mtime < time.time() - _DAYS * 24 * 3600:
                program.unlink()
    except OSError:
        return False
    return path.is_absolute() and os.access(path, os.W_OK)
