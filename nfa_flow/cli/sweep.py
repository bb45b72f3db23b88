"""`nfa-flow sweep`: train networks over a grid of settings and seeds, by the exact flow or an optimizer."""

import time
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

from ..run.files import require_parents
from ..run.status import finished
from ..training import Optimizer
from .common import (
    KINKS,
    PANELS,
    Init,
    Teacher,
    Training,
    cell,
    check,
    data_or_teacher,
    failures,
    make_method,
    make_net,
    memory_in_bytes,
    observables,
    save_figure,
    start_jax,
    try_out,
)
from .terminal import console, table
from .workers import Sent, stop, workers

_AXES = ("depth", "width", "activation", "init", "scale", "weight_decay")
_AXES_OF_TEACHERS = ("samples", "noise")
_STRUCTURE = ("depth", "width", "activation", "init", "samples")  # decide shapes; the others can share a program
_SEED = "seed"


@dataclass(frozen=True, kw_only=True)
class Sweep(Training):
    """Train networks over every combination of settings, for many seeds each.

    By default: the digits data, balanced linear networks of two, three and four layers with and without weight decay,
    and the Neural Feature Ansatz with the power 1/depth. Every finished run is kept in the store. After an interruption
    the same command continues; values and seeds may be added.
    """

    samples: tuple[int, ...] = (500,)
    noise: tuple[float, ...] = (0.1,)
    depth: tuple[int, ...] = (2, 3, 4)
    width: tuple[int, ...] = (64,)
    activation: tuple[str, ...] = ("identity",)
    init: tuple[Init, ...] = ("balanced",)
    scale: tuple[float, ...] = (0.3,)
    weight_decay: tuple[float, ...] = (0.0, 1e-3)
    method: Literal["flow"] | Optimizer = "flow"
    """the exact flow, or an optimizer"""
    seeds: int = 8
    """number of random seeds (0, 1, …) of weights, minibatches and synthetic data"""
    out: Path = Path("runs/sweep.zarr")
    """Zarr store of the runs; a CSV file and the figure are written next to it"""
    accept: tuple[str, ...] = ()
    """names of settings that may differ between this command and the finished runs in the store"""
    workers: int = 0
    """number of processes; 0: threads of this process, which share compiled programs"""
    batch: Literal["auto", "sequential", "vmap", "off"] = "auto"
    """how to compute runs that differ only in numbers"""

    def run(self) -> None:
        """Run what is missing in the store, and print the results of all runs."""
        start_jax(self.dtype, cache=self.cache)
        check(self)
        import nfa_flow as nf
        from nfa_flow.sweep.store.assemble import MISSING

        say, began = console().print, time.perf_counter()
        data, method = data_or_teacher(self), make_method(self, self.method)
        grid = self._grid(isinstance(data, Teacher))
        self._check_files()
        has_kinks = self._has_kinks(data)
        power = "1/depth" if self.power is None else f"{self.power:.4g}"
        drawn = f"{data.name}, {data.inputs} inputs, drawn for each seed" if isinstance(data, Teacher) else data
        say(f"{drawn}\n{_named(grid)}")
        say(f"{method} for each of {len(grid)} runs, NFM against AGOP to the power {power}, in {self.out}")
        if has_kinks and self.method == "flow":
            say(KINKS)
        one_run = partial(_one_run, data=Sent(data), method=method, loss=self.loss, b=self.b, dtype=self.dtype)
        if self.memory is not None:
            one_run = partial(one_run, memory=memory_in_bytes(self))
        options: dict[str, Any] = {
            "store": self.out,
            "accept": self.accept,
            "batch": self.batch,
            "progress": self.progress,
        }
        with workers(self.workers, self.dtype, self.cache, data) as executor:
            try:
                dataset = nf.sweep(one_run, grid, executor=executor, **options)
            except nf.SweepInterrupted as interrupt:
                stop(executor)
                finished = int((interrupt.dataset["status"] != MISSING).sum())
                say(f"{finished} of {len(grid)} runs are finished and kept in {self.out}.")
                raise
        say("At the end of the runs, medians over the seeds and their 10–90 % ranges:", _table(dataset), sep="\n")
        for reason, count in failures(dataset).items():
            say(f"{count} failed: {reason}")
        figure = _figure_or_reason(dataset, beside(self.out, ".png"))
        seconds = time.perf_counter() - began
        say(f"Wrote {self.out}, {beside(self.out, '.csv')} and {figure} in {seconds:.1f} s.")

    def _grid(self, draws_data: bool) -> Any:
        """An axis for every setting, so that further values of any of them can be added to a store."""
        import nfa_flow as nf
        from nfa_flow.checks import wrong

        for name in _AXES_OF_TEACHERS:
            values = getattr(self, name)
            if len(values) > 1 and not draws_data:
                raise wrong(name, "left out where the data are not synthetic", " ".join(map(str, values)))
        names = _AXES + (_AXES_OF_TEACHERS if draws_data else ())
        axes = {name: getattr(self, name) for name in names}
        axes |= {name: nf.looped(axes[name]) for name in _STRUCTURE if name in axes}
        power = lambda depth: 1 / depth if self.power is None else self.power
        return nf.Grid(**axes, seed=range(self.seeds), power=power)

    def _check_files(self) -> None:
        """Raise ValueError if the figure of a new store would replace another file."""
        from nfa_flow.checks import wrong

        require_parents("out", self.out)
        figure = beside(self.out, ".png")
        if figure.exists() and not self.out.exists():
            raise wrong("out", f"a path whose figure replaces no other file ({figure})", str(self.out))

    def _has_kinks(self, data: Any) -> bool:
        """Whether any of the networks has kinks; raises the errors of the first runs at their start."""
        import equinox as eqx
        import jax

        key = jax.random.key(0)
        first = data(key, self.samples[0], self.noise[0]).astype(self.dtype) if isinstance(data, Teacher) else data
        nets = []
        for depth, width, activation, init in product(self.depth, self.width, self.activation, self.init):
            make = partial(make_net, first, depth=depth, width=width, activation=activation, init=init, b=self.b)
            nets += [eqx.filter_eval_shape(partial(make, scale=scale), key) for scale in self.scale]
        net = make(key, scale=self.scale[0])
        observe = observables(self.power or 1 / self.depth[0], self.loss)
        try_out(net, first, self.loss, observe, memory_in_bytes(self))
        return any(net.has_kinks for net in nets)


def beside(store: Path, suffix: str) -> Path:
    """A file next to a store, named as `nf.sweep` names its table."""
    return store.with_name(store.name.removesuffix(".zarr") + suffix)


def draw(dataset: Any, panels: tuple[str, ...], path: Path, *, over: str = _SEED, hue: str | None = None) -> Path:
    """The figure of a sweep."""
    import nfa_flow as nf

    return save_figure(lambda: nf.plot.sweep_overview(dataset, panels, over=over, hue=hue), path)


def _figure_or_reason(dataset: Any, path: Path) -> str:
    """The path of the figure, or the reason why a sweep with many axes has none."""
    try:
        return str(draw(dataset, PANELS, path))
    except ValueError as error:
        return f"no figure ({str(error).removesuffix('.')}; choose with `nfa-flow plot STORE --select`)"


def _one_run(
    key: Any,
    *,
    data: Any,
    method: Any,
    loss: str,
    b: float,
    dtype: str,
    depth: Any,
    width: Any,
    activation: str,
    init: str,
    scale: Any,
    weight_decay: Any,
    power: Any,
    samples: Any = None,
    noise: Any = None,
    memory: int | None = None,
) -> Any:
    """The same run as that of `nfa-flow flow` with this seed and these settings."""
    import jax

    data_key, net_key, batch_key = jax.random.split(key, 3)
    dataset = data.data
    if isinstance(dataset, Teacher):
        dataset = dataset(data_key, samples, noise).astype(dtype)
    net = make_net(dataset, net_key, depth=depth, width=width, activation=activation, init=init, scale=scale, b=b)
    observe = observables(power, loss)
    options = {"weight_decay": weight_decay, "loss": loss, "observe": observe, "memory": memory}
    options |= {"progress": False, "throw": False}
    return method(net, dataset, batch_key, **options)


def _named(grid: Any) -> str:
    """The settings of a grid: those that vary, and the others."""
    labels = {axis.name: axis.labels for axis in grid.axes if axis.name != _SEED}
    varied = [f"{name} {', '.join(map(_text, values))}" for name, values in labels.items() if len(values) > 1]
    fixed = [f"{name} {_text(values[0])}" for name, values in labels.items() if len(values) == 1]
    seeds = len(grid.dimensions[_SEED])
    return f"{' × '.join([*varied, f'{seeds} seeds'])}; {', '.join(fixed)}"


def _table(dataset: Any) -> Any:
    """Medians and quantiles over the seeds, for each combination of varied settings."""
    import numpy as np

    varied = [name for name in (*_AXES, *_AXES_OF_TEACHERS) if dataset.sizes.get(name, 1) > 1]
    names = ("final loss", "cosine", "relative error", "exponent")
    rows = table((*varied, "runs", *names), left=0)
    for index in np.ndindex(*(dataset.sizes[name] for name in varied)):
        runs = dataset.isel(dict(zip(varied, index, strict=True)))
        ended = finished(runs).values
        count = f"{ended.sum()}" if ended.all() else f"{ended.sum()} of {ended.size}"
        ends = [_median_and_range(name, runs[f"{name}_at_end"].values[ended]) for name in PANELS]
        rows.add_row(*(_text(runs[name].item()) for name in varied), count, *ends)
    return rows


def _median_and_range(name: str, values: Any) -> str:
    import numpy as np

    if not np.isfinite(values).any():
        return cell(name, np.nan)
    low, median, high = (cell(name, quantile) for quantile in np.nanquantile(values, (0.1, 0.5, 0.9)))
    return f"{median} ({low}–{high})"


def _text(label: Any) -> str:
    return f"{label:g}" if isinstance(label, float) else str(label)
