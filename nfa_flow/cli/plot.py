"""`nfa-flow plot`: figures of stored results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from . import flow, sweep
from .cache import Cache
from .common import PANELS, require_figure, start_jax
from .terminal import console


@dataclass(frozen=True)
class Plot:
    """Draw the figure of stored runs again."""

    store: tyro.conf.Positional[Path]
    """folder written by `nfa-flow flow`, or store of a sweep"""
    observables: tuple[str, ...] = ()
    """scalar observables, one panel each; by default loss, cosine, relative_error and exponent.exponent"""
    over: str = "seed"
    """for a sweep: the axis over which medians and bands are computed"""
    hue: str | None = None
    """for a sweep: the axis that is shown by colors"""
    select: tuple[str, ...] = ()
    """for a sweep: NAME=VALUE, draw only the runs with these values, for any number of axes"""
    out: Path | None = None
    """file of the figure; by default figure.png in the folder, or next to the store of a sweep"""
    cache: Cache = True
    debug: bool = False
    """show the traceback of an error"""

    def run(self) -> None:
        """Draw, and print the path of the figure."""
        start_jax("float64", cache=self.cache)
        if self.out is not None:
            require_figure("out", self.out)
        if not self.store.exists():
            raise FileNotFoundError(f"There is nothing at {self.store}.")
        is_folder = self.store.is_dir() and not (self.store / "zarr.json").exists()
        console().print(f"Wrote {self._draw_runs() if is_folder else self._draw_sweep()}.")

    def _draw_runs(self) -> Path:
        runs = flow.stored_runs(self.store)
        return flow.draw(runs, self.observables or PANELS, self.out or self.store / "figure.png")

    def _draw_sweep(self) -> Path:
        import nfa_flow as nf

        dataset = _selected(nf.load_sweep(self.store), self.select)
        names = self.observables or tuple(name for name in PANELS if name in dataset) or PANELS
        return sweep.draw(dataset, names, self.out or sweep.beside(self.store, ".png"), over=self.over, hue=self.hue)


def _selected(dataset: Any, choices: tuple[str, ...]) -> Any:
    """The runs with one of the values chosen for each axis."""
    chosen: dict[str, list[Any]] = {}
    for choice in choices:
        axis, _, value = choice.partition("=")
        chosen.setdefault(axis, []).append(_label(dataset, axis, value))
    return dataset.sel(chosen)


def _label(dataset: Any, axis: str, value: str) -> Any:
    """The label along an axis that is written in this way."""
    from nfa_flow.checks import wrong

    axes = [name for name in dataset["status"].dims if name in dataset.coords]
    if axis not in axes:
        raise wrong("select", f"NAME=VALUE of an axis, {axes}", f"of {axis!r}")
    labels = dataset[axis].values.tolist()
    for label in labels:
        if value == str(label) or (isinstance(label, int | float) and _number(value) == label):
            return label
    raise wrong("select", f"one of the values along {axis}, {labels}", repr(value))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
