"""Settings and fixtures shared by all tests: float64, as everything that is called exact needs it."""

import atexit
import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

# Two test processes on two cores leave nothing for BLAS threads, which would spin against each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# The studies in the notebooks use only data that everybody has.
os.environ.pop("NFA_FLOW_CIFAR10", None)

# The test processes, and all processes that tests start, share the programs that one of them has compiled.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    programs = tempfile.mkdtemp(prefix="nfa_flow_programs_")
    atexit.register(shutil.rmtree, programs, ignore_errors=True)
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": programs, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

# Programs do not say which line of Python each of their operations comes from, which is one part in thirty of the time.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import haste as haste
import jax
import matplotlib
import pytest
from hypothesis import settings

# Most of the time goes into compiling small programs, which these flags make up to three times as fast; with programs
# as users have them: `XLA_FLAGS= pytest`. JAX reads them when it is first used, and dies of one that it does not know.
if "XLA_FLAGS" not in os.environ:
    flags = (
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",  # one thread for each program: an eighth less processor time
    )
    hasty = {"XLA_FLAGS": " ".join(flags)}
    attempt = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"], env=os.environ | hasty, capture_output=True
    )
    os.environ |= hasty if attempt.returncode == 0 else {"XLA_FLAGS": ""}

# Shells take Ctrl-C from jobs in their background, and tests are interrupted by it.
signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update("jax_enable_x64", True)
matplotlib.use("Agg")

# Compilation makes the first example of a property slow, and its time says nothing.
settings.register_profile("nfa_flow", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("nfa_flow")

_ended_tests = itertools.count()

_compiled: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: _compiled.append(event) if event.endswith("backend_compile_duration") else None
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Run the quick studies first, so that the processes end together and none waits for what another one runs."""
    items.sort(key=lambda item: item.get_closest_marker("quick") is None)


@pytest.fixture(autouse=True)
def room_for_programs():
    """Forget what was compiled before there is too much of it; counting takes 20 ms, so every tenth test counts."""
    yield
    if next(_ended_tests) % 10 == 0:
        from nfa_flow.numerics.programs import make_room_for_programs  # once the import hook is there

        make_room_for_programs()


@pytest.fixture
def compilations():
    """A function that counts the compilations since the last time it was asked."""

    def count() -> int:
        number = len(_compiled)
        _compiled.clear()
        return number

    count()
    return count


@pytest.fixture(scope="session")
def studies_folder(tmp_path_factory):
    """A folder like that of somebody who has run the quick studies: they are in `runs/NAME-quick`.

    All test processes share it. The first that asks for a study runs it, and the others wait.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "studies"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def quick_study(studies_folder):
    """A function from the name of a study to the folder that its quick version has written."""

    def folder_of(name: str) -> Path:
        from nfa_flow.cli import main

        out = studies_folder / "runs" / f"{name}-quick"
        with open(studies_folder / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (out / "claims.csv").exists():
                arguments = ["study", name, "--quick", "--out", str(out), "--no-progress"]
                if name in _LONG_STUDIES:
                    _run_optimized(arguments)
                else:
                    if name in _LONG_EXPERIMENTS:
                        _run_optimized([*arguments, "--figure", *_LONG_EXPERIMENTS[name]])
                    main(arguments)
        return out

    yield folder_of
    jax.config.update("jax_enable_x64", True)


# What runs longer than it compiles.
_LONG_STUDIES = ("spectral", "rich-features")
_LONG_EXPERIMENTS = {"nfa": ("initialization", "relu-digits")}

_WITH_TYPE_CHECKS = """
import sys
import haste
from jaxtyping import install_import_hook
install_import_hook("nfa_flow", "beartype.beartype")
from nfa_flow.cli import main
main(sys.argv[1:])
"""


def _run_optimized(arguments: list[str]):
    """Call the command line in a process of its own, whose programs are optimized: those that run long gain by it.

    Types and run-time warnings are checked as everywhere else.
    """
    flags = os.environ["XLA_FLAGS"].replace("optimization_level=0", "optimization_level=1")
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", _WITH_TYPE_CHECKS, *arguments]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"XLA_FLAGS": flags, "MPLBACKEND": "Agg", "PYTHONPATH": path}
    subprocess.run(command, env=environment, check=True)


@pytest.fixture
def no_type_checks():
    """Switch the run-time type checks off, so that wrong types reach the library as they do for its users."""
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
