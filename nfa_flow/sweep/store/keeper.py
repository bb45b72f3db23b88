"""Finished runs of a sweep as they come: into the store every now and then, and put together at the end."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import xarray

from ..grid import Grid, Setting
from ..result import ERROR, RunResult
from ..workers.local import Results
from .about import provenance
from .assemble import assemble, summary
from .load import attributes_of, grid_to_json
from .names import require_own_names
from .store import Store

_FLUSH_SECONDS = 1.0
_FLUSH_SHARE = 0.02  # of the time so far: what a kill may lose, so that long sweeps do not make millions of files


class Keeper:
    """Knows which runs of a grid are finished.

    **Arguments:** `grid`; `identity`: what decides the results besides the settings, as JSON; `path`: of the store, or
    None to keep everything in memory; `accept`: as in `Store`.
    **Raises:** as `Store`.
    """

    def __init__(
        self, grid: Grid, identity: Mapping[str, Any], path: str | os.PathLike | None, accept: Sequence[str] = ()
    ):
        self._grid, self._identity, self._about = grid, dict(identity), provenance()
        self._keys = {setting.index: _key(setting) for setting in grid}
        self._store = None if path is None else Store(path, self._identity, self._about, accept)
        known = {} if self._store is None else self._store.results(set(self._keys.values()))
        self.results = {index: known[key] for index, key in self._keys.items() if key in known}
        self._taken = grid.names
        self._unwritten: dict[str, RunResult] = {}
        self._has_begun = False
        self._began = self._written = time.monotonic()

    @property
    def missing(self) -> int:
        """How many runs are not finished."""
        return len(self._keys) - len(self.results)

    def begin(self) -> None:
        """Have a store for the runs to come; before this, nothing is written."""
        self._has_begun = True
        if self._store is not None:
            self._store.begin(grid_to_json(self._grid, list(self._keys.values())))

    def add(self, results: Results) -> None:
        """Keep these; runs that raised an error are not stored, to be tried again when the sweep goes on."""
        for _, result in results:
            require_own_names(result.observed, (*result.counts, *result.notes), self._taken)
        self.results.update(results)
        self._unwritten |= {self._keys[index]: result for index, result in results if result.status != ERROR}
        now = time.monotonic()
        if now - self._written > _FLUSH_SECONDS + _FLUSH_SHARE * (now - self._began):
            self.flush()
            self._written = now

    def flush(self) -> None:
        """Write what is not written yet. What Ctrl-C disturbs is tried again; what the disk refuses is told once."""
        try:
            if self._store is not None and self._unwritten:
                self._store.write(self._unwritten)
        except OSError:
            self._unwritten = {}
            raise
        self._unwritten = {}

    def conclude(self) -> xarray.Dataset:
        """All results, labeled; also in the store, with a table of the runs beside it."""
        self.flush()
        accepted = [] if self._store is None else self._store.accepted
        attributes = attributes_of(self._identity, self._about, accepted)
        dataset = assemble(self._grid.dimensions, self._grid.coordinates, self.results, attributes)
        if self._store is not None and self._has_begun and self.results:
            runs = [setting for setting in self._grid if setting.index in self.results]
            rows = summary((run.labels, self._keys[run.index], self.results[run.index]) for run in runs)
            self._store.conclude(dataset, rows)
        return dataset

    def describe(self) -> str:
        """Where things stand."""
        finished = f"{len(self.results):,} of {len(self._keys):,} runs are finished"
        return f"{finished} and kept in {self._store.path}: the same call goes on" if self._store else finished


def _key(setting: Setting) -> str:
    """Of a run in the store, whose other settings are those of all its runs."""
    return hashlib.sha256(json.dumps(setting.identities, sort_keys=True).encode()).hexdigest()[:32]
