"""A study: the experiments on one paper, run, stored, drawn and judged together."""

import csv
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from ..checks import require_choice, wrong
from ..run.files import write_file
from ..sweep import load_sweep, sweep
from ..sweep.progress import Tally, bar, clock
from .axes import SIZES
from .claims import Claim
from .experiment import Experiment

if TYPE_CHECKING:
    import xarray

_EXPERIMENT = "experiment"  # first column of a table of claims


@dataclass(frozen=True)
class Study:
    """Experiments by name: `study["depth"]`. `print(study)` lists them.

    **Arguments:** `name`: on the command line; `source`: the paper; `experiments`: in the order in which they run.
    """

    name: str
    source: str
    experiments: tuple[Experiment, ...]

    def __getitem__(self, name: str) -> Experiment:
        return self._chosen([name])[0]

    def run(
        self,
        out: str | os.PathLike,
        *,
        size: str = "full",
        only: Sequence[str] | None = None,
        accept: str | Sequence[str] = (),
        progress: bool = True,
    ) -> "dict[str, xarray.Dataset]":
        """Run the experiments, each with its own store. Runs that a store already contains are not repeated.

        **Arguments:** `out`: folder for the stores, `<experiment>.zarr`, and their tables, `<experiment>.csv`; `size`:
        "full", "quick" for few and small runs that show that everything works, or "tiny" for the smallest runs, for
        tests; `only`: names of experiments, all by default; `accept`: as in `nf.sweep`; `progress`: show a bar with the
        time left on stderr.
        **Returns:** name → dataset of the experiment's sweep.
        **Raises:** ValueError for an unknown experiment, and without float64; errors of `nf.sweep`. Finished runs are
        kept; the same call continues after them.
        """
        if jnp.zeros(()).dtype != jnp.float64:
            raise ValueError('`jax_enable_x64` must be set for a study (`jax.config.update("jax_enable_x64", True)`).')
        require_choice("size", size, SIZES)
        chosen, results = self._chosen(only), {}
        with _shown(chosen, size, progress) as show:
            for experiment in chosen:
                store = Path(out) / f"{experiment.name}.zarr"
                grid = experiment.grid(size)
                options = {"store": store, "accept": accept, "progress": show(experiment)}
                results[experiment.name] = sweep(experiment.one_run, grid, **options)
        return results

    def load(self, out: str | os.PathLike, only: Sequence[str] | None = None) -> "dict[str, xarray.Dataset]":
        """The datasets of the experiments in a folder, without running anything.

        **Raises:** ValueError for an unknown experiment; FileNotFoundError if the folder contains none.
        """
        stores = {each.name: Path(out) / f"{each.name}.zarr" for each in self._chosen(only)}
        results = {name: load_sweep(store) for name, store in stores.items() if store.exists()}
        if not results:
            raise FileNotFoundError(f"no experiment of the study {self.name} in {Path(out)}")
        return results

    def draw(self, results: "Mapping[str, xarray.Dataset]", out: str | os.PathLike) -> list[Path]:
        """Write the figure of each experiment as `<experiment>.png` into a folder, and return the paths."""
        import matplotlib.pyplot as plt

        paths = []
        for name, dataset in results.items():
            paths.append(Path(out) / f"{name}.png")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            figure = self[name].figure(dataset)
            write_file(paths[-1], figure.savefig)
            plt.close(figure)  # pyplot would keep it
        return paths

    def claims(self, results: "Mapping[str, xarray.Dataset]") -> list[tuple[str, Claim]]:
        """The claims of the experiments, each with the name of its experiment."""
        return [(name, claim) for name, dataset in results.items() for claim in self[name].judge(dataset)]

    def __str__(self) -> str:
        lines = [f"{each.name:<16} {each.question} ({clock(each.seconds[1])})" for each in self.experiments]
        return "\n".join([f"{self.name}: {self.source}", *lines])

    def _chosen(self, names: Sequence[str] | None) -> list[Experiment]:
        known = {experiment.name: experiment for experiment in self.experiments}
        for name in names or ():
            require_choice("experiment", name, known)
        return [known[name] for name in (known if names is None else names)]


def write_claims(claims: Sequence[tuple[str, Claim]], path: Path) -> Path:
    """Write a table of claims as a CSV file. Rows of other experiments in an older table are kept.

    **Raises:** ValueError if `path` is a file of another kind.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in read_claims(path):
        rows.setdefault(row[_EXPERIMENT], []).append(row)
    new = {name: [claim._asdict() for other, claim in claims if other == name] for name, _ in claims}
    rows = new if rows.keys() <= new.keys() else rows | new  # a table of the whole study is in its order

    def write(file: Path) -> None:
        with file.open("w", newline="", encoding="utf-8") as opened:
            table = csv.DictWriter(opened, (_EXPERIMENT, *Claim._fields), extrasaction="ignore")
            table.writeheader()
            table.writerows({_EXPERIMENT: name} | row for name, each in rows.items() for row in each)

    return write_file(path, write)


def read_claims(path: Path) -> list[dict[str, str]]:
    """The rows of a table of claims; none if there is no file.

    **Raises:** ValueError if `path` is a file of another kind.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if table.fieldnames and table.fieldnames[:2] == [_EXPERIMENT, Claim._fields[0]]:
                return list(table)
    except (OSError, ValueError, csv.Error):
        pass
    raise wrong("out", "a folder whose claims.csv is of a study", f"one with another file {path}")


@contextmanager
def _shown(
    chosen: Sequence[Experiment], size: str, progress: bool
) -> Iterator[Callable[[Experiment], bool | Callable[[Tally], None]]]:
    """One progress bar for the study: yields a function from an experiment to the progress callback of its sweep."""
    if not progress:
        yield lambda experiment: False
        return
    with bar("study") as show:
        left = _TimeLeft({each.name: each.seconds[size == "full"] for each in chosen})

        def show_experiment(experiment: Experiment) -> Callable[[Tally], None]:
            place = chosen.index(experiment) + 1

            def update(tally: Tally) -> None:
                fraction, seconds = left(experiment.name, tally)
                failed = f", {tally.failed} failed" if tally.failed else ""
                runs = f"{tally.done} of {tally.total} runs{failed}"
                show(fraction, f"{experiment.name} ({place} of {len(chosen)}): {runs}, {clock(seconds)} left")

            return update

        yield show_experiment


class _TimeLeft:
    """The progress of a study, from reference durations of its experiments, and the time left on this machine."""

    def __init__(self, seconds: Mapping[str, int]):
        self._seconds = dict(seconds)
        self._fraction_done = dict.fromkeys(seconds, 0.0)
        self._fraction_kept = dict.fromkeys(seconds, 0.0)
        self._began = time.perf_counter()

    def __call__(self, name: str, tally: Tally) -> tuple[float, float]:
        self._fraction_done[name], self._fraction_kept[name] = tally.done / tally.total, tally.kept / tally.total
        done, kept = self._weighted(self._fraction_done), self._weighted(self._fraction_kept)
        total = sum(self._seconds.values())
        # The pace of this machine counts after 2 % of the work: the first runs include compilation.
        gone = time.perf_counter() - self._began
        pace = gone / (done - kept) if done - kept > 0.02 * total else 1.0
        return done / total, pace * (total - done)

    def _weighted(self, fractions: Mapping[str, float]) -> float:
        return sum(self._seconds[name] * fraction for name, fraction in fractions.items())
