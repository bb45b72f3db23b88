"""`nfa-flow flow`: the exact flow of one network, compared with optimizers of the same network."""

import dataclasses
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..run.files import standing
from ..training import OPTIMIZERS, Optimizer
from . import folder
from .common import (
    FLOW_OF,
    PANELS,
    Init,
    Teacher,
    Training,
    cell,
    check,
    data_or_teacher,
    make_method,
    make_net,
    memory_in_bytes,
    observables,
    save_figure,
    start_jax,
    try_out,
)
from .terminal import console, table

FLOW = "exact flow"
_OWN = {  # settings that affect only this run
    FLOW: ("t1", "rtol"),
    "gd": ("steps", "gd_rate"),
    "momentum": ("steps", "momentum_rate", "batch_size"),
    "adam": ("steps", "adam_rate"),
    "adamw": ("steps", "adam_rate", "adamw_decay"),
}
_FLOWS = {f"{FLOW_OF}{name}": name for name in OPTIMIZERS}
_OWN |= {run: (*(setting for setting in _OWN[name] if setting != "batch_size"), "rtol") for run, name in _FLOWS.items()}
_LABELS = OPTIMIZERS | {run: f"{FLOW_OF}{OPTIMIZERS[name]}" for run, name in _FLOWS.items()}
_DECIDES_NOTHING = {"optimizers", "flows", "memory", "out", "accept", "overwrite", "progress", "cache", "debug"}


@dataclass(frozen=True, kw_only=True)
class Flow(Training):
    """Compute the exact gradient flow of a network, and train the same network with optimizers.

    By default: the digits data, a balanced linear network of three layers, and the Neural Feature Ansatz with the power
    1/3. Finished runs are stored; after an interruption the same command continues.
    """

    samples: int = 500
    noise: float = 0.1
    depth: int = 3
    width: int = 64
    activation: str = "identity"
    init: Init = "balanced"
    scale: float = 0.3
    weight_decay: float = 0.0
    optimizers: tuple[Optimizer, ...] = ("gd", "momentum", "adam", "adamw")
    """optimizers to compare with"""
    flows: bool = False
    """also compute the flow that each of these optimizers follows, on the full batch and to the same end"""
    seed: int = 0
    """random seed of data, weights and minibatches"""
    out: Path = Path("runs/flow")
    """folder for the stores and the figure"""
    accept: tuple[str, ...] = ()
    """names of settings that may differ between this command and the finished runs in the folder"""
    overwrite: bool = False
    """replace runs with other settings in that folder"""

    def run(self) -> None:
        """Train, and print the results."""
        start_jax(self.dtype, cache=self.cache)
        import jax

        say = console().print
        check(self)
        data_key, net_key, batch_key = jax.random.split(jax.random.key(self.seed), 3)
        data = data_or_teacher(self)
        if isinstance(data, Teacher):
            data = data(data_key, self.samples, self.noise).astype(self.dtype)
        net, power = self._net(data, net_key), 1 / self.depth if self.power is None else self.power
        observe = observables(power, self.loss)
        try_out(net, data, self.loss, observe, memory_in_bytes(self))
        methods = {FLOW: "flow"} | {name: name for name in self.optimizers}
        methods |= {run: run for run, name in _FLOWS.items() if self.flows and name in self.optimizers}
        folder.claim(
            self.out, self._settings(data), wanted=tuple(methods), accept=self.accept, overwrite=self.overwrite
        )
        say(f"{data}\n{net}\nto t = {self.t1:g}, NFM against AGOP to the power {power:.4g}, in {self.out}")
        common: dict[str, Any] = {
            "weight_decay": self.weight_decay,
            "loss": self.loss,
            "observe": observe,
            "memory": memory_in_bytes(self),
            "progress": self.progress,
            "throw": False,
        }
        jobs = {name: partial(make_method(self, method), net, data, batch_key) for name, method in methods.items()}
        stores = {name: folder.store_of(self.out, name) for name in methods}
        runs = {name: _run_or_load(name, partial(job, **common), self.out, say) for name, job in jobs.items()}
        stats = runs[FLOW].stats
        say(f"{FLOW} by {stats['solver']} ({stats['reason']})")
        say(_table(runs))
        figure = draw(runs, PANELS, self.out / folder.FIGURE)
        start = float(runs[FLOW].observed["cosine"][0])
        say(f"At t = 0 the cosine is {start:.6f}: the baseline of this network.")
        say(f"Wrote {', '.join(map(str, stores.values()))} and {figure}.")

    def _settings(self, data: Any) -> dict[str, dict[str, Any]]:
        """Name of a run → the settings on which it depends."""
        from nfa_flow.run.drive import fingerprint_of
        from nfa_flow.sweep.identity.libraries import environment
        from nfa_flow.sweep.identity.values import digest

        own = {name for names in _OWN.values() for name in names}
        everything = dataclasses.asdict(self)
        shared = {name: value for name, value in everything.items() if name not in own | _DECIDES_NOTHING}
        shared |= {"contents": fingerprint_of("", data)[:12]}
        shared |= {name: digest(json.dumps(value)) for name, value in environment().items()}
        return {run: shared | {name: everything[name] for name in names} for run, names in _OWN.items()}

    def _net(self, data: Any, key: Any) -> Any:
        names = ("depth", "width", "activation", "init", "scale", "b")
        return make_net(data, key, **{name: getattr(self, name) for name in names})


def stored_runs(path: Path) -> dict[str, Any]:
    """The runs in a folder written by this command, the exact flow first."""
    import nfa_flow as nf
    from nfa_flow.run.storage import is_trajectory

    stores = {name: folder.store_of(path, name) for name in _OWN}
    others = [each for each in sorted(path.glob("*.zarr")) if each not in stores.values() and is_trajectory(each)]
    stores |= {each.stem.replace("_", " "): each for each in others}
    runs = {name: nf.Trajectory.load(store) for name, store in stores.items() if standing(store) is not None}
    if not runs:
        raise FileNotFoundError(f"There are no runs (*.zarr) in {path}. To plot a sweep, name its own store.")
    return runs


def draw(runs: dict[str, Any], panels: tuple[str, ...], path: Path) -> Path:
    """The figure of these runs."""
    import nfa_flow as nf

    labeled = {_LABELS.get(name, name): run for name, run in runs.items()}
    return save_figure(lambda: nf.plot.overview(labeled, panels), path)


def _run_or_load(name: str, job: Any, out: Path, say: Any) -> Any:
    import nfa_flow as nf

    store = folder.store_of(out, name)
    if standing(store) is not None:
        say(f"{name}: already in {store}")
        return nf.Trajectory.load(store)
    run = job(checkpoint=folder.checkpoint_of(out, name))
    if run.status == "interrupted":
        raise nf.RunInterrupted(run)
    run.save(store)
    say(f"{name}: {run.what_happened} {run.stats['seconds']:.1f} s")
    return run


def _table(runs: dict[str, Any]) -> Any:
    from nfa_flow.run.trees import flatten

    names = ("final loss", "cosine", "relative error", "exponent", "gradients + products", "seconds")
    rows = table(("run", *names), left=1)
    for name, run in runs.items():
        observed, label = flatten(run.observed), _LABELS.get(name, name)
        cells = [cell(panel, observed[panel][-1]) for panel in PANELS]
        cells += [_work(run.stats), f"{run.stats['seconds']:.1f}"]
        rows.add_row(label if run.succeeded else f"{label} ({run.status})", *cells)
    return rows


def _work(stats: dict[str, Any]) -> str:
    gradients, products = stats["gradient_evaluations"], stats.get("hessian_vector_products", 0)
    return "unknown" if gradients is None else f"{gradients:,} + {products:,}" if products else f"{gradients:,}"
