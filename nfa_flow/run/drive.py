"""Drive a compiled run from the host: in slices, with progress, and with a checkpoint that survives a kill.

A run is a state (a PyTree with a `status`) and a compiled function that advances it by a bounded number of steps. The
bound is a traced number, so one compilation serves all slices, and it is adapted to take a fraction of a second each:
often enough for Ctrl-C and the progress bar, too seldom to cost anything.
"""

import hashlib
import math
import os
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from ..checks import is_traced, wrong
from ..data import Dataset
from ..numerics.blas import one_blas_thread
from ..numerics.meshes import blocks_of, divided
from .files import remove_abandoned, require_path, write_file
from .interrupts import never_ignored
from .processes import Processes, on_host
from .status import RUNNING, STOPPED
from .suspend import current_replay, final_state

_State = TypeVar("_State", bound=Any)

_SLICE_SECONDS = 0.3
_CHECKPOINT_SECONDS = 10.0
_FIRST_BUDGET = 64
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
_MUST_BE = "a file that the very same call left behind, or a path that does not exist yet"


def run_to_end(
    advance: Any,
    problem: PyTree,
    state: _State,
    *,
    hidden: PyTree = None,
    in_one_piece: Callable[[], _State],
    checkpoint: str | os.PathLike | None,
    **options: Any,
) -> tuple[_State, bool]:
    """Bring a run to its end: by `drive`, or in one piece inside `jax.jit` and `jax.vmap`, or through a sweep.

    **Arguments:** `hidden`: arrays that the run depends on beside `problem` and `state`; `in_one_piece`: the last state
    of the run, as JAX can differentiate it; the rest as in `drive`.
    **Returns:** the last state, and whether the run was interrupted.
    **Raises:** ValueError if a `checkpoint` is given but cannot be kept.
    """
    replay = current_replay()
    if _in_sweep() and _is_divided(problem):
        # Programs that run side by side on the same devices could wait for each other for ever.
        must_be = "on one device in a sweep, each run of which has a device to itself"
        raise wrong("data", must_be, "divided among several (`data.on`)")
    if replay is None and not is_traced(problem, state, hidden):
        return drive(advance, problem, state, checkpoint=checkpoint, **options)
    if checkpoint is not None:
        raise wrong("checkpoint", "None inside `jax.jit`, `jax.vmap` or a batched sweep", repr(checkpoint))
    if replay is None:
        return in_one_piece(), False
    return final_state(replay, advance, problem, state), False


def drive(
    advance: Any,
    problem: PyTree,
    state: _State,
    *,
    origin: PyTree,
    fraction: Callable[[_State], float],
    label: Callable[[], str],
    progress: bool,
    began: float,
    deadline: float = math.inf,
    checkpoint: str | os.PathLike | None,
    keep_checkpoint: bool = False,
) -> tuple[_State, bool]:
    """Advance `state` until its status is no longer RUNNING, Ctrl-C is pressed, or a deadline has passed.

    **Arguments:** `advance`: `(problem, state, budget) -> state`, at most `budget` steps further, under
    `equinox.filter_jit`; `origin`: the arrays that the run starts from, which together with `problem` determine it;
    `fraction`: the finished part of the run, in [0, 1]; `label`: text of the progress bar; `began`: start of the run by
    `time.perf_counter`, shifted by the time of earlier sessions (`beginning`); `deadline`: the time by the same clock
    after which the run ends, with the status STOPPED, and keeps its checkpoint; `checkpoint`: file that keeps the state
    of the unfinished run, from which the same call continues; `keep_checkpoint`: keep the file after the run has
    finished: the same call then returns the stored result. Delete it with `discard`.
    **Returns:** the last state, and whether the run was interrupted.
    **Raises:** ValueError when `checkpoint` holds another run.
    """
    processes, budget = Processes((problem, state)), _FIRST_BUDGET
    write = lambda state: None
    if checkpoint is not None:
        checkpoint = Path(checkpoint)
        program = _program(advance, problem, state, jnp.asarray(budget, jnp.int32))
        fingerprint = fingerprint_of(program, (problem, origin))
        state = _restored(checkpoint, state, fingerprint, processes)
        write = lambda state: _write(checkpoint, state, fingerprint, began, processes)
    shows = progress and _in_main_thread() and processes.is_leader
    written = time.perf_counter()
    try:
        with (
            never_ignored(),
            _progress_bar(label(), shows) as show,
            one_blas_thread(),
            processes.interrupts() as interrupted,
        ):
            while int(state.status) == RUNNING:
                started = time.perf_counter()
                state = jax.block_until_ready(advance(problem, state, jnp.asarray(budget, jnp.int32)))
                now = time.perf_counter()
                # At most fourfold either way: the first slice includes the compilation.
                budget = int(np.clip(budget * _SLICE_SECONDS / (now - started), max(1, budget // 4), 4 * budget))
                show(fraction(state))
                is_due = now - written > _CHECKPOINT_SECONDS
                told = processes.gather([budget, is_due, now > deadline, interrupted()])
                (budget, is_due, is_over), is_interrupted = told[0, :3].tolist(), told[:, 3].any()
                if is_interrupted:
                    raise KeyboardInterrupt
                if is_over and int(state.status) == RUNNING:
                    write(state)
                    return eqx.tree_at(lambda state: state.status, state, jnp.full_like(state.status, STOPPED)), False
                if is_due:
                    write(state)
                    written = now
    except KeyboardInterrupt:
        write(state)
        return state, True
    if checkpoint is not None and keep_checkpoint:
        write(state)
    elif checkpoint is not None and processes.is_leader:
        discard(checkpoint)
    return state, False


def _program(advance: Any, *inputs: PyTree) -> str:
    """The text of a lowered program; of one on a mesh that for one device, so that its checkpoints fit any mesh."""
    arrays, static = eqx.partition(inputs, eqx.is_array)
    if not any(isinstance(a.sharding, NamedSharding) for a in jax.tree.leaves(arrays)):
        return advance.lower(*inputs).as_text()  # what is traced here is compiled later

    def run(arrays: PyTree) -> PyTree:
        is_data = lambda node: isinstance(node, Dataset)
        inputs = jax.tree.map(_undivided, eqx.combine(arrays, static), is_leaf=is_data)
        return eqx.filter(advance.__wrapped__(*inputs), eqx.is_array)

    shape_of = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type)
    return jax.jit(run).lower(jax.tree.map(shape_of, arrays)).as_text()


def _in_sweep() -> bool:
    """Whether a sweep calls this, as a part of a batch or in a thread with a device."""
    has_device = jax.config.jax_default_device is not None  # pyright: ignore[reportAttributeAccessIssue]
    return current_replay() is not None or (has_device and not _in_main_thread())


def _is_divided(problem: PyTree) -> bool:
    nodes = jax.tree.leaves(problem, is_leaf=lambda node: isinstance(node, Dataset))
    return any(isinstance(node, Dataset) and blocks_of(node.sharding) > 1 for node in nodes)


def _undivided(node: Any) -> Any:
    """Data whose program takes no account of devices; anything else unchanged."""
    if isinstance(node, Dataset):
        node = copy(node)
        object.__setattr__(node, "sharding", None)
    return node


def _in_main_thread() -> bool:
    """Whether this is the main thread: runs in other threads belong to something larger that shows its own progress."""
    return threading.current_thread() is threading.main_thread()


def discard(checkpoint: str | os.PathLike) -> None:
    """Delete a checkpoint, and incomplete files that a kill may have left next to it."""
    Path(checkpoint).unlink(missing_ok=True)
    remove_abandoned(Path(checkpoint))


def fingerprint_of(program: str, inputs: PyTree) -> str:
    """A hash of a lowered program and of every array (shape, dtype, bytes) in its inputs.

    The program contains everything that the functions among the inputs do (optimizer, loss, observables, activations),
    even a learning rate in a closure, and is the same text in another process.
    """
    digest = hashlib.sha256(program.encode())
    for leaf in _host(eqx.filter(inputs, eqx.is_array)):
        digest.update(f"{leaf.dtype}{leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def _host(tree: PyTree) -> list[np.ndarray]:
    """The leaves as numpy arrays; PRNG keys as their data."""
    leaves = (jax.random.key_data(x) if is_key(x) else x for x in jax.tree.leaves(tree))
    return [on_host(leaf) for leaf in leaves]


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of PRNG keys, or its shape."""
    is_array = isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
    return is_array and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def beginning(checkpoint: str | os.PathLike | None) -> float:
    """The start of this run by `time.perf_counter`, as if its earlier sessions had ended just now."""
    now = time.perf_counter()
    if checkpoint is None or not zipfile.is_zipfile(require_path("checkpoint", checkpoint)):
        return now
    try:
        with np.load(checkpoint, allow_pickle=False) as stored:
            return now - float(stored.get("seconds", 0.0))
    except _UNREADABLE:
        return now


def _write(path: Path, state: PyTree, fingerprint: str, began: float, processes: Processes) -> None:
    arrays: dict[str, Any] = {f"leaf{i}": leaf for i, leaf in enumerate(_host(state))}
    arrays |= {"fingerprint": np.array(fingerprint), "seconds": np.array(time.perf_counter() - began)}

    def write(partial: Path) -> None:
        with open(partial, "wb") as file:  # NumPy would add its suffix to a name
            np.savez(file, **arrays)

    if processes.is_leader:
        write_file(path, write)


def _restored(path: Path, state: _State, fingerprint: str, processes: Processes) -> _State:
    """The state in a checkpoint, or this one if there is none; all processes must find the same."""
    refusal = None
    try:
        found = _restore(path, state, fingerprint) if path.exists() else None
    except ValueError as error:
        found, refusal = None, error
    verdicts = processes.gather([found is not None, refusal is not None])
    if refusal is not None:
        raise refusal
    if (verdicts != verdicts[0]).any():
        must_be = "a path at which all processes find the same file, in a file system that they share"
        raise wrong("checkpoint", must_be, f"{path}, which they do not")
    return state if found is None else found


def _restore(path: Path, state: _State, fingerprint: str) -> _State:
    leaves, structure = jax.tree.flatten(state)
    if not zipfile.is_zipfile(path):
        raise wrong("checkpoint", _MUST_BE, f"{path}, which is no checkpoint")
    try:
        with np.load(path, allow_pickle=False) as stored:
            theirs = str(stored.get("fingerprint"))
            arrays = [jnp.asarray(stored[f"leaf{i}"]) for i in range(len(leaves))] if theirs == fingerprint else []
    except _UNREADABLE as error:
        raise wrong("checkpoint", _MUST_BE, f"{path}, which is damaged ({error}): delete it to begin again") from error
    if theirs != fingerprint:
        raise wrong("checkpoint", _MUST_BE, f"{path}, which belongs to another run")
    keyed = [jax.random.wrap_key_data(a) if is_key(old) else a for a, old in zip(arrays, leaves, strict=True)]
    return jax.tree.unflatten(structure, [_beside(old, new) for old, new in zip(leaves, keyed, strict=True)])


def _beside(old: Any, new: Any) -> Any:
    """The new array where the old one is, if that is on several devices."""
    return divided(new, old.sharding) if isinstance(old.sharding, NamedSharding) else new


@contextmanager
def _progress_bar(label: str, progress: bool) -> Iterator[Callable[[float], None]]:
    if not progress:
        yield lambda fraction: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=1.0)
        yield lambda fraction: bar.update(task, completed=fraction)
