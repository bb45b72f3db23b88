"""`nfa-flow flow`: the exact flow of one network beside optimisers of the same network."""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..studies.training import OPTIMIZERS, Optimizer
from .common import (
    PANELS,
    Init,
    Teacher,
    Training,
    cell,
    console,
    data_or_teacher,
    make_method,
    make_net,
    observables,
    save_figure,
    set_precision,
    table,
)

FLOW = "exact flow"


@dataclass(frozen=True, kw_only=True)
class Flow(Training):
    """Follow the exact gradient flow of a network beside optimisers of the same network.

    Without options: the digits data, a balanced linear network of three layers, and the Neural Feature Ansatz at
    exponent 1/3. A finished run is stored; the same command goes on where an interrupted one stopped.
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
    """optimisers to compare with"""
    seed: int = 0
    """of data, weights and minibatches"""
    out: Path = Path("runs/flow")
    """folder for the stores and the figure"""
    overwrite: bool = False
    """replace what other settings left in that folder"""

    def run(self) -> None:
        """Train, and say what came of it."""
        set_precision(self.dtype)
        import jax

        say = console().print
        data_key, net_key, batch_key = jax.random.split(jax.random.key(self.seed), 3)
        data = data_or_teacher(self)
        if isinstance(data, Teacher):
            data = data(data_key, self.samples, self.noise).astype(self.dtype)
        _claim_folder(self, data)
        net = self._net(data, net_key)
        power = 1 / self.depth if self.power is None else self.power
        common: dict[str, Any] = {
            "weight_decay": self.weight_decay,
            "loss": self.loss,
            "observe": observables(power, self.loss),
            "progress": self.progress,
            "throw": False,
        }
        say(f"{data}\n{net}\nto t = {self.t1:g}, NFM against AGOP to the power {power:.4g}, in {self.out}")
        methods = {FLOW: "flow"} | {name: name for name in self.optimizers}
        jobs = {name: partial(make_method(self, method), net, data, batch_key) for name, method in methods.items()}
        runs = {name: _run_or_load(partial(job, **common), _store(self.out, name), say) for name, job in jobs.items()}
        stats = runs[FLOW].stats
        say(f"{FLOW} by {stats['solver']} ({stats['reason']})")
        say(_table(runs))
        figure = draw(runs, PANELS, self.out / "figure.png")
        start = float(runs[FLOW].observed["cosine"][0])
        say(f"At t = 0 the cosine is {start:.6f}: the baseline of this network.")
        say(f"Wrote {', '.join(str(_store(self.out, name)) for name in runs)} and {figure}.")

    def _net(self, data: Any, key: Any) -> Any:
        names = ("depth", "width", "activation", "init", "scale", "b")
        return make_net(data, key, **{name: getattr(self, name) for name in names})


def stored_runs(folder: Path) -> dict[str, Any]:
    """The runs in a folder that this command wrote, the exact flow first."""
    import nfa_flow as nf

    is_sweep = lambda path: (path / "runs").is_dir()
    stores = sorted(folder.glob("*.zarr"), key=lambda path: path.stat().st_mtime)
    stores = [path for path in stores if not is_sweep(path)]
    if not stores:
        raise FileNotFoundError(f"There are no runs (*.zarr) in {folder}. To plot a sweep, name its own store.")
    names = {path.stem.replace("_", " "): path for path in stores}
    return {name: nf.Trajectory.load(names[name]) for name in sorted(names, key=lambda name: name != FLOW)}


def draw(runs: dict[str, Any], panels: tuple[str, ...], path: Path) -> Path:
    """The figure of such runs."""
    import nfa_flow as nf

    labelled = {OPTIMIZERS.get(name, name): run for name, run in runs.items()}
    return save_figure(lambda: nf.plot.overview(labelled, panels), path)


def _claim_folder(settings: Flow, data: Any) -> None:
    """Make the folder ours; runs of other settings in it are replaced if so wished, and a reason to refuse if not."""
    from nfa_flow.drive import fingerprint_of

    unrelated = {"optimizers", "out", "overwrite", "progress", "debug"}
    ours = {name: value for name, value in dataclasses.asdict(settings).items() if name not in unrelated}
    ours = json.loads(json.dumps(ours)) | {"contents": fingerprint_of("", data)[:12]}
    file = settings.out / "settings.json"
    held = [path for path in settings.out.glob("*") if path.suffix in (".zarr", ".checkpoint")]
    if held and not file.exists():
        raise ValueError(f"{settings.out} holds runs of unknown settings (no settings.json). Choose another --out.")
    theirs = json.loads(file.read_text()) if held else ours
    changed = [f"{name} {theirs.get(name)} → {value}" for name, value in ours.items() if theirs.get(name) != value]
    if changed and not settings.overwrite:
        raise ValueError(
            f"{settings.out} holds runs of other settings ({', '.join(changed)}). "
            "Choose another --out, or pass --overwrite to replace them."
        )
    for path in held if changed else []:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    settings.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(ours, indent=1))


def _store(folder: Path, name: str) -> Path:
    return folder / f"{name.replace(' ', '_')}.zarr"


def _run_or_load(job: Any, store: Path, say: Any) -> Any:
    import nfa_flow as nf

    name = store.stem.replace("_", " ")
    if store.exists():
        say(f"{name}: already in {store}")
        return nf.Trajectory.load(store)
    run = job(checkpoint=store.with_suffix(".checkpoint"))
    if run.status == "interrupted":
        raise nf.RunInterrupted(run)
    run.save(store)
    say(f"{name}: {run.what_happened} {run.stats['seconds']:.1f} s")
    return run


def _table(runs: dict[str, Any]) -> Any:
    from nfa_flow.trajectory import flatten

    names = ("final loss", "cosine", "relative error", "exponent", "gradients + products", "seconds")
    rows = table(("run", *names), left=1)
    for name, run in runs.items():
        observed, label = flatten(run.observed), OPTIMIZERS.get(name, name)
        cells = [cell(panel, observed[panel][-1]) for panel in PANELS]
        cells += [_work(run.stats), f"{run.stats['seconds']:.1f}"]
        rows.add_row(label if run.succeeded else f"{label} ({run.status})", *cells)
    return rows


def _work(stats: dict[str, Any]) -> str:
    gradients, products = stats["gradient_evaluations"], stats.get("hessian_vector_products", 0)
    return "unknown" if gradients is None else f"{gradients:,} + {products:,}" if products else f"{gradients:,}"
