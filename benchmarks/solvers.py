"""Work and precision of gradient-flow solvers: ours beside every public peer, each cell in a fresh pinned process.

    python benchmarks/solvers.py --quick      # minutes
    python benchmarks/solvers.py --scaling    # cost against the horizon and against the number of parameters
    python benchmarks/solvers.py              # everything: hours; go on after a kill with the same command

Every result is kept in one JSON file in `--out` and not measured again; delete that file to begin afresh.
"""

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
from machine import describe_machine
from solver_figure import draw_scaling, draw_work_precision
from solver_peers import METHODS
from solver_problems import PROBLEMS, fingerprint, flat, make, wide_name
from solver_results import Results, cell_key, reference_key, summary

import nfa_flow as nf

HERE = Path(__file__).parent
COMPILE_LIMIT = 900.0  # seconds, for starting and compiling a cell
# The first pair of methods of which both finish gives the reference (its first) and how far to trust it (the other).
REFERENCES = [(("Dopri8", 1e-12), ("Dopri8", 1e-11)), (("CVODE", 1e-12), ("NDF", 1e-12))]
REFERENCES_ACROSS_KINKS = [(("Piecewise", 1e-10), ("Piecewise", 1e-9))]  # which `kinks.py` compares with rounded kinks
QUICK_METHODS = ["NDF", "TSRKC3", "Tsit5", "Dopri8", "torchdiffeq", "CVODE", "RK4"]
HORIZONS_OF_SCALING = (1e2, 1e3, 1e4, 1e5, 1e6)
WIDTHS_OF_SCALING = (27, 95, 311, 995)  # P = 1e3, 1e4, 1e5, 1e6


def main() -> None:
    """Read the command line, measure what is missing, print the table and draw the figures."""
    arguments = _arguments()
    jax.config.update("jax_platforms", "cpu")  # this process only directs: the device belongs to the workers
    jax.config.update("jax_enable_x64", True)
    device, _ = run_worker({"what": "device"}, COMPILE_LIMIT)
    name = "cpu" if device["platform"] == "cpu" else device["kind"].lower().replace(" ", "-")
    stem = arguments.out / f"solvers-{name}"
    results = Results(stem.with_suffix(".json"))
    results.all["machine"] = describe_machine(
        device, ("jax", "diffrax", "nfa_flow", "torch", "torchdiffeq", "scikit-sundae")
    )
    if arguments.scaling:
        measure_scaling(results, arguments.limit)
        paths = draw_scaling(results, stem)
    else:
        absent = [method for method in arguments.methods if not _available(method)]
        if absent:
            print(f"Not installed, skipped: {', '.join(absent)}")
        measure(results, arguments, [method for method in arguments.methods if method not in absent])
        explicit = [name for name, method in METHODS.items() if method.kind == "explicit"]
        print(f"\n{summary(results, arguments.horizons, explicit)}\n")
        paths = draw_work_precision(results, arguments.horizons, stem)
    print("\n".join(str(path) for path in (results.path, *paths)))


def measure(results: Results, arguments: argparse.Namespace, methods: list[str]) -> None:
    """Run every cell that is not there yet, each problem and horizon after its reference solution."""
    cells = {
        problem: [
            (method, rtol)
            for method in methods
            if PROBLEMS[problem].has_kinks or not METHODS[method].for_kinks
            for rtol in arguments.rtols or METHODS[method].rtols[:: 3 if arguments.quick else 1]
        ]
        for problem in arguments.horizons
    }
    left = sum(len(horizons) * len(cells[problem]) for problem, horizons in arguments.horizons.items())
    walls: list[float] = []
    for problem, horizons in arguments.horizons.items():
        describe(results, problem, max(horizons), arguments.reference_limit)
        for t1 in horizons:
            reference = reference_solution(results, problem, t1, arguments.reference_limit, arguments.out)
            for method, rtol in cells[problem]:
                key, began = cell_key(problem, t1, method, rtol), time.perf_counter()
                cell = results.all["cells"].get(key)
                if cell is None or _is_stale(cell, reference, arguments.limit):
                    cell = measure_cell(results, problem, t1, method, rtol, arguments.limit, reference)
                    results.put("cells", key, cell)
                    walls.append(time.perf_counter() - began)
                left -= 1
                minutes = left * float(np.mean(walls or [0.0])) / 60
                print(f"{problem:8} T = {t1:<6g} {method:11} {_line(cell)}  about {minutes:.0f} min left", flush=True)


def measure_cell(results, problem, t1, method, rtol, limit, reference) -> dict:
    """One method at one tolerance, its error against the reference."""
    cell = {"problem": problem, "t1": t1, "method": method, "rtol": rtol, "limit": limit, "error": None}
    slower = results.already_too_slow(problem, t1, method, rtol, limit)
    if slower is not None:
        because = f"as at T = {slower['t1']:g}"
        return cell | {"status": "timed out", "because": because}
    task = {"what": "solve", "problem": problem, "method": method, "rtol": rtol, "t1": t1}
    description = results.all["problems"][problem]
    until_t1 = [s for t, s in zip(description["times"], description["sharpness"], strict=False) if t <= t1]
    task["sharpness"] = max(until_t1, default=math.nan)
    measured, parameters = run_worker(task, limit, cpu_only=METHODS[method].cpu_only)
    if reference is not None and parameters.size:
        cell["error"] = float(np.linalg.norm(parameters - reference) / np.linalg.norm(reference))
    return cell | measured | {"revision": results.all["machine"]["revision"]}


def describe(results: Results, problem: str, until: float, limit: float) -> None:
    """Size and sharpness of a problem along its flow, unless they are known as far as this."""
    mark = fingerprint(problem)
    known = results.problem(problem, mark)
    if known is not None and known["sharpness"] and known["times"][-1] >= until:
        return
    times = [0.0, *nf.log_times(0.1, 100.0, 10), *(nf.log_times(100.0, until, 11)[1:] if until > 100 else ())]
    times = [time for time in times if time < until] + [until]
    measured, _ = run_worker({"what": "sharpness", "problem": problem, "t1": until, "times": times}, limit)
    sharpness = measured.get("sharpness", [])
    words = "of unknown sharpness: its flow could not be followed in time"
    if sharpness:
        words = f"λ_max {sharpness[0]:.1f} at the start, {max(sharpness):.1f} at most, {sharpness[-1]:.1f} at the end"
    net, data = make(problem)
    size = {"P": flat(net).size, "n": data.samples}
    print(f"{problem:8} {size['P']} parameters, {size['n']} samples, {words}", flush=True)
    results.put("problems", problem, {"fingerprint": mark, "times": times, "sharpness": sharpness} | size)


def reference_solution(results: Results, problem: str, t1: float, limit: float, out: Path) -> np.ndarray | None:
    """The parameters at t1 from a solution far more accurate than any cell; None where nothing finished in time."""
    key, mark = reference_key(problem, t1), results.all["problems"][problem]["fingerprint"]
    path = out / "references" / f"{problem}-{mark}-{t1:g}.npy"
    known = results.all["references"].get(key)
    if known is not None and path.exists():
        return np.load(path)
    if known is not None and known["uncertainty"] is None and known["limit"] >= limit:
        return None
    entry: dict = {"problem": problem, "t1": t1, "limit": limit, "uncertainty": None, "tried": []}
    for pair in REFERENCES_ACROSS_KINKS if PROBLEMS[problem].has_kinks else REFERENCES:
        solutions = []
        for method, rtol in pair:
            if not _available(method) or results.already_too_slow(problem, t1, method, rtol, limit):
                break
            task = {"what": "solve", "problem": problem, "method": method, "rtol": rtol, "t1": t1, "sharpness": 0.0}
            measured, parameters = run_worker(task, limit, cpu_only=METHODS[method].cpu_only)
            tried = {"problem": problem, "t1": t1, "method": method, "rtol": rtol, "limit": limit}
            entry["tried"].append(tried | measured)
            print(f"{problem:8} T = {t1:<6g} {method:11} {_line(measured | {'rtol': rtol})}  (reference)", flush=True)
            if measured["status"] != "completed":
                break
            solutions.append(parameters)
        if len(solutions) == 2:
            first, other = solutions
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, first)
            entry["uncertainty"] = float(np.linalg.norm(first - other) / np.linalg.norm(first))
            break
    results.put("references", key, entry)
    return np.load(path) if path.exists() else None


def measure_scaling(results: Results, limit: float) -> None:
    """The cost of NDF against the horizon (tanh problem, rtol 1e-6) and against P (wider networks, rtol 1e-4)."""
    tasks = [{"what": "solve", "problem": "tanh", "rtol": 1e-6, "t1": t1} for t1 in HORIZONS_OF_SCALING]
    for width in WIDTHS_OF_SCALING:
        wide = {"problem": wide_name(width), "rtol": 1e-4, "t1": 1e2}
        tasks += [{"what": "memory"} | wide, {"what": "solve"} | wide]
    for task in tasks:
        task = task | {"method": "NDF", "sharpness": 0.0}
        key = f"{task['what']}, {cell_key(task['problem'], task['t1'], task['method'], task['rtol'])}"
        known = results.all["scaling"].get(key)
        if known is None or known["status"] != "completed":
            known = task | run_worker(task, limit)[0]
            results.put("scaling", key, known)
        work = f"{known['vectors']:.1f} vectors of memory" if "vectors" in known else _line(known)
        print(f"{task['problem']:18} T = {task['t1']:<8g} {work}", flush=True)


def run_worker(task: dict, limit: float, *, cpu_only: bool = False) -> tuple[dict, np.ndarray]:
    """What a fresh process measures for a task, with its `status`, and the parameters where it ended.

    The limit counts from when everything is compiled.
    """
    one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    environment = os.environ | one_thread | {"XLA_FLAGS": flags} | ({"JAX_PLATFORMS": "cpu"} if cpu_only else {})
    with tempfile.TemporaryDirectory() as folder:
        question, answer, complaints = (Path(folder) / name for name in ("task.json", "result.npz", "stderr.txt"))
        question.write_text(json.dumps(task))
        command = [sys.executable, str(HERE / "solver_worker.py"), str(question), str(answer)]
        with open(complaints, "w") as stderr:
            worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=environment)
        try:
            assert worker.stdout is not None
            deadline = threading.Timer(COMPILE_LIMIT, worker.kill)
            deadline.start()
            compiled = bool(worker.stdout.readline())
            deadline.cancel()
            worker.wait(limit if compiled else None)
        except subprocess.TimeoutExpired:
            return {"status": "timed out", "limit": limit}, np.zeros(0)
        finally:
            worker.kill()
            worker.wait()
        if worker.returncode != 0:
            last = complaints.read_text().strip().splitlines()[-1:]
            reason = last[0] if last else f"ended by signal {-worker.returncode}"
            return {"status": "failed", "reason": reason[:300]}, np.zeros(0)
        with np.load(answer) as file:
            return {"status": "completed"} | json.loads(str(file["measured"])), file["parameters"]


def _is_stale(cell: dict, reference: np.ndarray | None, limit: float) -> bool:
    """Whether to measure again: there was less time then, or no reference."""
    if cell["status"] == "completed":
        return cell["error"] is None and reference is not None
    return cell["status"] == "failed" or cell["limit"] < limit


def _line(cell: dict) -> str:
    rtol = f"rtol {cell['rtol']:<6g}" if cell["rtol"] else "           "
    if cell["status"] != "completed":
        reason = cell.get("because") or cell.get("reason") or f"after {cell['limit']:g} s"
        return f"{rtol} {cell['status']}: {reason}"
    error = f"  error {cell['error']:.1e}" if cell.get("error") else ""
    work = f"{cell['gradients']} gradients" if cell["gradients"] is not None else "? gradients"
    products = f" + {cell['products']} products" if cell["products"] else ""
    return f"{rtol}{error}  {work}{products}  {cell['seconds']:.3g} s (compiled in {cell['compile_seconds']:.1f} s)"


def _available(method: str) -> bool:
    return all(importlib.util.find_spec(package) for package in METHODS[method].needs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the tanh problem to T = 1e3 at a third of the tolerances")
    parser.add_argument("--scaling", action="store_true", help="only the cost against the horizon and against P")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, help="default: all")
    parser.add_argument("--horizons", nargs="+", type=float, help="default: those of each problem")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default: all, with --quick the main ones")
    parser.add_argument("--rtols", nargs="+", type=float, help="default: those of each method")
    parser.add_argument("--limit", type=float, help="seconds for one timed run (default: 120, with --quick 20)")
    parser.add_argument("--reference-limit", type=float, default=600.0, help="seconds for a reference solution")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    arguments = parser.parse_args()
    arguments.methods = arguments.methods or (QUICK_METHODS if arguments.quick else list(METHODS))
    problems = arguments.problems or (["tanh"] if arguments.quick else list(PROBLEMS))
    given = arguments.horizons or ([1e2, 1e3] if arguments.quick else None)
    arguments.horizons = {problem: sorted(given or PROBLEMS[problem].horizons) for problem in problems}
    arguments.limit = arguments.limit or (20.0 if arguments.quick else 120.0)
    return arguments


if __name__ == "__main__":
    main()
