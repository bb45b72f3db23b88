"""Everything can be printed anywhere: on terminals and into pipes of any encoding, closed ones included."""

import io
import os
import subprocess
import sys
import time

import diffrax
import jax
import numpy as np
import optax
import pytest

import nfa_flow as nf
from nfa_flow.cli import main
from nfa_flow.cli.terminal import print_anywhere
from nfa_flow.run.interrupts import never_ignored

DATA = nf.data.linear_teacher(10, 3, key=jax.random.key(0))
NET = nf.nets.MLP([3, 2, 1], key=jax.random.key(1), activation="relu", parametrization="muP")


def public_objects():
    yield from (DATA, NET, NET.parametrization, nf.nets.Balanced(), nf.Grid(depth=nf.looped([2, 3]), seed=range(3)))
    yield nf.gradient_flow(NET, DATA, 1.0, solver=diffrax.Euler(), dt0=0.5, progress=False)
    optimizer = optax.chain(optax.sgd(0.1), nf.nets.scale_by_parametrization())
    yield nf.gradient_descent(NET, DATA, optimizer, 2, time_per_step=0.1, progress=False)
    scaling = nf.width.Scaling(np.ones((2, 1)), 0.0, 0.1, 0.0, True)
    yield nf.width.CoordinateCheck(NET.parametrization, (2, 4), {"update 1": scaling})
    studies = nf.studies
    yield from (studies.neural_feature_ansatz, studies.rich_features)
    yield from (studies.spectral_condition, studies.one_step_spikes)


def test_public_objects_print_as_ascii():
    for thing in public_objects():
        assert str(thing).isascii(), str(thing)


SMALL = (
    "flow --data linear_teacher --samples 20 --inputs 3 --depth 2 --width 4 --t1 1 --optimizers --no-progress".split()
)


def run(code, tmp_path, **environment):
    """A Python process in a folder of its own; what it writes, as bytes."""
    usual = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "PYTHONIOENCODING")}
    return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=usual | environment, capture_output=True)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_the_command_line_runs_whatever_the_encoding(encoding, tmp_path, monkeypatch):
    written = io.BytesIO()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding))
    main(SMALL)
    print("α →")
    with pytest.raises(SystemExit, match="0"):
        main(["study", "nfa", "--help"])
    sys.stdout.flush()
    said = written.getvalue().decode(encoding)
    assert "exact flow: The run completed at t = 1." in said and "alpha ->" in said
    assert (tmp_path / "runs" / "flow" / "exact_flow.zarr").exists()


@pytest.mark.timeout(300)
def test_without_stdout_the_runs_are_made_all_the_same(tmp_path):
    code = f"import os; os.close(1); import sys; sys.stdout = None; from nfa_flow.cli import main; main({SMALL})"
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "runs" / "flow" / "figure.png").exists()


@pytest.mark.timeout(300)
def test_a_reader_that_leaves_is_no_error(tmp_path):
    command = f"{sys.executable} -m nfa_flow.cli flow --help | head -c 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], cwd=tmp_path, capture_output=True)
    assert done.returncode in (0, 1) and not done.stderr


@pytest.mark.timeout(300)
def test_a_device_that_is_not_there_is_one_line(tmp_path):
    done = run(f"from nfa_flow.cli import main; main({SMALL})", tmp_path, JAX_PLATFORMS="cuda")
    assert done.returncode == 2
    assert done.stderr.decode().startswith("RuntimeError: JAX has no device of `JAX_PLATFORMS` = 'cuda'")
    assert done.stderr.count(b"\n") == 1 and not list(tmp_path.iterdir())


def test_an_interrupt_that_python_had_to_ignore_comes_again():
    class Collected:
        def __del__(self):
            raise KeyboardInterrupt

    usual = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), never_ignored():
        Collected()
        for _ in range(100):
            time.sleep(0.05)
    assert sys.unraisablehook is usual


IGNORED_AT_IMPORT = """
import sys, time
class Ignored:
    def __del__(self):
        raise KeyboardInterrupt
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "nfa_flow.data":
            Ignored()
            time.sleep(1)
sys.meta_path.insert(0, Finder())
import nfa_flow
print("imported")
"""


def test_an_interrupt_is_not_ignored_while_the_library_is_imported():
    done = subprocess.run([sys.executable, "-c", IGNORED_AT_IMPORT], capture_output=True, text=True, timeout=100)
    assert done.returncode != 0 and done.stdout == "" and done.stderr.endswith("KeyboardInterrupt\n")


def test_characters_that_an_encoding_lacks_have_a_plain_form():
    print_anywhere()
    shown = "‖W‖² → α̂ ± 1e−3 ∝ √n, 10–90 %: ½ … μP └ 中"
    assert shown.encode("ascii", "nfa_flow_plain") == b"||W||^2 -> alpha +- 1e-3 ~ sqrtn, 10-90 %: 1/2 ... muP + ?"
