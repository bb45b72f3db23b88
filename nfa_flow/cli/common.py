"""Shared by the commands: settings of a run; data, network and method for these settings; cells and figures."""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..run.files import require_parents, write_file
from ..run.status import finished
from ..training import Descent, ExactFlow, FlowOf
from .cache import Cache, keep_programs

Init = Literal["balanced", "gaussian", "orthogonal", "lambda_balanced"]
KINKS = "The activation has kinks: the exact flow locates each, or where there are more than 50,000 is not certified."
FLOW_OF = "flow of "
PANELS = ("loss", "cosine", "relative_error", "exponent.exponent")

_FORMS = {"loss": "{:.3e}", "cosine": "{:.6f}", "relative_error": "{:.2e}", "exponent.exponent": "{:.4f}"}
_TEACHERS = ("linear_teacher", "multi_index", "single_index")
_POSITIVE = ("t1", "rtol", "power", "scale", "gd_rate", "momentum_rate", "adam_rate", "memory")


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of one run or of many; fields of type Any have one value in some commands, several in others."""

    data: str = "digits"
    """digits, diabetes, linear_teacher, multi_index, single_index, openml:NAME, cifar10:PATH, mnist:PATH, svhn:PATH, or
    an .npz of x and y"""
    samples: Any
    """number of samples of the synthetic data"""
    inputs: int = 20
    """number of inputs of the synthetic data"""
    noise: Any
    """standard deviation of the label noise of the synthetic data"""
    depth: Any
    """number of layers L"""
    width: Any
    """width of the hidden layers"""
    activation: Any
    """activation of the hidden layers: identity, relu, tanh, gelu, …"""
    init: Any
    """initialization of the weights"""
    scale: Any
    """scale of the initialization"""
    b: float = -0.5
    """b in W_2ᵀW_2 − W_1W_1ᵀ = bI, for the initialization lambda_balanced"""
    loss: Literal["mse", "cross_entropy"] = "mse"
    """loss of one sample"""
    weight_decay: Any
    """λ of the term (λ/2)‖θ‖², for the flow and every optimizer"""
    t1: float = 100.0
    """end time of the flow"""
    rtol: float | None = None
    """relative tolerance of the flow; by default 1e-6, and 1e-3 across kinks (relu) that are too many to be located"""
    power: float | None = None
    """power of AGOP in the ansatz; 1/depth by default"""
    steps: int = 2000
    """number of steps of every optimizer"""
    batch_size: int = 128
    """minibatch size of SGD with momentum; the other optimizers use the full batch"""
    gd_rate: float = 0.05
    """learning rate of gradient descent"""
    momentum_rate: float = 0.005
    """learning rate of SGD with momentum .9; its time per step is ten times this rate"""
    adam_rate: float = 0.001
    """learning rate of Adam and AdamW"""
    adamw_decay: float = 0.1
    """decoupled weight decay of AdamW"""
    memory: float | None = None
    """GiB that gradients may take beside data and parameters; by default an eighth of the memory of the device"""
    dtype: Literal["float64", "float32"] = "float64"
    """floating-point type"""
    progress: bool = True
    """show progress bars"""
    cache: Cache = True
    debug: bool = False
    """show the traceback of an error"""


@dataclass(frozen=True)
class Teacher:
    """Synthetic data that are drawn with a key."""

    name: str
    inputs: int

    def __call__(self, key: Any, samples: int, noise: Any) -> Any:
        """The dataset."""
        import nfa_flow as nf

        further = {"rank": 2} if self.name == "multi_index" else {}
        return getattr(nf.data, self.name)(samples, self.inputs, key=key, noise=noise, **further)


def start_jax(dtype: str, *, cache: bool) -> None:
    """Let JAX compute in this floating-point type, and keep compiled programs for the next call or not.

    **Raises:** RuntimeError if JAX does not find the devices that it must use.
    """
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    keep_programs(cache)
    try:
        jax.devices()
    except Exception as error:
        wanted = f"`JAX_PLATFORMS` = {os.environ.get('JAX_PLATFORMS', '')!r}"
        said = f" ({error})" if str(error) else ""
        raise RuntimeError(f"JAX has no device of {wanted}{said}; unset it or set it to cpu.") from error


def check(settings: Training) -> None:
    """Raise ValueError for the first setting that is out of range."""
    from nfa_flow.checks import require_integer, require_number

    def values(name: str) -> Any:
        value = getattr(settings, name, None)
        return value if isinstance(value, tuple) else () if value is None else (value,)

    for name in _POSITIVE:
        for value in values(name):
            require_number(name, value, above=0)
    for name in ("weight_decay", "noise", "adamw_decay"):
        for value in values(name):
            require_number(name, value, at_least=0)
    for name in ("samples", "inputs", "depth", "width", "steps", "batch_size", "seeds"):
        for value in values(name):
            require_integer(name, value, at_least=1)
    for name in ("seed", "workers"):
        for value in values(name):
            require_integer(name, value, at_least=0)
    require_number("b", settings.b)


def data_or_teacher(settings: Training) -> Any:
    """The dataset or, for synthetic data, the `Teacher` that draws it."""
    import nfa_flow as nf
    from nfa_flow.checks import wrong

    name, colon, rest = settings.data.partition(":")
    readers: dict[str, Callable[[], Any]] = {"digits": nf.data.digits, "diabetes": nf.data.diabetes}
    of_rest: dict[str, Callable[[], Any]] = {
        "openml": lambda: nf.data.standardize(nf.data.openml(rest)),
        "cifar10": lambda: nf.data.cifar10(rest),
        "mnist": lambda: nf.data.standardize(_vectors(nf.data.mnist(rest))),
        "svhn": lambda: nf.data.standardize(_vectors(nf.data.svhn(rest))),
    }
    if settings.data in _TEACHERS:
        return Teacher(name, settings.inputs)
    if settings.data in readers:
        return readers[name]().astype(settings.dtype)
    if name in of_rest and rest:
        return of_rest[name]().astype(settings.dtype)
    if settings.data.endswith(".npz"):
        return _vectors(nf.data.load_npz(settings.data)).astype(settings.dtype)
    known = ", ".join((*readers, *_TEACHERS))
    raise wrong(
        "data", f"{known}, openml:NAME, cifar10:PATH, mnist:PATH, svhn:PATH or a path to an .npz", repr(settings.data)
    )


def _vectors(data: Any) -> Any:
    """The data as the networks of the commands take them: vectors of inputs, and one-hot targets of classes."""
    import nfa_flow as nf

    data = nf.Dataset(data.x.reshape(data.samples, -1), data.y, data.weight, data.index)
    return data.one_hot() if data.has_labels else data


def memory_in_bytes(settings: Training) -> int | None:
    """The setting `memory`, as the library takes it."""
    return None if settings.memory is None else int(settings.memory * 2**30)


def make_net(data: Any, key: Any, *, depth: Any, width: Any, activation: str, init: str, scale: Any, b: float) -> Any:
    """The network, with the inputs, outputs and floating-point type of the data."""
    import nfa_flow as nf
    from nfa_flow.checks import require_integer

    require_integer("depth", depth, at_least=1)
    require_integer("width", width, at_least=1)
    initializations: dict[str, Callable[[], Any]] = {
        "balanced": lambda: nf.nets.Balanced(scale),
        "gaussian": lambda: nf.nets.Gaussian(scale),
        "orthogonal": lambda: nf.nets.Orthogonal(scale),
        "lambda_balanced": lambda: nf.nets.LambdaBalanced(b, scale),
    }
    widths = [data.inputs, *[width] * (depth - 1), data.outputs]
    return nf.nets.MLP(widths, key=key, activation=activation, init=initializations[init](), dtype=data.dtype)


def try_out(net: Any, data: Any, loss: str, observe: dict[str, Callable], memory: int | None) -> None:
    """Raise the errors that a run of this network would raise at its start, without a run."""
    import equinox as eqx

    from nfa_flow.problem.memory import within_memory
    from nfa_flow.problem.objective import make_objective

    parameters, objective = make_objective(net, data, loss, 0.0)
    within_memory(objective, parameters, memory)
    for observable in observe.values():
        eqx.filter_eval_shape(observable, net, data)


def make_method(settings: Training, name: str) -> ExactFlow | Descent | FlowOf:
    """The training method: "flow", an optimizer, or "flow of" an optimizer."""
    if name == "flow":
        return ExactFlow(settings.t1, settings.rtol)
    if name.startswith(FLOW_OF):
        descent: Any = make_method(settings, name.removeprefix(FLOW_OF))
        return FlowOf(dataclasses.replace(descent, batch_size=None), settings.rtol)
    rates = {"gd": settings.gd_rate, "momentum": settings.momentum_rate}
    return Descent(
        name,  # pyright: ignore[reportArgumentType]
        rate=rates.get(name, settings.adam_rate),
        steps=settings.steps,
        batch_size=settings.batch_size if name == "momentum" else None,
        adamw_decay=settings.adamw_decay if name == "adamw" else 0.0,
    )


def observables(power: Any, loss: str) -> dict[str, Callable]:
    """The observables of every run, by the names of their panels."""
    import equinox as eqx

    import nfa_flow as nf

    return {
        "loss": eqx.Partial(nf.measure.loss, loss=loss),
        "cosine": nf.measure.alignment(power),
        "relative_error": nf.measure.alignment(power, metric="relative_error"),
        "exponent": nf.measure.fit_exponent,
    }


def cell(name: str, value: Any) -> str:
    """A value of the observable with this name as text, with a suitable number of digits."""
    return "undefined" if value != value else _FORMS[name].format(float(value))


def save_figure(make: Callable[[], Any], path: Path) -> Path:
    """Write the figure that `make` draws, without a display; an older file stays until the new one is complete."""
    import matplotlib

    matplotlib.use("Agg")
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_file(path, make().savefig)


def require_figure(argument: str, path: Path) -> None:
    """Raise ValueError if a figure cannot have this name."""
    from matplotlib.backend_bases import FigureCanvasBase

    from nfa_flow.checks import wrong

    endings = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".") not in endings or path.is_dir():
        raise wrong(argument, f"a file that ends in {', '.join(f'.{each}' for each in sorted(endings))}", str(path))
    require_parents(argument, path)


def failures(dataset: Any) -> Counter:
    """Reason → the number of runs that failed for it."""
    return Counter(dataset["reason"].values[~finished(dataset).values].tolist())
