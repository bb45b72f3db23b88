"""Sweeps: `nf.sweep` beside every other way to run many gradient flows, and what observing them costs.

    python benchmarks/sweeps.py --quick    # a smoke test: a minute or two, most of it compiling
    python benchmarks/sweeps.py            # everything, about a quarter of an hour on two cores

All ways of one cell run in turn in one process, so that a busy machine slows them alike; the fastest turn counts.
Each compiles before, on the same lanes with next to no time. Every size is kept in one JSON file in `--out` and not
measured again; delete that file to begin afresh. A loop in Python that reaches `--limit` is extrapolated from the runs
that it finished; that of torchdiffeq has one core, ours have all.
"""

import argparse
import importlib.util
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from machine import describe_machine
from sweeps_figure import draw
from sweeps_peers import (
    LOOP,
    OURS,
    PROCESSES,
    RTOL,
    TORCH,
    WAYS,
    Case,
    Lanes,
    Outcome,
    Run,
    swept,
    torch_lane,
    use_float64,
)

import nfa_flow as nf

HERE = Path(__file__).parent
CASES = (Case((5, 8, 8, 1)), Case((10, 32, 32, 1)), Case((32, 128, 128, 1)))
LANES = (128, 32, 8)
MIXES = {"uniform": Lanes.uniform, "heterogeneous": Lanes.heterogeneous}
T1, LONG_T1 = 1e2, 1e3
QUICK = {"lanes": (8, 8, 8), "mixes": ["heterogeneous"], "turns": 1, "limit": 2.0, "long_limit": 5.0}
OBSERVATIONS = 60
LOSS, ALIGNMENT = ("loss", nf.measure.loss), ("alignment", nf.measure.alignment(0.5))
OBSERVE = {"loss": (LOSS,), "loss and alignment": (LOSS, ALIGNMENT)}


def main() -> None:
    """Measure what is missing, print, draw and keep."""
    arguments = _arguments()
    use_float64()
    device = jax.devices()[0]
    name = "cpu" if device.platform == "cpu" else device.device_kind.lower().replace(" ", "-")
    results = Results(arguments.out / f"sweeps-{name}{'-quick' if arguments.quick else ''}.json")
    results.all["machine"] = describe_machine(str(device), ("jax", "diffrax", "nfa_flow", "torch", "torchdiffeq"))
    ways = [way for way in arguments.ways if _is_available(way, device.platform)]
    sizes = list(zip(CASES, arguments.lanes, strict=True))[: 1 if arguments.quick else None]
    for case, count in sizes:
        key = f"{case.name}, {count} lanes"
        row = results.keep("sizes", key, partial(measure_size, case, count, ways, arguments))
        print_size(key, row)
    if TORCH in ways:
        case, count = sizes[len(sizes) // 2]
        key = f"{case.name}, {count} lanes, T = {LONG_T1:g}"
        print_long(key, results.keep("long", key, partial(measure_long, case, count, arguments)))
    print(f"\n{results.path}")
    print(draw(list(results.all["sizes"].values()), results.path.with_suffix(".png")))


class Results:
    """What is measured, in one file that is written after every part."""

    def __init__(self, path: Path):
        self.path = path
        self.all: dict[str, Any] = {"machine": {}, "sizes": {}, "long": {}}
        if path.exists():
            self.all |= json.loads(path.read_text())

    def keep(self, part: str, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """This part, measured if it is not there yet."""
        if key not in self.all[part]:
            print(f"\n{key}: measuring …", flush=True)
            self.all[part][key] = measure() | {"revision": self.all["machine"]["revision"]}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.all, indent=1))
        return self.all[part][key]


def measure_size(case: Case, count: int, ways: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Every way on every mix of lanes, what a call costs besides the flows, and what observing costs."""
    runs = {way: WAYS[way](case) for way in ways}
    short = Lanes.uniform(count, T1).short()
    first = {way: timed(run, short, 0.0).seconds for way, run in runs.items()}
    fixed = {way: timed(run, short, math.inf).seconds for way, run in runs.items()}
    return {
        "parameters": case.parameters,
        "lanes": count,
        "t1": T1,
        "first_call_seconds": first,
        "fixed_seconds": fixed,
        "mixes": {mix: measure_mix(case, runs, MIXES[mix](count, T1), arguments) for mix in arguments.mixes},
        "observing": measure_observing(case, count, arguments.turns),
    }


def measure_mix(case: Case, runs: dict[str, Run], lanes: Lanes, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every way on the same lanes, in turn; their final losses have to agree."""
    turns: dict[str, list[Turn]] = {way: [] for way in runs}
    count = len(lanes.all)
    for _ in range(arguments.turns):
        for way, run in runs.items():
            if all(len(turn.outcome.losses) == count for turn in turns[way]):  # an estimate is not worth another turn
                turns[way].append(timed(run, lanes, arguments.limit))
    best = {way: min(several, key=lambda turn: turn.seconds_for(count)) for way, several in turns.items()}
    reference = next(iter(best.values())).outcome
    measured = {
        way: {
            "seconds": turn.seconds_for(count),
            "all_seconds": [each.seconds_for(count) for each in turns[way]],
            "finished": len(turn.outcome.losses),
            "useful": turn.outcome.useful,
            "steps": None if turn.outcome.steps is None else int(turn.outcome.steps.sum()),
            "difference": difference(turn.outcome.losses, reference.losses, case),
        }
        for way, turn in best.items()
    }
    far = {way: row["difference"] for way, row in measured.items() if not row["difference"] <= 100 * RTOL}
    assert not far, f"final losses are not those of {next(iter(runs))}: {far}"
    return {"step_range": step_range(reference), "ways": measured}


class Turn(NamedTuple):
    """One way on the lanes of a cell, once."""

    seconds: float
    outcome: Outcome

    def seconds_for(self, count: int) -> float:
        """For all lanes, where the limit of seconds let some finish only."""
        return self.seconds * count / len(self.outcome.losses)


def timed(run: Run, lanes: Lanes, limit: float) -> Turn:
    """Run and take the time."""
    began = time.perf_counter()
    outcome = run(lanes, limit)
    return Turn(time.perf_counter() - began, outcome)


def difference(losses: np.ndarray, reference: np.ndarray, case: Case) -> float:
    """The largest difference of root mean square residuals, in those of the function zero.

    Not of the losses relative to themselves: where a network interpolates, they are the squares of integration errors.
    """
    residuals, expected = np.sqrt(losses), np.sqrt(reference[: len(losses)])
    return float(np.max(np.abs(residuals - expected)) / math.sqrt(case.loss_of_zero))


def step_range(outcome: Outcome) -> list[int] | None:
    """The fewest and the most steps of a lane."""
    return None if outcome.steps is None else [int(outcome.steps.min()), int(outcome.steps.max())]


def measure_observing(case: Case, count: int, turns: int) -> dict[str, Any]:
    """`nf.sweep` that observes nothing but the loss at the end; the loss often; and its alignment, too."""
    lanes, seconds = Lanes.uniform(count, T1), {}
    runs = {"at the end": swept(observations=1, observe=OBSERVE["loss"])(case)}
    runs |= {what: swept(observations=OBSERVATIONS, observe=observe)(case) for what, observe in OBSERVE.items()}
    for run in runs.values():
        run(lanes.short(), 0.0)
    for _ in range(2 * turns):  # small differences need more of them
        for what, run in runs.items():
            seconds.setdefault(what, []).append(timed(run, lanes, 0.0).seconds)
    return {what: min(several) for what, several in seconds.items()}


def measure_long(case: Case, count: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """`nf.sweep` over a long horizon, beside one lane of torchdiffeq."""
    lanes, ours, flow = Lanes.uniform(count, LONG_T1), WAYS[OURS](case), case.flow()
    ours(lanes.short(), 0.0)
    turn = min((timed(ours, lanes, 0.0) for _ in range(arguments.turns)), key=lambda turn: turn.seconds)
    began = time.perf_counter()
    lane = torch_lane(flow, lanes.all[0], arguments.long_limit)
    row = {"seconds": time.perf_counter() - began} | lane._asdict()
    if lane.reached == LONG_T1:
        assert difference(np.asarray([lane.loss]), turn.outcome.losses, case) <= 100 * RTOL
    size = {"parameters": case.parameters, "lanes": count, "t1": LONG_T1}
    return size | {"seconds": turn.seconds, "step_range": step_range(turn.outcome), "torchdiffeq": row}


def print_size(key: str, size: dict[str, Any]) -> None:
    """A table per mix, and the cost of observing."""
    print(f"\n{key}, {size['parameters']} parameters, to T = {size['t1']:g}")
    for mix, cell in size["mixes"].items():
        low, high = cell["step_range"]
        print(f"  {mix}: {low} to {high} steps ({high / low:.1f} ×)")
        print(f"  {'':26}{'seconds':>9}{'runs/s':>9}{'of loop':>9}{'fixed':>8}{'useful':>8}{'steps':>8}{'differs':>9}")
        for way in cell["ways"]:
            print(f"  {way:26}{_line(way, cell['ways'], size)}")
    compiling = ", ".join(f"{way} {seconds:.1f}" for way, seconds in size["first_call_seconds"].items())
    print(f"  seconds of the first call, to compile: {compiling}")
    at_the_end = size["observing"]["at the end"]
    for what in OBSERVE:
        often = size["observing"][what]
        cost = f"{often / at_the_end - 1:+.0%} ({at_the_end:.2f} s → {often:.2f} s)"
        print(f"  {what} at {OBSERVATIONS} times instead of the loss at the end: {cost}", flush=True)


def _line(way: str, ways: dict[str, Any], size: dict[str, Any]) -> str:
    row, lanes = ways[way], size["lanes"]
    loop = ways.get(LOOP, {"seconds": np.nan})["seconds"]
    rate = f"{row['seconds']:9.2f}{lanes / row['seconds']:9.1f}{loop / row['seconds']:9.2f}"
    useful = "" if row["useful"] is None else f"{row['useful']:.0%}"
    steps = "" if row["steps"] is None else str(row["steps"])
    part = "" if row["finished"] == lanes else f"  from {row['finished']} lanes"
    return f"{rate}{size['fixed_seconds'][way]:8.2f}{useful:>8}{steps:>8}{row['difference']:9.0e}{part}"


def print_long(key: str, row: dict[str, Any]) -> None:
    """The long horizon, where one lane of torchdiffeq may not finish."""
    torch, ours = row["torchdiffeq"], row["seconds"] / row["lanes"]
    finished = torch["reached"] == row["t1"]
    there = "" if finished else f", which got to t = {torch['reached']:.3g}"
    sign = "" if finished else "> "
    print(f"\n{key}: {OURS} {row['seconds']:.2f} s, {ours:.3f} s a run;")
    print(f"  {TORCH} {torch['seconds']:.1f} s for one run{there}: {sign}{torch['seconds'] / ours:.0f} × as long")


def _is_available(way: str, platform: str) -> bool:
    """Processes cannot share an accelerator."""
    if way == TORCH:
        return importlib.util.find_spec("torch") is not None and importlib.util.find_spec("torchdiffeq") is not None
    return way != PROCESSES or platform == "cpu"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    quick = "8 heterogeneous lanes of the smallest network, once, with short limits"
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--lanes", nargs=3, type=int, default=LANES, help="of each size (default: %(default)s)")
    parser.add_argument("--mixes", nargs="+", choices=MIXES, default=list(MIXES), help="default: both")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="default: all")
    parser.add_argument("--turns", type=int, default=2, help="the fastest counts (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds after which loops in Python stop")
    parser.add_argument("--long-limit", type=float, default=120.0, help="seconds for the long run of torchdiffeq")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    if parser.parse_args().quick:
        parser.set_defaults(**QUICK)
    return parser.parse_args()


if __name__ == "__main__":
    main()
