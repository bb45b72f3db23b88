"""The exact flow across kinks: how accurate it is, and what it costs.

    python benchmarks/kinks.py                    # everything: half an hour
    python benchmarks/kinks.py --parts accuracy   # a part of it

`accuracy`: on three small problems with slides, the error against the tolerance, and the distance of flows with rounded
kinks (`nf.flow.Smoothed`) against β. `horizons`: the cost of the ReLU problem of `solvers.py` up to later and later
times. `sizes`: the cost to t = 1 against the number of kinks, samples times units. `digits`: a network on all
handwritten digits. Each cost is that of a fresh pinned process. Peers are in `solvers.py --problems relu`.

Every result is kept in one JSON file in `--out` and not measured again; delete that file to begin afresh.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from kinks_figure import draw
from machine import describe_machine
from solver_problems import DIGITS, flat, two_layer_name
from solver_results import Results
from solvers import COMPILE_LIMIT, HERE, run_worker

import nfa_flow as nf

RTOLS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
REFERENCE_RTOL = 1e-12
BETAS = (1e2, 1e3, 1e4, 1e5, 1e6)
SMOOTHED_RTOL = 1e-8
HORIZONS = (1.0, 10.0, 100.0, 1000.0, 2000.0)
SIZES = ((10, 100), (20, 200), (32, 500), (64, 1000), (100, 2000))  # widths and samples
COST_RTOL = 1e-6


class Sliding(NamedTuple):
    """A small flow that slides along kinks."""

    widths: list[int]
    samples: int
    activation: str
    weight_decay: float
    seed: int
    t1: float

    @property
    def title(self) -> str:
        """What tables and figures call it."""
        decay = f", λ = {self.weight_decay:g}" if self.weight_decay else ""
        return f"{self.activation} {'-'.join(map(str, self.widths))}, n = {self.samples}{decay}, T = {self.t1:g}"

    def flow(self, solver, rtol: float) -> nf.Trajectory:
        """The flow by this solver."""
        key = jax.random.key(self.seed)
        data = nf.data.multi_index(self.samples, self.widths[0], rank=2, key=key, noise=0.1)
        net = nf.nets.MLP(self.widths, key=key, activation=self.activation)
        tolerances = {"rtol": rtol, "atol": rtol / 100, "max_steps": 10**9}
        options = {"weight_decay": self.weight_decay, "save_at": [self.t1], "progress": False}
        return nf.gradient_flow(net, data, self.t1, solver=solver, **tolerances, **options)


SLIDING = [
    Sliding([3, 4, 1], 12, "relu", 0.0, 2, 6.0),
    Sliding([4, 8, 8, 1], 16, "relu", 0.02, 2, 4.0),
    Sliding([3, 6, 1], 12, "abs", 0.02, 1, 6.0),
]


def main() -> None:
    """Read the command line, measure what is missing, print the tables and draw the figure."""
    arguments = _arguments()
    jax.config.update("jax_platforms", "cpu")  # this process only directs, and measures no time
    jax.config.update("jax_enable_x64", True)
    device, _ = run_worker({"what": "device"}, COMPILE_LIMIT)
    name = "cpu" if device["platform"] == "cpu" else device["kind"].lower().replace(" ", "-")
    results = Results(arguments.out / f"kinks-{name}.json", ("accuracy", "costs"))
    results.all["machine"] = describe_machine(device, ("jax", "diffrax", "nfa_flow"))
    for part in arguments.parts:
        PARTS[part](results, arguments.limit)
    print(f"{results.path}\n{draw(results.all, results.path.with_suffix('.png'))}")


def measure_accuracy(results: Results, limit: float) -> None:
    """Errors against tolerances, and distances of flows with rounded kinks, with the slopes of both."""
    for problem in SLIDING:
        entry = results.all["accuracy"].get(problem.title)
        if entry is None:
            entry = _accuracy(problem)
            results.put("accuracy", problem.title, entry | {"revision": results.all["machine"]["revision"]})
        print(f"\n{problem.title}: {entry['crossings']} crossings, {entry['slides']} slides")
        for name, parameter, power in (("exact", "rtol", 1), ("rounded", "beta", -1)):
            cells = entry[name]
            slope = np.polyfit(*(np.log([cell[what] for cell in cells]) for what in (parameter, "error")), 1)[0]
            print(f"  {name}: error ∝ {parameter}^{slope:.2f} (expected: {power})")
            for cell in cells:
                print(f"    {parameter} {cell[parameter]:<8g} error {cell['error']:.1e}  {cell['gradients']} gradients")


def _accuracy(problem: Sliding) -> dict:
    exact = problem.flow(nf.flow.Piecewise(), REFERENCE_RTOL)
    reference = flat(exact.net)

    def cell(run: nf.Trajectory) -> dict:
        error = float(np.linalg.norm(flat(run.net) - reference) / np.linalg.norm(reference))
        counts = (run.stats[name] for name in ("gradient_evaluations", "hessian_vector_products"))
        return {"error": error, "gradients": int(sum(counts))}

    return {
        "crossings": int(exact.stats["crossings"]),
        "slides": int(exact.stats["slides"]),
        "exact": [{"rtol": rtol} | cell(problem.flow(nf.flow.Piecewise(), rtol)) for rtol in RTOLS],
        "rounded": [{"beta": beta} | cell(problem.flow(nf.flow.Smoothed(beta=beta), SMOOTHED_RTOL)) for beta in BETAS],
    }


def measure_horizons(results: Results, limit: float) -> None:
    """The cost up to later and later times."""
    for t1 in HORIZONS:
        measure_cost(results, "relu", t1, limit)


def measure_sizes(results: Results, limit: float) -> None:
    """The cost for networks and data of growing size."""
    for width, samples in SIZES:
        measure_cost(results, two_layer_name(width, samples), 1.0, limit, kinks=width * samples)


def measure_digits(results: Results, limit: float) -> None:
    """The cost for real data."""
    measure_cost(results, DIGITS, 10.0, limit)


def measure_cost(results: Results, problem: str, t1: float, limit: float, **known: int) -> None:
    """What `Piecewise` spends on a problem of `solver_problems`, unless it has been measured."""
    key = f"{problem}, T = {t1:g}"
    cost = results.all["costs"].get(key)
    if cost is None or (cost["status"] != "completed" and cost["limit"] < limit):
        task = {"what": "cost", "problem": problem, "method": "Piecewise", "rtol": COST_RTOL, "t1": t1}
        measured, _ = run_worker(task | {"sharpness": 0.0}, limit)
        cost = task | known | {"limit": limit} | measured | {"revision": results.all["machine"]["revision"]}
        results.put("costs", key, cost)
    words = f"{cost['status']} {cost.get('reason', '')}"
    if cost["status"] == "completed":
        work, each = cost["gradients"] + cost["products"], cost["seconds"] / cost["events"]
        words = (
            f"{cost['events']} events, {work} gradients and products, {cost['seconds']:.3g} s, "
            f"{1e3 * each:.2g} ms for an event, as {each / cost['gradient_seconds']:.0f} gradients"
        )
    print(f"{key:38} {words}", flush=True)


PARTS: dict[str, Callable[[Results, float], None]] = {
    "accuracy": measure_accuracy,
    "horizons": measure_horizons,
    "sizes": measure_sizes,
    "digits": measure_digits,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for one timed run")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
