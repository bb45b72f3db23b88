"""Small runs and stores of them, shared by the tests of stores."""

import os

import numpy as np
import xarray

from nfa_flow.sweep.result import RunResult
from nfa_flow.sweep.store.store import Store

SETTINGS = {"version": "0.1", "one_run": {"name": "train", "code": "def train(key): ..."}, "x64": True}


def make_run(seed=0, times=3, width=2):
    rng = np.random.default_rng(seed)
    return RunResult(
        times=np.linspace(0, 1, times),
        steps=np.arange(times, dtype=np.int32),
        observed={"loss": rng.normal(size=times), "agop.eigenvalues": rng.normal(size=(times, width))},
        status="completed",
        reason="The run completed at t = 1.",
        end_time=1.0,
        counts={"steps": times, "rejected": None, "seen": 0.1 + 0.2},
        notes={"solver": "Dopri5"},
        seconds=0.5,
    )


def make_runs(*seeds, **shape):
    return {f"key{seed}": make_run(seed, **shape) for seed in seeds}


GRID = {"dimensions": {"seed": [0, 1]}, "coordinates": {}, "keys": ["key0", "key1"]}


def open_store(path, accept=(), **changed):
    store = Store(path, SETTINGS | changed, {"device": "cpu"}, accept)
    store.begin(GRID)
    store.show(xarray.Dataset({"status": ("seed", ["missing", "missing"])}), GRID)
    return store


def write(store, runs):
    store.write({key: ({"name": key}, run) for key, run in runs.items()})


def conclude(store, dataset, rows=()):
    store.show(dataset, GRID)
    store.summarize(rows)


def parts_of(path):
    return sorted(name for name in os.listdir(path / "runs") if name != "zarr.json")


def leftovers_in(folder):
    return [name for name in os.listdir(folder) if name.endswith(".partial")]
