"""Random calls of every public function, with good and bad arguments: each must return, or say what is wrong with what.

    python tests/fuzz.py --calls 500 --seed 0 [--only nf.data]

A call may return anything, or raise a ValueError or TypeError that names one of its arguments in backticks. What runs
may fail by a RunError, and what reads or writes by an OSError that names the path. Everything else is a finding, as is
a call that takes too long. Findings are printed as the shortest call that still has them, to be pasted after the
definitions of `SETTING`.
"""

import argparse
import dataclasses
import functools
import inspect
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["JAXTYPING_DISABLE"] = "1"  # users have no run-time type checks

import hypothesis
import jax
import matplotlib.pyplot
from hypothesis import strategies as st

import nfa_flow as nf

MODULES = "nf nf.data nf.nets nf.measure nf.flow nf.descent nf.one_step nf.width nf.theory nf.plot".split()
# Of results, and with names of the caller's own.
METHODS = (
    "nf.Trajectory.load RUN.save RUN.net_at DATA.astype NET.with_weights HERMITE.has FIT.test ABC.at_depth ABC.shift"
).split()
AXES = {"nf.Grid", "nf.zipped"}
RUNS = {"nf.gradient_flow", "nf.gradient_descent", "nf.sweep", "nf.one_step.flow_step", "nf.width.coordinate_check"}
ROOT = Path(__file__).resolve().parents[1]
SECONDS = 60  # for a call; compiling takes some of them

SETTING = """
import jax, jax.numpy as jnp, numpy as np, optax, nfa_flow as nf
KEY = jax.random.key(0)
DATA = nf.data.linear_teacher(12, 3, 2, key=KEY)
NET = nf.nets.MLP([3, 4, 2], key=KEY, activation="tanh")
LINEAR = nf.nets.MLP([3, 3, 2], key=KEY)
TWO_LAYERS = nf.one_step.two_layer_net(3, 4, "relu", key=KEY, outputs=2)
HERMITE, LINK = nf.theory.hermite("relu", max_order=8), nf.theory.hermite_series([0, 1, 0.5])
DIRECTION = nf.theory.gradient_direction(nf.theory.hermite(LINK), 0.5, activation=HERMITE)
SYMMETRIC, MATRIX = jnp.eye(3) + 0.1, jnp.arange(6.0).reshape(2, 3) / 7
OBSERVE = {"loss": nf.measure.loss, "alignment": nf.measure.alignment(0.5)}
OPTIMIZER = optax.sgd(0.1)
one_run = lambda key, rate=0.1: nf.gradient_descent(NET, DATA, OPTIMIZER, 2, weight_decay=rate, progress=False)
RUN = nf.gradient_descent(NET, DATA, OPTIMIZER, 3, observe=OBSERVE, save_nets=True, progress=False)
SWEEP = nf.sweep(one_run, nf.Grid(rate=[0.0, 0.1], seed=range(2)), progress=False)
FIT = nf.one_step.ridge_fit(np.eye(6)[:, :4], np.arange(6.0), 0.1)
ABC = nf.nets.muP()
FOLDER = __import__("tempfile").mkdtemp()
RUN.save(FOLDER + "/run.zarr")
"""

# What goes for a parameter of this name, of this name in a module, or of a function, as Python.
GOOD = {
    "FIT.test.F": ["np.eye(5)[:, :4]"],
    "FIT.test.free": ["None"],
    "FIT.test.y": ["np.arange(5.0)"],
    "F": ["jnp.arange(24.0).reshape(6, 4) % 5"],
    "P": ["MATRIX"],
    "P0": ["MATRIX"],
    "S": ["jnp.eye(2)"],
    "S_xx": ["SYMMETRIC", "None"],
    "S_yx": ["MATRIX"],
    "W_1": ["jnp.eye(3)[:2]", "np.ones((4, 3))"],
    "W_2": ["jnp.eye(2)", "np.ones((2, 4))"],
    "a": ["(0, 0.5, 0.5)"],
    "accept": ["()", "'code'"],
    "activation": ["'relu'", "'tanh'", "jnp.sin", "['relu']"],
    "nf.theory.activation": ["HERMITE"],
    "nf.theory.spike_matrix.activation": ["'relu'", "'tanh'"],
    "nf.one_step.gaussian_features.activation": ["HERMITE"],
    "against": ["'rate'"],
    "agop": ["[1.0, 2.0]"],
    "agop_of_change": ["True", "False"],
    "alpha": ["0.3", "1.0"],
    "atol": ["1e-6", "None"],
    "ax": ["None"],
    "b": ["0.5", "-0.5", "(0, 0.5, 0.5)"],
    "backward": ["True"],
    "batch": ["'auto'", "'off'", "'vmap'", "'sequential'"],
    "batch_size": ["None", "4"],
    "beta": ["1.0", "jnp.ones(3)"],
    "bias": ["True"],
    "bound": ["0.1"],
    "build": ["lambda width, key: nf.nets.MLP([3, width, 2], key=key, parametrization='muP')"],
    "c": ["(0, 0, 0)"],
    "centered": ["True"],
    "certify": ["True"],
    "check": [
        "nf.width.coordinate_check(lambda width, key: nf.nets.MLP([3, width, 2], key=key, parametrization='muP'), "
        "lambda net, data: net, DATA, [4, 8, 16], key=KEY)"
    ],
    "checkpoint": ["None", "FOLDER + '/kept'"],
    "coefficients": ["[0, 1, 0.5]"],
    "count": ["2", "3"],
    "covariance": ["None", "SYMMETRIC"],
    "data": ["DATA", "DATA", "DATA", "nf.Dataset(DATA.x, DATA.y, weight=np.full(12, 1 / 12))"],
    "dataset": ["SWEEP"],
    "depth": ["2", "3"],
    "direction": ["DIRECTION", "None"],
    "directions": ["jnp.eye(6)[:, :2]"],
    "draws": ["2"],
    "dt0": ["None", "0.01"],
    "dtype": ["None", "jnp.float32", "jnp.bfloat16", "jnp.float16"],
    "epsilon": ["0.1"],
    "eta": ["0.5"],
    "exact_products": ["None", "True"],
    "executor": ["None"],
    "expansion": ["HERMITE"],
    "factor": ["True", "False"],
    "first": ["0.1"],
    "free": ["None", "jnp.ones((6, 1))"],
    "function": ["'relu'", "LINK", "jnp.tanh"],
    "grid": ["nf.Grid(rate=[0.0, 0.1], seed=range(2))", "nf.Grid(seed=[1])"],
    "hue": ["None", "'rate'"],
    "RUN.net_at.index": ["0", "-1"],
    "index": ["None", "jnp.eye(3)[:, :2]"],
    "init": ["None", "nf.nets.Balanced(0.5)", "nf.nets.Orthogonal()", "nf.nets.LambdaBalanced(0.5)"],
    "initial": ["NET"],
    "inputs": ["3"],
    "intercept": ["True", "False"],
    "keep_zeros": ["True", "False"],
    "key": ["KEY", "jax.random.PRNGKey(1)"],
    "label": ["None", "'a label'"],
    "last": ["1.0"],
    "layer": ["1", "2", "lambda net: net.layers[0]"],
    "legend": ["True", "False"],
    "like": ["None", "NET"],
    "left": ["jnp.eye(6)[:, :2]"],
    "link": ["'hermite'", "'staircase'", "jnp.sin", "LINK"],
    "loss": ["'mse'", "'cross_entropy'", "None"],
    "max_order": ["3"],
    "max_steps": ["None", "1000"],
    "mean": ["0.5"],
    "memory": ["2**20"],
    "metric": ["'cosine'", "'pearson'", "'relative_error'"],
    "mobility": ["None", "(1.0, 0.5)"],
    "name": ["'loss'", "'alignment'", "'name'"],
    "names": ["['loss']"],
    "net": ["NET", "LINEAR", "TWO_LAYERS"],
    "nfm": ["[1.0, 2.0]"],
    "noise": ["0.1", "0.0"],
    "nf.flow.NewtonCG.norm": ["jnp.linalg.norm"],
    "norm": ["0.5"],
    "observable": ["nf.measure.loss"],
    "observe": ["OBSERVE", "{}"],
    "of": ["'agop'", "'nfm'"],
    "one_run": ["one_run"],
    "optimizer": ["OPTIMIZER", "optax.adam(0.01)"],
    "order": ["2"],
    "orders": ["(1, 2)"],
    "outputs": ["1", "2"],
    "over": ["'seed'"],
    "own": ["0.1"],
    "own_output": ["True"],
    "parametrization": ["None", "'muP'", "nf.nets.NTP()"],
    "path": ["FOLDER + '/nothing'", "FOLDER", "FOLDER + '/run.zarr'"],
    "penalty": ["0.1"],
    "phi": ["0.5"],
    "power": ["0.5"],
    "probabilities": ["[0.25, 0.75]"],
    "probes": ["2"],
    "progress": ["False"],
    "psi": ["0.5"],
    "quantiles": ["(0.1, 0.9)"],
    "rank": ["1", "2"],
    "rate": ["[0.0, 0.1]", "range(2)", "nf.looped(['a', 'b'])", "nf.batched(jnp.ones(2))"],
    "root_finder": ["nf.flow.NewtonCG(1e-6, 1e-6, jnp.linalg.norm)"],
    "root_find_max_steps": ["4"],
    "rtol": ["1e-4", "None"],
    "rule": ["'sgd'", "'adam'"],
    "runs": ["RUN", "{'a': RUN, 'b': RUN}"],
    "s0": ["0.1", "[0.1, 0.2]"],
    "samples": ["12", "40"],
    "save_at": ["None", "[0, 1]", "[0.0, 0.01]"],
    "save_nets": ["True"],
    "scale": ["0.5"],
    "seeds": ["2"],
    "sigma": ["1.0"],
    "singular_values": ["[3.0, 1.0, 0.9]"],
    "solver": ["None", "nf.flow.NDF()", "nf.flow.TSRKC3()"],
    "spectrum": ["nf.measure.spectrum(NET, DATA)"],
    "split": ["'train'"],
    "standardize": ["True"],
    "std": ["0.1"],
    "steps": ["3"],
    "stop": ["None", "nf.LossBelow(0.1)"],
    "store": ["None"],
    "t0": ["0.0"],
    "t1": ["0.01"],
    "targets": ["[2.0, 1.0]"],
    "teacher": ["HERMITE", "nf.theory.hermite(LINK)"],
    "time_per_step": ["None", "0.1"],
    "theta": ["0.5", "(0.1, 0.2, 0.3)"],
    "throw": ["True", "False"],
    "times": ["[0.0, 0.5, 1.0]", "0.5"],
    "tolerance": ["0.25"],
    "train": ["lambda net, data: net"],
    "untrained": ["None", "lambda key: nf.nets.MLP([3, 4, 2], key=key)"],
    "values": ["[1.0, 2.0]", "{'a': 1}", "jnp.arange(1.0, 7.0).reshape(3, 2)"],
    "variance": ["1.0"],
    "vectors": ["0", "2"],
    "weight": ["None", "np.full(12, 1 / 12)"],
    "weight_decay": ["0.0", "0.1", "jnp.asarray(0.1)"],
    "weights": ["NET.weights"],
    "whiten": ["True", "False"],
    "width": ["4", "None"],
    "widths": ["[3, 4, 2]", "[4, 8, 16]"],
    "x": ["DATA.x", "np.asarray(DATA.x)"],
    "y": ["DATA.y", "jnp.arange(6.0)"],
}
# What no parameter, or next to none, is meant to be.
BAD = [
    *("None", "jnp.nan", "float('inf')", "-1", "0", "1.5", "True", "'x'", "''", "[]", "()", "{}", "object()", "1j"),
    *(
        "1e300",
        "-1e300",
        "1e-300",
        "2**40",
        "-(2**40)",
        "10**30",
        "lambda: 1",
        "lambda *_: 1 / 0",
        "[1, 'a']",
        "[[1], 2]",
    ),
    *(
        "jnp.ones(0)",
        "jnp.ones(3)",
        "jnp.ones((3, 3))",
        "np.ones((2, 3, 4))",
        "jnp.asarray(2)",
        "np.full((12, 3), np.nan)",
    ),
    *("np.asarray('a')", "np.ma.masked_array([1.0, 2.0], [0, 1])", "np.asarray([None])", "[jnp.nan, 1.0]", "{'a': 1}"),
    *("KEY", "jax.random.split(KEY, 3)", "DATA", "NET", "np.ones((12, 3), np.float16)", "np.ones((12, 3), int)", "int"),
]

# What a result is made of, and what would leave this machine.
_LEFT_OUT = {"nf.data.openml", "nf.Trajectory", "nf.width.CoordinateCheck", "nf.width.Scaling", "nf.measure.Alignment"}


@dataclasses.dataclass(frozen=True)
class Call:
    """A public function by its name, and its arguments as Python, by parameter."""

    function: str
    arguments: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        kinds = {p.name: p.kind for p in _parameters(self.function)}
        named = [text if kinds[name] is inspect.Parameter.POSITIONAL_ONLY else f"{name}={text}" for name, text in self]
        return f"{self.function}({', '.join(named)}){_applied(self.function)}"

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.arguments)


@dataclasses.dataclass(frozen=True)
class Finding:
    """A call that did what none may do: the kind of it, and its last words."""

    call: Call
    kind: str
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.call}\n    {self.kind} at {self.place}: {self.message}"


@functools.cache
def public_functions() -> dict[str, Callable[..., Any]]:
    """Everything public that can be called and takes arguments, under the shortest of its names."""
    found: dict[str, Callable[..., Any]] = {}
    for module in MODULES:
        for name, value in vars(eval(module, {"nf": nf})).items():
            is_result = isinstance(value, type) and issubclass(value, tuple | BaseException)
            is_abstract = inspect.isabstract(value) or name.startswith("Abstract")
            if name.startswith("_") or not callable(value) or is_result or is_abstract or value in found.values():
                continue
            if f"{module}.{name}" not in _LEFT_OUT and inspect.signature(value).parameters:
                found[f"{module}.{name}"] = value
    return found | {name: eval(name, setting()) for name in METHODS}


@functools.cache
def setting() -> dict[str, Any]:
    """The names that calls use. What they write goes to a new folder."""
    names: dict[str, Any] = {}
    exec(SETTING, names)
    os.chdir(names["FOLDER"])
    return names


@st.composite
def calls(draw: Callable[[Any], Any], names: list[str]) -> Call:
    """A function with all that it needs and some of what it may have; most arguments are good."""
    name = draw(st.sampled_from(names))
    arguments = []
    for parameter in _parameters(name):
        if parameter.default is parameter.empty or draw(st.integers(0, 3)) == 0:
            pool = good(name, parameter.name) if draw(st.integers(0, 3)) else BAD
            arguments.append((parameter.name, draw(st.sampled_from(pool))))
    return Call(name, tuple(arguments))


def good(function: str, parameter: str) -> list[str]:
    """What goes for a parameter of a function."""
    module = function.rpartition(".")[0]
    return next(GOOD[name] for name in (f"{function}.{parameter}", f"{module}.{parameter}", parameter) if name in GOOD)


def fuzz(count: int, seed: int, only: str = "") -> list[Finding]:
    """The findings of some random calls, each kind at each place once and as short as it gets."""
    found: dict[Any, Finding] = {}
    names = [name for name in public_functions() if name.startswith(only)]

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    @hypothesis.given(calls(names))
    def check(call: Call) -> None:
        finding = outcome(call)
        if finding is not None and _same(finding) not in found:
            found[_same(finding)] = shortened(finding)

    check()
    return list(found.values())


def outcome(call: Call) -> Finding | None:
    """What is wrong with what a call does, if anything."""
    signal.signal(signal.SIGALRM, _take_too_long)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            eval(str(call), setting())
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        if _is_allowed(error, call):
            return None
        return Finding(call, type(error).__name__, _place_of(error), f"{error}".strip().split("\n")[0][:200])
    finally:
        signal.alarm(0)
        matplotlib.pyplot.close("all")
    return None


def _is_allowed(error: BaseException, call: Call) -> bool:
    if isinstance(error, nf.RunError):
        return call.function in RUNS
    if isinstance(error, OSError):
        return any(str(eval(text, setting())) in str(error) for name, text in call if name in ("path", "store"))
    # Of variadic arguments the function's own name; of observables what they are called with.
    names = {p.name for p in _parameters(call.function)} | ({"zipped"} if call.function == "nf.zipped" else set())
    names |= {"net", "data"} if _applied(call.function) else set()
    named = {re.split(r"\W", quoted)[0] for quoted in re.findall(r"`([^`]*)`", str(error))}
    return isinstance(error, ValueError | TypeError) and bool(names & named)


def shortened(finding: Finding) -> Finding:
    """The same finding with as few bad arguments, and as few arguments at all, as it needs."""
    for name, text in finding.call:
        parameter = next(p for p in _parameters(finding.call.function) if p.name == name)
        usual = good(finding.call.function, name)
        options = [()] if parameter.default is not parameter.empty else []
        options += [((name, usual[0]),)] if text not in usual else []
        for option in options:
            arguments = [pair for other in finding.call for pair in (option if other == (name, text) else (other,))]
            shorter = outcome(Call(finding.call.function, tuple(arguments)))
            if shorter is not None and _same(shorter) == _same(finding):
                finding = shorter
                break
    return finding


def _same(finding: Finding) -> tuple[str, str, str]:
    return finding.call.function, finding.kind, finding.place


@functools.cache
def _parameters(function: str) -> list[inspect.Parameter]:
    variadic = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    parameters = inspect.signature(public_functions()[function]).parameters.values()
    axes = [inspect.Parameter("rate", inspect.Parameter.KEYWORD_ONLY, default=None)] if function in AXES else []
    return [p for p in parameters if p.kind not in variadic] + axes


@functools.cache
def _applied(function: str) -> str:
    """An observable is called too."""
    makes_observables = {
        *("alignment", "centered_nfa", "enfa", "nfa_cosine_2022", "nfa_of_depth", "nfa_off_diagonal_2024", "FactError"),
        *(
            "nfa_pearson_2024",
            "uncentered_nfa",
            "HessianEigenvalues",
            "Sharpness",
            "SubspaceOverlap",
            "subspace_overlap",
        ),
    }
    return "(NET, DATA)" if function.removeprefix("nf.measure.") in makes_observables else ""


def _place_of(error: BaseException) -> str:
    """The deepest line of the library."""
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if "nfa_flow" in frame.filename]
    return f"{os.path.relpath(lines[-1].filename, ROOT)}:{lines[-1].lineno}" if lines else "the call"


class _TooLong(BaseException):
    pass


def _take_too_long(*_: Any) -> None:
    raise _TooLong(f"more than {SECONDS} seconds")


def main() -> int:
    """Print what was found; 1 if there is anything."""
    parser = argparse.ArgumentParser(description="Random calls of the public functions.")
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="start of the functions' names, such as nf.data")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    matplotlib.use("Agg")
    began, findings = time.perf_counter(), fuzz(options.calls, options.seed, options.only)
    print(*findings, sep="\n")
    seconds = time.perf_counter() - began
    print(f"{options.calls} calls, seed {options.seed}: {len(findings)} findings in {seconds:.0f} s")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
