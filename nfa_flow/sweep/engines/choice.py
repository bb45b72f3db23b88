"""Which engine serves a group of lanes: in sequence, in lockstep, or by plain calls.

On CPU, lockstep pays only for the smallest networks, where the fixed cost of an operation exceeds its arithmetic; on
accelerators it nearly always does. So it is measured: the gradient of the run, row after row against all rows at once.
"""

import threading
import time
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ..identity.values import digest
from ..plan import Group
from .engine import AbstractEngine
from .lockstep import InLockstep
from .one_by_one import OneByOne
from .rows import in_sequence
from .sequence import InSequence
from .stages import Stage

Batch = Literal["auto", "sequential", "vmap", "off"]
BATCHES = get_args(Batch)

_ENGINES = {engine.name: engine for engine in (InSequence, InLockstep, OneByOne)}
_MOST_ENGINES = 64
_MOST_BYTES = 2**30  # that kept engines hold on devices
_ROWS = 16
_REPETITIONS = 20
# On a CPU, lockstep saves a fraction of a millisecond per run of a network of some dozen parameters and nothing on
# larger ones, while its programs take seconds more to compile (`python benchmarks/sweeps.py`).
_CPU_OPERATIONS = 1e5
_CPU_LANES = 10_000
# Gradients in lockstep have to be this much faster: lanes also wait for each other, in every Newton iteration.
_WORTH_WAITING = 2.0


def engine_for(one_run: Callable, fingerprint: Hashable, group: Group) -> AbstractEngine:
    """The engine that the group asks for, or the faster one; as before, with all it has compiled, if it is known.

    It is known as long as the function lives, and there are not too many others. The caller holds the function.

    **Arguments:** `fingerprint`: of what `one_run` computes.
    """
    name = (fingerprint, group.name, choose_batch(one_run, group) if group.batch == "auto" else group.batch)
    if not type(one_run).__weakrefoffset__:  # nobody would notice its end
        return _ENGINES[name[-1]](one_run, group.fixed)
    with _lock:
        engine = _engines.pop(name, None)
        if engine is None or engine.one_run is not one_run:
            engine = _ENGINES[name[-1]](one_run, group.fixed)
            weakref.finalize(one_run, _engines.pop, name, None).atexit = False
        _engines[name] = engine  # the last one used is the last to be forgotten
        for oldest in list(_engines)[:-1]:
            if len(_engines) <= _MOST_ENGINES and _bytes_held() <= _MOST_BYTES:
                break
            _engines.pop(oldest, None)
        return engine


def _bytes_held() -> int:
    arrays = (array for engine in list(_engines.values()) for array in engine.arrays())
    return sum({id(array): array.nbytes for array in arrays}.values())


_engines: dict[Hashable, AbstractEngine] = {}  # compiled programs outlive a sweep, as those of `jax.jit` do
_lock = threading.Lock()
_measured: dict[tuple[str, str], str] = {}  # (device, program) → what was faster, for this process


def choose_batch(one_run: Callable, group: Group) -> str:
    """ "vmap" or "sequential", whichever is faster for this group on the devices that there are."""
    is_cpu, lanes, row = jax.default_backend() == "cpu", len(group.lanes), group.lanes[0].row
    if lanes == 1 or (is_cpu and lanes < _CPU_LANES):
        return InSequence.name
    stage = Stage(one_run, group.fixed, row, ())
    if stage.is_last:
        return InSequence.name
    shared = stage.shared(row, ())
    own, state = jax.jit(stage.prepare)(shared, row, ())
    gradient = jax.jit(stage.gradient)
    if is_cpu and _operations(gradient.lower(shared, own, state)) > _CPU_OPERATIONS:
        return InSequence.name
    case = jax.devices()[0].device_kind, digest(gradient.lower(shared, own, state).as_text())
    if case not in _measured:
        in_turn, together = _seconds(stage, shared, own, state)
        _measured[case] = InLockstep.name if in_turn > _WORTH_WAITING * together else InSequence.name
    return _measured[case]


def _operations(lowered: Any) -> float:
    return float((lowered.cost_analysis() or {}).get("flops", 0))


def _seconds(stage: Stage, shared: PyTree, own: PyTree, state: PyTree) -> tuple[float, float]:
    """Time for some gradients of a batch of rows: one row after another, and in lockstep."""
    rows = jax.tree.map(lambda a: jnp.broadcast_to(a, (_ROWS, *jnp.shape(a))), (own, state))

    def steps(row: PyTree) -> PyTree:
        own, state = row

        def one(_: Any, parameters: PyTree) -> PyTree:
            moved = eqx.tree_at(lambda s: s.parameters, state, parameters)
            return jax.tree.map(lambda p, g: p - 1e-3 * g, parameters, stage.gradient(shared, own, moved))

        return jax.lax.fori_loop(0, _REPETITIONS, one, state.parameters)

    return _best(lambda rows: in_sequence(steps, rows, jnp.asarray(_ROWS)), rows), _best(jax.vmap(steps), rows)


def _best(function: Callable, rows: PyTree) -> float:
    """The fastest of three calls."""
    compiled, seconds = jax.jit(function).lower(rows).compile(), []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(compiled(rows))
        seconds.append(time.perf_counter() - began)
    return min(seconds)
