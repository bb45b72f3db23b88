"""The choice of the engine of a group, which is kept with all its compiled programs.

The rule of "auto" is: in sequence on a CPU, because every core takes lanes of its own, and lockstep is faster for the
smallest networks only; in lockstep on an accelerator, because most of it is idle while it integrates one small network
(`python benchmarks/sweeps.py` measures both).
"""

import json
import threading
import weakref
from collections.abc import Hashable
from typing import Literal, get_args

import jax

from ..one_run import OneRun
from ..plan import Group
from .compiled import switches_of_thread
from .engine import AbstractEngine
from .lockstep import InLockstep
from .one_by_one import OneByOne
from .sequence import InSequence

Batch = Literal["auto", "sequential", "vmap", "off"]
BATCHES = get_args(Batch)

_ENGINES = {engine.name: engine for engine in (InSequence, InLockstep, OneByOne)}
_MOST_ENGINES = 64

_engines: dict[Hashable, AbstractEngine] = {}  # kept after a sweep, as `jax.jit` keeps its programs
_lock = threading.Lock()


def engine_for(one_run: OneRun, group: Group) -> AbstractEngine:
    """The engine of a group: the same one for every call, as long as the function exists and was used recently.

    It belongs to one function object, because two functions with the same identity may still differ.
    """
    engine, function = _ENGINES[choose(group)], one_run.function
    if not type(function).__weakrefoffset__:  # the engine could not be dropped together with the function
        return engine(group.fixed)
    switches = tuple(switches_of_thread().values())
    name = (id(function), json.dumps(one_run.identity), switches, group.name, engine.name)
    with _lock:
        if name not in _engines:
            weakref.finalize(function, _engines.pop, name, None).atexit = False
        # The engine that was used last is dropped last.
        _engines[name] = _engines.pop(name, None) or engine(group.fixed)
        for oldest in list(_engines)[:-_MOST_ENGINES]:
            _engines.pop(oldest, None)
        return _engines[name]


def choose(group: Group) -> str:
    """The name of the engine of a group."""
    if group.batch != "auto":
        return group.batch
    is_alone = len(group.lanes) == 1 or jax.default_backend() == "cpu"
    return InSequence.name if is_alone else InLockstep.name
