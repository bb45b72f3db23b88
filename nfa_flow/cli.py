"""The command line, `nfa-flow`: exact flow and optimisers side by side, and figures of what was stored."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

_FLOW = "exact flow"
_LABELS = {"gd": "GD", "momentum": "SGD momentum", "adam": "Adam", "adamw": "AdamW"}
_PANELS = ("loss", "cosine", "relative_error", "exponent.exponent")


@dataclass(frozen=True)
class Flow:
    """Follow the exact gradient flow of a network beside optimisers of the same network.

    Without options: the digits data, a balanced linear network of three layers, and the Neural Feature Ansatz at
    exponent 1/3. A finished run is stored; the same command goes on where an interrupted one stopped.
    """

    data: str = "digits"
    """digits, diabetes, linear_teacher, multi_index, single_index, openml:NAME, cifar10:PATH, or an .npz of x and y"""
    samples: int = 500
    """number of samples of the synthetic data"""
    inputs: int = 20
    """number of inputs of the synthetic data"""
    noise: float = 0.1
    """standard deviation of the label noise of the synthetic data"""
    depth: int = 3
    """number of layers L"""
    width: int = 64
    """width of the hidden layers"""
    activation: str = "identity"
    """of the hidden layers: identity, relu, tanh, gelu, …"""
    init: Literal["balanced", "gaussian", "orthogonal", "lambda_balanced"] = "balanced"
    """how the weights start"""
    scale: float = 0.3
    """scale of the initialisation"""
    b: float = -0.5
    """the b of W_2ᵀW_2 − W_1W_1ᵀ = bI for lambda_balanced"""
    loss: Literal["mse", "cross_entropy"] = "mse"
    """loss of one sample"""
    weight_decay: float = 0.0
    """λ of the term (λ/2)‖θ‖², for the flow and every optimiser"""
    t1: float = 100.0
    """horizon in gradient-flow time"""
    rtol: float | None = None
    """relative tolerance of the flow (absolute: a thousandth of it); 1e-8, in float32 1e-5, with kinks (relu) 1e-3"""
    power: float | None = None
    """exponent of the ansatz; 1/depth by default"""
    optimizers: tuple[Literal["gd", "momentum", "adam", "adamw"], ...] = ("gd", "momentum", "adam", "adamw")
    """optimisers to compare with"""
    steps: int = 2000
    """steps of every optimiser"""
    batch_size: int = 128
    """minibatch of SGD with momentum; the others take the full batch"""
    gd_rate: float = 0.05
    """learning rate of gradient descent"""
    momentum_rate: float = 0.005
    """learning rate of SGD with momentum .9, whose time advances ten times faster"""
    adam_rate: float = 0.001
    """learning rate of Adam and AdamW"""
    adamw_decay: float = 0.1
    """decoupled weight decay of AdamW"""
    seed: int = 0
    """of data, weights and minibatches"""
    dtype: Literal["float64", "float32"] = "float64"
    """floating-point type"""
    out: Path = Path("runs/flow")
    """folder for the stores and the figure"""
    overwrite: bool = False
    """replace what other settings left in that folder"""
    progress: bool = True
    """show progress bars"""
    debug: bool = False
    """show the traceback of an error"""


@dataclass(frozen=True)
class Plot:
    """Draw the figure of stored runs again."""

    store: tyro.conf.Positional[Path]
    """folder that `nfa-flow flow` wrote"""
    observables: tuple[str, ...] = _PANELS
    """scalar observables, one panel each"""
    out: Path | None = None
    """PNG to write; figure.png in the folder by default"""
    debug: bool = False
    """show the traceback of an error"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 an error, 130 interrupted."""
    commands = Annotated[Flow, tyro.conf.subcommand("flow")] | Annotated[Plot, tyro.conf.subcommand("plot")]
    command = tyro.cli(commands, prog="nfa-flow", args=arguments, description=__doc__)  # pyright: ignore[reportCallIssue, reportArgumentType]
    try:
        flow(command) if isinstance(command, Flow) else plot(command)
    except KeyboardInterrupt:
        _complain("Interrupted. The same command goes on from here.")
        sys.exit(130)
    except Exception as error:
        if command.debug:
            raise
        _complain(f"{type(error).__name__}: {error}")
        sys.exit(2)


def flow(settings: Flow) -> None:
    """`nfa-flow flow`."""
    import jax
    from rich.console import Console

    jax.config.update("jax_enable_x64", settings.dtype == "float64")
    import nfa_flow as nf

    console = Console(soft_wrap=True, highlight=False)  # paths stay in one piece
    data_key, net_key, batch_key = jax.random.split(jax.random.key(settings.seed), 3)
    data = _data(settings, data_key).astype(settings.dtype)
    _claim_folder(settings, data)
    net = _net(settings, data, net_key)
    power = 1 / settings.depth if settings.power is None else settings.power
    observe = {
        "loss": _loss_observable(settings.loss),
        "cosine": nf.measure.alignment(power),
        "relative_error": nf.measure.alignment(power, metric="relative_error"),
        "exponent": nf.measure.fit_exponent,
    }
    common: dict[str, Any] = {
        "weight_decay": settings.weight_decay,
        "loss": settings.loss,
        "observe": observe,
        "progress": settings.progress,
        "throw": False,
    }
    console.print(
        f"{data}\n{net}\nto t = {settings.t1:g}, NFM against AGOP to the power {power:.4g}, in {settings.out}"
    )

    def exact(checkpoint: Path) -> nf.Trajectory:
        usual = 1e-3 if net.has_kinks else 1e-8 if settings.dtype == "float64" else 1e-5
        rtol = usual if settings.rtol is None else settings.rtol
        return nf.gradient_flow(net, data, settings.t1, rtol=rtol, checkpoint=checkpoint, **common)

    def optimised(name: str) -> Callable[[Path], nf.Trajectory]:
        optimizer, rate, batch_size = _optimizer(settings, name, data.samples)
        batch = {"batch_size": batch_size, "key": batch_key, "learning_rate": rate}
        return lambda checkpoint: nf.gradient_descent(
            net, data, optimizer, settings.steps, checkpoint=checkpoint, **batch, **common
        )

    jobs = {_FLOW: exact} | {name: optimised(name) for name in settings.optimizers}
    runs = {name: _run_or_load(name, job, settings, console) for name, job in jobs.items()}
    figure = _draw(runs, _PANELS, settings.out / "figure.png")
    console.print(_table(runs))
    console.print(
        f"At t = 0 the cosine is {float(runs[_FLOW].observed['cosine'][0]):.6f}: the baseline of this network."
    )
    console.print(f"Wrote {', '.join(str(_store(settings.out, name)) for name in runs)} and {figure}.")


def plot(settings: Plot) -> None:
    """`nfa-flow plot`."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import nfa_flow as nf

    stores = sorted(settings.store.glob("*.zarr"), key=lambda path: path.stat().st_mtime)
    if not stores:
        raise FileNotFoundError(f"There are no runs (*.zarr) in {settings.store}.")
    names = {path.stem.replace("_", " "): path for path in stores}
    ordered = sorted(names, key=lambda name: name != _FLOW)
    runs = {name: nf.Trajectory.load(names[name]) for name in ordered}
    print(f"Wrote {_draw(runs, settings.observables, settings.out or settings.store / 'figure.png')}.")


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


def _data(settings: Flow, key: Any):
    import nfa_flow as nf

    name, _, rest = settings.data.partition(":")
    teachers: dict[str, Callable[..., nf.Dataset]] = {
        "linear_teacher": nf.data.linear_teacher,
        "multi_index": lambda *args, **kw: nf.data.multi_index(*args, rank=2, **kw),
        "single_index": nf.data.single_index,
    }
    if name in teachers:
        return teachers[name](key, settings.samples, settings.inputs, noise=settings.noise)
    if name in ("digits", "diabetes"):
        return getattr(nf.data, name)()
    if name == "openml":
        return nf.data.standardise(nf.data.openml(rest))
    if name == "cifar10":
        return nf.data.cifar10(rest)
    if name.endswith(".npz"):
        return nf.data.load_npz(settings.data)
    known = (
        "digits, diabetes, linear_teacher, multi_index, single_index, openml:NAME, cifar10:PATH or a path to an .npz"
    )
    raise ValueError(f"`data` must be {known}, but was {settings.data!r}.")


def _net(settings: Flow, data: Any, key: Any):
    import nfa_flow as nf
    from nfa_flow.checks import require_integer

    require_integer("depth", settings.depth, at_least=1)
    require_integer("width", settings.width, at_least=1)
    initialisations: dict[str, Callable[[], Any]] = {
        "balanced": lambda: nf.nets.Balanced(settings.scale),
        "gaussian": lambda: nf.nets.Gaussian(settings.scale),
        "orthogonal": lambda: nf.nets.Orthogonal(settings.scale),
        "lambda_balanced": lambda: nf.nets.LambdaBalanced(settings.b, settings.scale),
    }
    widths = [data.inputs, *[settings.width] * (settings.depth - 1), data.outputs]
    init = initialisations[settings.init]()
    return nf.nets.MLP(widths, key=key, activation=settings.activation, init=init, dtype=settings.dtype)


def _loss_observable(loss: str) -> Callable:
    import equinox as eqx

    import nfa_flow as nf

    return eqx.Partial(nf.measure.loss, loss=loss)


def _optimizer(settings: Flow, name: str, samples: int) -> tuple[Any, float, int | None]:
    """(optimiser, time per step, batch size)."""
    import optax

    if name == "gd":
        return optax.sgd(settings.gd_rate), settings.gd_rate, None
    if name == "momentum":
        rate = settings.momentum_rate
        return optax.sgd(rate, momentum=0.9), rate / (1 - 0.9), min(settings.batch_size, samples)
    if name == "adam":
        return optax.adam(settings.adam_rate), settings.adam_rate, None
    return optax.adamw(settings.adam_rate, weight_decay=settings.adamw_decay), settings.adam_rate, None


def _store(folder: Path, name: str) -> Path:
    return folder / f"{name.replace(' ', '_')}.zarr"


def _run_or_load(name: str, job: Callable[[Path], Any], settings: Flow, console: Any):
    import nfa_flow as nf

    store = _store(settings.out, name)
    if store.exists():
        console.print(f"{name}: already in {store}")
        return nf.Trajectory.load(store)
    run = job(store.with_suffix(".checkpoint"))
    if run.status == "interrupted":
        raise nf.RunInterrupted(run)
    run.save(store)
    console.print(f"{name}: {run.what_happened} {run.stats['seconds']:.1f} s")
    return run


def _draw(runs: dict[str, Any], panels: tuple[str, ...], path: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    import nfa_flow as nf

    path.parent.mkdir(parents=True, exist_ok=True)
    labelled = {_LABELS.get(name, name): run for name, run in runs.items()}
    nf.plot.overview(labelled, panels).savefig(path)
    return path


def _table(runs: dict[str, Any]):
    from rich.table import Table

    from nfa_flow.trajectory import flatten

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("run")
    columns = ("final loss", "cosine", "relative error", "exponent", "gradients + products", "seconds")
    for column in columns:
        table.add_column(column, justify="right")
    for name, run in runs.items():
        observed = flatten(run.observed)
        forms = zip(_PANELS, ("{:.3e}", "{:.6f}", "{:.2e}", "{:.4f}"), strict=True)
        cells = [_cell(observed[name][-1], form) for name, form in forms]
        cells += [_work(run.stats), f"{run.stats['seconds']:.1f}"]
        label = _LABELS.get(name, name)
        table.add_row(label if run.succeeded else f"{label} ({run.status})", *cells)
    return table


def _work(stats: dict[str, Any]) -> str:
    gradients, products = stats["gradient_evaluations"], stats.get("hessian_vector_products", 0)
    return "unknown" if gradients is None else f"{gradients:,} + {products:,}" if products else f"{gradients:,}"


def _cell(value: Any, form: str) -> str:
    return "undefined" if value != value else form.format(float(value))


def _complain(message: str) -> None:
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(message, style="red", markup=False, highlight=False)


if __name__ == "__main__":
    main()
