"""Finished runs of a sweep as they arrive: written into the store from time to time, and assembled at the end."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import xarray

from ..grid import Grid
from ..result import ERROR, Results
from .about import provenance
from .assemble import assemble_cataloged, catalog_of, summary
from .names import require_own_names
from .store import Store, attributes_of_result

_FLUSH_SECONDS = 5.0
_FLUSH_SHARE = 0.02  # of the time so far: a kill loses no more, and a long sweep does not write millions of files


class Keeper:
    """Keeps the finished runs of a grid.

    **Arguments:** `grid`; `identity`: everything except the settings that decides the results, as JSON; `path`: that of
    the store, or None to keep everything in memory; `accept`: as in `Store`.
    **Raises:** the errors of `Store`.
    """

    def __init__(
        self, grid: Grid, identity: Mapping[str, Any], path: str | os.PathLike | None, accept: Sequence[str] = ()
    ):
        self._grid, self._catalog = grid, catalog_of(grid)
        self._identity, self._about = dict(identity), provenance()
        self._labels = {setting.key: setting.labels for setting in grid}
        self._store = None if path is None else Store(path, self._identity, self._about, accept)
        self.results = {} if self._store is None else self._store.results(self._labels.keys())
        self._unwritten: set[str] = set()
        self._has_begun = False
        self._began = self._written = time.monotonic()

    @property
    def missing(self) -> int:
        """The number of runs that are not finished."""
        return len(self._labels) - len(self.results)

    def begin(self) -> None:
        """Create the store, and let it show the finished runs. Nothing is written before."""
        self._has_begun = True
        if self._store is not None:
            self._store.begin(self._catalog)
            if self.missing:
                self._store.show(self._dataset(), self._catalog)

    def add(self, results: Results) -> None:
        """Keep results. Runs that raised an error are not stored, so the next call tries them again."""
        for _, result in results:
            require_own_names(result.observed, (*result.counts, *result.notes), self._grid.names)
        self.results.update(results)
        self._unwritten |= {key for key, result in results if result.status != ERROR}
        now = time.monotonic()
        if now - self._written > _FLUSH_SECONDS + _FLUSH_SHARE * (now - self._began):
            self.flush()
            self._written = now

    def flush(self) -> None:
        """Write the runs that are not written yet. After Ctrl-C it is tried again, after an error of the disk not."""
        try:
            if self._store is not None and self._unwritten:
                self._store.write({key: (self._labels[key], self.results[key]) for key in self._unwritten})
        except OSError:
            self._unwritten = set()
            raise
        self._unwritten = set()

    def conclude(self) -> xarray.Dataset:
        """The dataset of all runs, which is also written into the store, with a table of the runs beside it."""
        self.flush()
        dataset = self._dataset()
        if self._store is not None and self._has_begun and self.results:
            finished = [key for key in self._labels if key in self.results]
            self._store.show(dataset, self._catalog)
            self._store.summarize(summary((self._labels[key], key, self.results[key]) for key in finished))
        return dataset

    def describe(self) -> str:
        """How many runs are finished, and where they are kept."""
        finished = f"{len(self.results):,} of {len(self._labels):,} runs are finished"
        return f"{finished} and kept in {self._store.path}: the same call goes on" if self._store else finished

    def _dataset(self) -> xarray.Dataset:
        accepted = [] if self._store is None else self._store.accepted
        attributes = attributes_of_result(self._identity, self._about, accepted)
        return assemble_cataloged(self._catalog, self.results, attributes)
