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

import haste as haste
import hypothesis
import jax
import matplotlib.pyplot
from fuzz_arguments import BAD, GOOD, SETTING
from hypothesis import strategies as st

import nfa_flow as nf

MODULES = "nf nf.data nf.nets nf.measure nf.flow nf.dynamics nf.descent nf.one_step nf.width nf.theory nf.plot".split()
# Of results, and with names of the caller's own.
METHODS = (
    "nf.Trajectory.load RUN.save RUN.net_at DATA.astype NET.with_weights HERMITE.has FIT.test ABC.at_depth ABC.shift"
).split()
AXES = {"nf.Grid", "nf.zipped"}
RUNS = {"nf.gradient_flow", "nf.gradient_descent", "nf.sweep", "nf.one_step.flow_step", "nf.width.coordinate_check"}
ROOT = Path(__file__).resolve().parents[1]
SECONDS = 60  # for a call; compiling takes some of them

# What a result is made of, and what would leave this machine.
_LEFT_OUT = set(
    "nf.data.openml nf.Trajectory nf.flow.Moment nf.width.CoordinateCheck nf.width.Scaling nf.measure.Alignment".split()
)


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
