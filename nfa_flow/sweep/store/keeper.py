"""Finished runs of a sweep as they come: into the store every now and then, and put together at the end."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import xarray

from ..grid import Grid
from ..result import ERROR, Results
from .about import provenance
from .assemble import assemble_cataloged, summary
from .names import require_own_names
from .store import Store, attributes_of_result

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
        self._grid, self._catalog = grid, grid.catalog
        self._identity, self._about = dict(identity), provenance()
        self._labels = {setting.key: setting.labels for setting in grid}
        self._store = None if path is None else Store(path, self._identity, self._about, accept)
        self.results = {} if self._store is None else self._store.results(self._labels.keys())
        self._unwritten: set[str] = set()
        self._has_begun = False
        self._began = self._written = time.monotonic()

    @property
    def missing(self) -> int:
        """How many runs are not finished."""
        return len(self._labels) - len(self.results)

    def begin(self) -> None:
        """Have a store for the runs to come, which shows what is there; before this, nothing is written."""
        self._has_begun = True
        if self._store is not None:
            self._store.begin(self._catalog)
            if self.missing:
                self._store.show(self._dataset(), self._catalog)

    def add(self, results: Results) -> None:
        """Keep these; runs that raised an error are not stored, to be tried again when the sweep goes on."""
        for _, result in results:
            require_own_names(result.observed, (*result.counts, *result.notes), self._grid.names)
        self.results.update(results)
        self._unwritten |= {key for key, result in results if result.status != ERROR}
        now = time.monotonic()
        if now - self._written > _FLUSH_SECONDS + _FLUSH_SHARE * (now - self._began):
            self.flush()
            self._written = now

    def flush(self) -> None:
        """Write what is not written yet. What Ctrl-C disturbs is tried again; what the disk refuses is told once."""
        try:
            if self._store is not None and self._unwritten:
                self._store.write({key: (self._labels[key], self.results[key]) for key in self._unwritten})
        except OSError:
            self._unwritten = set()
            raise
        self._unwritten = set()

    def conclude(self) -> xarray.Dataset:
        """All results, labeled; also in the store, with a table of the runs beside it."""
        self.flush()
        dataset = self._dataset()
        if self._store is not None and self._has_begun and self.results:
            finished = [key for key in self._labels if key in self.results]
            self._store.show(dataset, self._catalog)
            self._store.summarize(summary((self._labels[key], key, self.results[key]) for key in finished))
        return dataset

    def describe(self) -> str:
        """Where things stand."""
        finished = f"{len(self.results):,} of {len(self._labels):,} runs are finished"
        return f"{finished} and kept in {self._store.path}: the same call goes on" if self._store else finished

    def _dataset(self) -> xarray.Dataset:
        accepted = [] if self._store is None else self._store.accepted
        attributes = attributes_of_result(self._identity, self._about, accepted)
        return assemble_cataloged(self._catalog, self.results, attributes)
