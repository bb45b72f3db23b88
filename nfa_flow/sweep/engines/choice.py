"""Which engine integrates a group of lanes: in sequence, in lockstep, or by plain calls.

The rule of "auto": in sequence on a CPU, where every core takes lanes of its own and lockstep pays for the smallest
networks alone; in lockstep on an accelerator, which is idle in most of its parts while it integrates one small network
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

_engines: dict[Hashable, AbstractEngine] = {}  # compiled programs outlive a sweep, as those of `jax.jit` do
_lock = threading.Lock()


def engine_for(one_run: OneRun, group: Group) -> AbstractEngine:
    """The engine of a group; as before, with all it has compiled, while the function lives and others are not too many.

    It belongs to this very function, because a description may miss a difference from another one.
    """
    engine, function = _ENGINES[choose(group)], one_run.function
    if not type(function).__weakrefoffset__:  # nobody would notice its end
        return engine(group.fixed)
    switches = tuple(switches_of_thread().values())
    name = (id(function), json.dumps(one_run.identity), switches, group.name, engine.name)
    with _lock:
        if name not in _engines:
            weakref.finalize(function, _engines.pop, name, None).atexit = False
        # The last one used is the last to be forgotten.
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
