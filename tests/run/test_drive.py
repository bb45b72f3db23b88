"""Interrupted runs: Ctrl-C and kills lose nothing, and a checkpoint goes on only with the run that wrote it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nfa_flow as nf
from nfa_flow.run import drive

HERE = Path(__file__).parent
DATA = nf.data.multi_index(24, 4, 2, key=jax.random.key(0))
NET = nf.nets.MLP([4, 6, 1], key=jax.random.key(1), activation="tanh")
ADAM = optax.adam(0.01)


def flow(checkpoint=None, *, net=NET, t1=30.0, rtol=1e-9, power=0.5, **options):
    observe = {"loss": nf.measure.loss, "alignment": nf.measure.alignment(power)}
    options = {"observe": observe, "rtol": rtol, "atol": 1e-12, "weight_decay": 1e-3} | options
    return nf.gradient_flow(net, DATA, t1, checkpoint=checkpoint, progress=False, **options)


def descent(checkpoint=None, *, net=NET, optimizer=ADAM, steps=3000, key=2, **options):
    batches = {"batch_size": 5, "key": jax.random.key(key), "time_per_step": 0.01}
    return nf.gradient_descent(
        net, DATA, optimizer, steps, checkpoint=checkpoint, progress=False, **(batches | options)
    )


def part(checkpoint=None, **options):
    """A descent of one layer, by a loss that is no mean over samples."""
    total = nf.TotalLoss(lambda net, data: jnp.max(jax.vmap(net)(data.x) - data.y) ** 2)
    return descent(checkpoint, loss=total, trainable=lambda leaf: leaf.shape == (6, 4), **options)


RUNS = {"flow": flow, "descent": descent, "part": part}


@pytest.fixture
def interrupt(monkeypatch):
    """Make the next run receive Ctrl-C after some slices of work."""

    def prepare(slices):
        @contextlib.contextmanager
        def progress_bar(label, progress):
            shown = []

            def show(fraction):
                assert 0 <= fraction < 1
                shown.append(fraction)
                if len(shown) == slices:
                    monkeypatch.undo()
                    signal.raise_signal(signal.SIGINT)

            yield show

        monkeypatch.setattr(drive, "_FIRST_BUDGET", 7)
        monkeypatch.setattr(drive, "_SLICE_SECONDS", 0.0)  # never more than a quarter of the last budget, at least one
        monkeypatch.setattr(drive, "_progress_bar", progress_bar)

    return prepare


def assert_same_bits(run, other):
    assert run.status == other.status
    assert {**run.stats, "seconds": 0} == {**other.stats, "seconds": 0}
    arrays = [jax.tree.leaves(eqx.filter((r.times, r.steps, r.observed, r.net), eqx.is_array)) for r in (run, other)]
    for ours, theirs in zip(*arrays, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def uninterrupted():
    return {name: run() for name, run in RUNS.items()}


@pytest.mark.parametrize("kind", RUNS)
def test_an_interrupted_run_goes_on_to_the_same_bits(kind, interrupt, uninterrupted, tmp_path):
    run, checkpoint = RUNS[kind], tmp_path / "folder" / "run.checkpoint"
    steps = []
    for slices in (3, 5):
        interrupt(slices)
        with pytest.raises(nf.RunInterrupted, match="it was interrupted") as raised:
            run(checkpoint)
        steps.append(raised.value.trajectory.stats["steps"])
        assert raised.value.trajectory.status == "interrupted"
        assert os.listdir(checkpoint.parent) == ["run.checkpoint"]
    assert 0 < steps[0] < steps[1] < uninterrupted[kind].stats["steps"]
    assert_same_bits(run(checkpoint), uninterrupted[kind])
    assert os.listdir(checkpoint.parent) == []


@pytest.mark.parametrize("kind", RUNS)
def test_seconds_are_those_of_all_sessions(kind, interrupt, tmp_path):
    interrupt(3)
    first = RUNS[kind](tmp_path / "run", throw=False).stats["seconds"]
    with np.load(tmp_path / "run") as stored:
        changed = {name: stored[name] for name in stored}
    np.savez(tmp_path / "run.npz", **changed | {"seconds": changed["seconds"] + 1e4})
    os.replace(tmp_path / "run.npz", tmp_path / "run")
    assert 0 < changed["seconds"] <= first
    assert 1e4 + changed["seconds"] < RUNS[kind](tmp_path / "run").stats["seconds"] < 1.1e4


def test_a_damaged_checkpoint_is_named(interrupt, tmp_path):
    interrupt(3)
    descent(tmp_path / "run", throw=False)
    content = bytearray((tmp_path / "run").read_bytes())
    content[100:200] = bytes(100)
    (tmp_path / "run").write_bytes(content)
    with pytest.raises(ValueError, match=r"`checkpoint` must be .*run, which is damaged \(.*\): delete it to begin"):
        descent(tmp_path / "run")


def test_what_an_interrupted_run_observed_is_the_beginning_of_the_whole(interrupt, uninterrupted):
    interrupt(6)
    run, whole = descent(throw=False), uninterrupted["descent"]
    assert run.status == "interrupted"
    assert 2 < len(run.times) < len(whole.times)
    np.testing.assert_array_equal(run.observed["loss"], whole.observed["loss"][: len(run.times)])


def test_a_slice_makes_at_most_its_budget_of_steps(interrupt, tmp_path):
    interrupt(3)
    # 7 steps at first, then a quarter of the budget: 7 + 1 + 1.
    assert descent(throw=False).stats["steps"] == 9


def test_checkpoints_are_written_while_the_run_lasts(monkeypatch, tmp_path):
    written = []
    write = drive._write
    monkeypatch.setattr(drive, "_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(drive, "_write", lambda *args: (write(*args), written.append(args[0].stat().st_size)))
    checkpoint = tmp_path / "run.checkpoint"
    descent(checkpoint)
    assert written and min(written) > 0
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """The checkpoints of an interrupted flow and of an interrupted descent."""
    folder = tmp_path_factory.mktemp("checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drive, "_progress_bar", _interrupted_at_once)
        patch.setattr(drive, "_FIRST_BUDGET", 3)
        for name, run in RUNS.items():
            assert run(folder / name, throw=False).status == "interrupted"
    return folder


@contextlib.contextmanager
def _interrupted_at_once(label, progress):
    def show(fraction):
        raise KeyboardInterrupt

    yield show


def observe_by(factor):
    return {"loss": nf.measure.loss, "alignment": lambda net, data: factor * net.weights[0][0, 0]}


OTHER_NET = nf.nets.MLP([4, 6, 1], key=jax.random.key(7), activation="tanh")
OTHERS = {
    "flow, another horizon": ("flow", {"t1": 31.0}),
    "flow, another tolerance": ("flow", {"rtol": 2e-9}),
    "flow, another start": ("flow", {"t0": 1.0}),
    "flow, another network": ("flow", {"net": OTHER_NET}),
    "flow, another activation": ("flow", {"net": nf.nets.MLP([4, 6, 1], key=jax.random.key(1), activation="sigmoid")}),
    "flow, another weight decay": ("flow", {"weight_decay": 2e-3}),
    "flow, another exponent of an observable": ("flow", {"power": 0.25}),
    "flow, another body of an observable": ("flow", {"observe": observe_by(2.0)}),
    "flow, another loss": ("flow", {"loss": lambda prediction, target: (prediction - target)[0] ** 4}),
    "flow, of a part of the network": ("flow", {"trainable": lambda leaf: leaf.ndim == 2 and leaf.shape[0] == 1}),
    "descent, of a part of the network": ("descent", {"trainable": lambda leaf: leaf.ndim == 2 and leaf.shape[0] == 1}),
    "descent, another number of steps": ("descent", {"steps": 3001}),
    "descent, another key": ("descent", {"key": 3}),
    "descent, another batch size": ("descent", {"batch_size": 6}),
    "descent, another learning rate": ("descent", {"optimizer": optax.adam(0.02)}),
    "descent, another momentum": ("descent", {"optimizer": optax.adam(0.01, b1=0.8)}),
    "descent, a schedule that differs at its end": (
        "descent",
        {"optimizer": optax.adam(optax.piecewise_constant_schedule(0.01, {2500: 0.5}))},
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_the_checkpoint_of_another_run_is_refused_and_kept(case, checkpoints):
    kind, change = OTHERS[case]
    content = (checkpoints / kind).read_bytes()
    with pytest.raises(ValueError, match="`checkpoint` must be a file that the very same call left behind"):
        RUNS[kind](checkpoints / kind, **change)
    assert (checkpoints / kind).read_bytes() == content


def test_a_flow_does_not_go_on_from_a_descent(checkpoints):
    with pytest.raises(ValueError, match="`checkpoint` must be .*belongs to another run"):
        flow(checkpoints / "descent")


@pytest.mark.parametrize("content", [b"", b"notes", "arrays"], ids=["empty", "text", "arrays"])
def test_a_file_that_is_no_checkpoint_is_refused_and_kept(content, tmp_path):
    file = tmp_path / "results.npz"
    if content == "arrays":
        np.savez(file, x=np.ones(3))
    else:
        file.write_bytes(content)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="`checkpoint` must be .*results.npz"):
        descent(file)
    assert file.read_bytes() == before


KILLED = """
import jax
jax.config.update("jax_enable_x64", True)
from nfa_flow.run import drive
from test_drive import descent
drive._FIRST_BUDGET, drive._SLICE_SECONDS, drive._CHECKPOINT_SECONDS = 5, 0.0, 0.0
descent({checkpoint!r})
"""


def test_a_killed_process_leaves_a_checkpoint_that_another_process_takes_up(uninterrupted, tmp_path):
    checkpoint, tests = tmp_path / "run.checkpoint", os.pathsep.join(map(str, (HERE, HERE.parent)))
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED.format(checkpoint=str(checkpoint))],
        env=os.environ | {"PYTHONPATH": tests},
        stderr=subprocess.PIPE,
    )
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    assert process.communicate()[1] == b""
    assert process.returncode == -signal.SIGKILL
    with np.load(checkpoint) as stored:
        assert "fingerprint" in stored
    assert_same_bits(descent(checkpoint), uninterrupted["descent"])
    left = os.listdir(tmp_path)
    assert all(name.endswith(".partial") for name in left), left  # the kill may come while the next one is written


def test_numbers_that_only_the_first_state_holds_tell_runs_apart(tmp_path, monkeypatch):
    """A constant step, and a learning rate that the optimizer keeps in its state."""
    import diffrax

    data = nf.data.linear_teacher(10, 2, 1, key=jax.random.key(0))
    net = nf.nets.MLP([2, 1], key=jax.random.key(1))

    def euler(dt0):
        return nf.gradient_flow(
            net, data, 30.0, solver=diffrax.Euler(), dt0=dt0, checkpoint=tmp_path / "flow", progress=False
        )

    def sgd(rate):
        optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=rate)
        options = {"time_per_step": 0.01, "checkpoint": tmp_path / "descent", "progress": False}
        return nf.gradient_descent(net, data, optimizer, 3000, **options)

    def press_ctrl_c(*args):
        raise KeyboardInterrupt

    for run in (euler, sgd):
        with monkeypatch.context() as patch, pytest.raises(nf.RunInterrupted):
            patch.setattr(jax, "block_until_ready", press_ctrl_c)
            run(0.01)
        with pytest.raises(ValueError, match="belongs to another run"):
            run(0.05)
        assert run(0.01).status == "completed"


def test_a_file_of_a_similar_name_is_nobodys_partial_checkpoint(tmp_path):
    (tmp_path / "run.partial").write_text("mine")
    descent(tmp_path / "run", steps=3)
    assert (tmp_path / "run.partial").read_text() == "mine"


@pytest.mark.parametrize("kind", RUNS)
def test_an_interrupt_that_python_had_to_ignore_ends_the_run(kind):
    pressed = []

    class Collected:
        def __del__(self):
            raise KeyboardInterrupt

    def observed(net, data):
        if not pressed:  # once: another one might arrive when the run has ended
            pressed.append(True)
            Collected()  # while the program is traced
        return jnp.zeros(())

    with pytest.raises(KeyboardInterrupt):
        RUNS[kind](observe={"it": observed})
        time.sleep(5)
